"""`python -m recsys.sweep SERVER_URL PROGRAM COMMAND …`: end what a killed predecessor left behind, then run COMMAND.

Airflow's and MLflow's processes have children; when a parent is killed they stay, hold its port, and its successor
cannot start. supervisord tells every process which program of which supervisor it belongs to through its
environment, and children inherit that, so they can be found without doubt.
"""

import os
import sys
from collections.abc import Sequence

import psutil


def leftovers(server_url: str, program: str | None = None) -> list[psutil.Process]:
    """Processes started, however indirectly, by the supervisor at `server_url`, other than the caller.

    Args:
        program: only those of this program; None for all.
    """
    wanted = {"SUPERVISOR_SERVER_URL": server_url}
    if program is not None:
        wanted["SUPERVISOR_PROCESS_NAME"] = program
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and wanted.items() <= process.environ().items():
                found.append(process)
        except (psutil.Error, OSError):  # gone since, or somebody else's
            continue
    return found


def end(processes: Sequence[psutil.Process], seconds: float = 5) -> None:
    """Terminate processes, and kill those that are still there after some seconds."""
    for process in processes:
        _signal(process, "terminate")
    _, stubborn = psutil.wait_procs(processes, timeout=seconds)
    for process in stubborn:
        _signal(process, "kill")
    psutil.wait_procs(stubborn, timeout=seconds)


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.Error:
        return  # it has ended by itself


def main(arguments: Sequence[str]) -> None:
    server_url, program, *command = arguments
    end(leftovers(server_url, program))
    os.execvp(command[0], command)  # noqa: S606  the command is our own configuration's


if __name__ == "__main__":
    main(sys.argv[1:])
