"""The two kinds of failure, and the exit code by which a scheduler tells them apart.

A `Retryable` error goes away by itself (a server that restarts); a `Permanent` one stays until a person
changes the data, the code or the configuration. Airflow retries the first kind only.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of a stage; 64 to 78 are those of sysexits.h."""

    OK = 0
    USAGE = 64
    BAD_DATA = 65
    RETRY = 75
    CONFIG = 78
    SKIP = 99


class RecsysError(Exception):
    """Base of all errors that name their value and their remedy; `exit_code` is what the process ends with."""

    exit_code: Exit = Exit.RETRY


class Retryable(RecsysError):
    """A dependency is away or overloaded; the same call may succeed later."""


class NothingToDo(RecsysError):
    """There is nothing new; a scheduler skips what would follow."""

    exit_code = Exit.SKIP


class Permanent(RecsysError):
    """The same call will fail again until somebody changes something."""

    exit_code = Exit.CONFIG


class BadData(Permanent):
    """The input data are not what their schema or their expectations say."""

    exit_code = Exit.BAD_DATA


class UsageError(Permanent):
    """The call itself is wrong: an unknown stage, dataset, user or option."""

    exit_code = Exit.USAGE
