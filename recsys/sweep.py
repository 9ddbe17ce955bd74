"""Find and end processes that a killed parent left behind.

Airflow's and MLflow's processes have children; when a parent is killed they stay, hold its port, and its successor
cannot start. What cannot be lost by a crash is the session and the group that the kernel keeps per process: all
processes of one supervisor are in its session, and each program begins a group. (Environment variables would not do:
programs that set their title, Redis among them, overwrite them.)

`python -m recsys.sweep GROUP_FILE COMMAND …` ends the group that an earlier run of the same program noted in
GROUP_FILE, notes its own, and becomes COMMAND.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def session(leader: int) -> list[psutil.Process]:
    """All processes of a session, other than the caller."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _session(process) == leader]


def group(leader: int, within: int) -> list[psutil.Process]:
    """The processes of a group in one session, and their children, which may have begun groups of their own."""
    found: dict[int, psutil.Process] = {}
    for process in session(within):
        try:
            if os.getpgid(process.pid) == leader:
                found |= {member.pid: member for member in (process, *process.children(recursive=True))}
        except (psutil.Error, OSError):  # gone since
            continue
    return [process for pid, process in found.items() if pid != os.getpid()]


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended; one that has, and whose parent has not noticed, counts as ended."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def end(processes: Sequence[psutil.Process], seconds: float = 5) -> None:
    """Terminate processes, and kill those that are still there after some seconds."""
    for process in processes:
        _signal(process, "terminate")
    _, stubborn = psutil.wait_procs(processes, timeout=seconds)
    for process in stubborn:
        _signal(process, "kill")
    psutil.wait_procs(stubborn, timeout=seconds)


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return -1


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.Error:
        return  # it has ended by itself


def main(arguments: Sequence[str]) -> None:
    file, *command = arguments
    note = Path(file)
    if note.exists() and (text := note.read_text()).isdecimal():
        end(group(int(text), os.getsid(0)))
    note.write_text(str(os.getpgrp()))
    os.execvp(command[0], command)  # noqa: S606  the command is our own configuration's


if __name__ == "__main__":
    main(sys.argv[1:])
