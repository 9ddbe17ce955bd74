"""Feast's run-time type checks, which we do without."""

from typing import Any

import typeguard


def skip() -> None:
    """Let `typeguard.typechecked` leave what it decorates as it is; call it before Feast is imported.

    Feast decorates its classes with it, which compiles them anew at each import: five of seven seconds, in every
    process that has Feast or the client of MLflow, where Feast is a plugin.
    """
    typeguard.typechecked = _as_it_is


def _as_it_is(target: Any = None, **_: Any) -> Any:
    return _as_it_is if target is None else target
