"""`python -m simulator --out DIR`"""

import json
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from recsys import settings as configuration
from recsys.errors import RecsysError, UsageError
from simulator import canonical
from simulator.world import Plan

FIELDS = Plan.model_fields
app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="folder to write; replaced if it holds a simulated shop already")],
    users: Annotated[int, typer.Option(help=str(FIELDS["users"].description))] = FIELDS["users"].default,
    items: Annotated[int, typer.Option(help=str(FIELDS["items"].description))] = FIELDS["items"].default,
    events: Annotated[int, typer.Option(help=str(FIELDS["events"].description))] = FIELDS["events"].default,
    days: Annotated[int, typer.Option(help=str(FIELDS["days"].description))] = FIELDS["days"].default,
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help=str(FIELDS["start"].description))] = datetime(
        2026, 1, 5
    ),
    seed: Annotated[
        int | None, typer.Option(help="same seed, same shop, byte for byte; default: settings.seed")
    ] = None,
) -> None:
    """Make a shop whose shoppers have known true preferences, as canonical parquet.

    Shoppers like leaf categories and styles (a point in a 16-dimensional space of taste that drifts), mind prices,
    look at the first slots more than at the last, come by weekday and hour of their region, and stay anonymous in
    every fifth visit. Items arrive daily; demand follows Zipf, season and fashion. Some users are bots.

    `DIR/events`, `DIR/items`, `DIR/users` hold what a platform may see; `DIR/truth` what only the simulator knows.

    **A first shop:** `python -m simulator --out var/current/sources/simulator`

    **A small one:** `python -m simulator --out /tmp/shop --users 300 --items 200 --events 15000 --days 12`

    **Use it:** `python -m pipelines ingest --source canonical:/tmp/shop --day 2026-01-16 --run first`
    """
    try:
        plan = Plan(
            users=users,
            items=items,
            events=events,
            days=days,
            start=_date(start),
            seed=configuration.load().seed if seed is None else seed,
        )
        meta = _write(plan, out)
    except ValidationError as error:
        problems = "; ".join(f"--{e['loc'][0]}: {e['msg']}" for e in error.errors())
        _fail(UsageError(problems))
    except RecsysError as error:
        _fail(error)
    else:
        sys.stdout.write(json.dumps({"out": str(out), **meta}) + "\n")


def _write(plan: Plan, out: Path) -> dict[str, object]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("simulating", total=plan.days)

        def progress(done: int, events: int) -> None:
            bar.update(task, completed=done, description=f"{plan.day(done - 1)} · {events:,} events")

        return canonical.write(plan, out, progress)


def _date(moment: datetime) -> date:
    return moment.date()


def _fail(error: RecsysError) -> None:
    sys.stderr.write(f"{error}\n")
    raise typer.Exit(error.exit_code)


if __name__ == "__main__":
    app()
