"""Follow a DAG run on whatever there is to write to: a table that lives on a terminal, lines in a log.

A log (of CI, or behind a pipe) cannot be redrawn, so it gets one line when a task ends; a person who reads it while
the run goes on sees that it does.
"""

from collections.abc import Iterable

from rich.console import Console
from rich.live import Live
from rich.table import Table

from recsys.airflow import Run, TaskState

ICONS = {"success": "[green]✔[/]", "failed": "[red]✘[/]", "running": "[cyan]▶[/]", "skipped": "[dim]–[/]"}
ICONS |= {"up_for_retry": "[yellow]↻[/]", "upstream_failed": "[red]·[/]", "deferred": "[yellow]?[/]"}
LONG_QUEUED = 3  # looks; every run is queued for a moment
ENDS = ("success", "failed", "skipped", "upstream_failed", "removed", "up_for_retry")  # of a task, or of one try


def follow(runs: Iterable[Run], console: Console) -> Run:
    """Show a run until it has finished, and return its last state.

    Args:
        runs: the same run at several moments, the last one finished; at least one.
        console: where to show it.
    """
    latest = None
    if console.is_terminal:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            for latest in runs:
                live.update(table(latest))
    else:
        before: dict[str, str] = {}
        queued = 0
        for latest in runs:
            queued += latest.state == "queued"
            if queued == LONG_QUEUED:
                console.print(f"{latest.dag_id} is queued: another run of it goes first", markup=False, highlight=False)
            for task in latest.tasks:
                if task.state in ENDS and before.get(task.task_id) != task.state:
                    console.print(line(task), markup=False, highlight=False, soft_wrap=True)
            before = {task.task_id: task.state for task in latest.tasks}
    if latest is None:
        raise ValueError("there is no run to follow; give at least one state of it")
    return latest


def conclude(run: Run, console: Console) -> None:
    """What a run came to: its tasks where they were not told one by one, its state and its note."""
    if console.is_terminal:
        console.print(table(run))
    else:
        console.print(f"{run.dag_id} {run.state}", markup=False, highlight=False)
    if run.note:
        console.print(run.note, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def table(run: Run) -> Table:
    """All tasks of a run at one moment."""
    view = Table(box=None, pad_edge=False, title=f"{run.dag_id} {run.state}", title_justify="left")
    view.add_column("")
    view.add_column("task")
    view.add_column("state")
    view.add_column("seconds", justify="right")
    for task in run.tasks:
        state = task.state.replace("none", "waiting")
        view.add_row(ICONS.get(task.state, "[dim]·[/]"), task.task_id, state, _seconds(task))
    return view


def line(task: TaskState) -> str:
    """One task that has ended, in columns."""
    seconds = f"{_seconds(task)} s" if task.seconds is not None else ""
    return f"{task.task_id:<28} {task.state:<16} {seconds:>8}".rstrip()


def _seconds(task: TaskState) -> str:
    return f"{task.seconds:.0f}" if task.seconds is not None else ""
