"""`recsys`: run the platform, its pipelines and its releases from a terminal.

Every command takes `--json` where it answers something, and ends with an exit code that says what happened:
0 done, 1 refused by a gate or unhealthy, 64 wrong call, 65 bad data, 75 try again, 78 configuration.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from recsys import airflow, client, tour
from recsys import settings as configuration
from recsys.errors import RecsysError, UsageError
from recsys.settings import Settings

# Spark, TensorFlow and MLflow take seconds to import: commands that need them import them when they run.

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=__doc__, pretty_exceptions_enable=False)
release_app = typer.Typer(no_args_is_help=True, help="What serves, what served, and the way back.")
data_app = typer.Typer(no_args_is_help=True, help="Look at a source before it is used; make a simulated shop.")
app.add_typer(release_app, name="release")
app.add_typer(data_app, name="data")

console = Console()
errors = Console(stderr=True)
AsJson = Annotated[bool, typer.Option("--json", help="answer as one JSON document")]
REFUSED = 1
ICONS = {"success": "[green]✔[/]", "failed": "[red]✘[/]", "running": "[cyan]▶[/]", "skipped": "[dim]–[/]"}
ICONS |= {"up_for_retry": "[yellow]↻[/]", "upstream_failed": "[red]·[/]", "deferred": "[yellow]?[/]"}


def main() -> None:
    """The process edge: domain errors become one sentence and their exit code."""
    try:
        app()
    except RecsysError as error:
        errors.print(f"[red]{type(error).__name__}[/]: {error}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)


@app.command()
def up() -> None:
    """Start the local platform: Redis, MLflow, Airflow, the API and the predictors of the live release.

    What runs already is left alone, so the command can be repeated.
    """
    from recsys import local

    settings = configuration.load()
    with console.status("starting") as status:
        local.up(settings, lambda line: status.update(line))
    _show_services(settings)


@app.command()
def down() -> None:
    """Stop every process of the local platform; nothing stored is lost."""
    from recsys import local

    with console.status("stopping"):
        local.down(configuration.load())
    console.print("stopped")


@app.command()
def status(as_json: AsJson = False) -> None:
    """What runs, where, and whether it is healthy; exit code 1 if something is not."""
    from recsys import local

    settings = configuration.load()
    services = local.status(settings)
    if as_json:
        _print_json([asdict(service) for service in services])
    else:
        _show_services(settings)
    if not all(service.healthy for service in services if service.expected):
        raise typer.Exit(REFUSED)


@app.command()
def use(name: Annotated[str, typer.Argument(help="name of the workspace, such as simulator or online_retail")]) -> None:
    """Choose the workspace: each shop has its data, models and releases in a folder of its own, var/NAME.

    A platform that runs on another workspace is stopped first; nothing stored is lost.
    """
    from recsys import local

    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,40}", name) or name == "current":
        raise UsageError(f"a workspace is named with a-z, 0-9, _ and -, got {name!r}")
    settings = configuration.load()
    chosen, current = configuration.WORKSPACES / name, configuration.current_workspace()
    if Path(settings.storage.root) != current:
        raise UsageError("RECSYS_STORAGE__ROOT is set, and says where everything is; unset it to use workspaces")
    if chosen == current and chosen.exists():
        return
    local.down(settings)
    configuration.choose_workspace(name)
    console.print(f"workspace {chosen}")


@app.command()
def run(
    dag: Annotated[str, typer.Argument(help="daily, intraday or trending")],
    source: Annotated[str, typer.Option(help="NAME or NAME:PATH, as `recsys data describe` takes it")] = "",
    day: Annotated[str, typer.Option(help="last day of data, YYYY-MM-DD; empty: the last day of the source")] = "",
    param: Annotated[list[str], typer.Option(help="further parameter of the DAG, name=value; repeatable")] = [],  # noqa: B006
    wait: Annotated[bool, typer.Option(help="follow the run until it ends")] = True,
    as_json: AsJson = False,
) -> None:
    """Trigger a DAG in Airflow and follow its tasks.

    Ends with 0 when every gate passed, 1 when a gate refused or a task failed. Example:

        recsys run daily --source movielens:data/ml-100k --param epochs=3
    """
    settings = configuration.load()
    conf = _parameters(param)
    if source:
        conf["source"] = _prepared(settings, source)
        conf["day"] = day or str(_last_day(settings, conf["source"]))
    elif day:
        conf["day"] = day
    server = airflow.Client(settings)
    run_id = server.trigger(dag, conf)
    if not wait:
        _answer({"dag_id": dag, "run_id": run_id, "url": _run_url(settings, dag, run_id)}, as_json)
        return
    finished = _follow(server, dag, run_id, quiet=as_json)
    if as_json:
        _print_json(asdict(finished))
    else:
        _conclude(server, settings, finished)
    if finished.state != "success" or any(
        t.task_id.endswith("_refused") and t.state == "success" for t in finished.tasks
    ):
        raise typer.Exit(REFUSED)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def stage(context: typer.Context, name: Annotated[str, typer.Argument(help="the stage")] = "--help") -> None:
    """Run one pipeline stage here, outside Airflow; `recsys stage NAME --help` lists its options."""
    command = [sys.executable, "-m", "pipelines", name, *context.args]
    env = configuration.child_environment(configuration.load())
    raise typer.Exit(subprocess.run(command, env=env, check=False).returncode)


@app.command()
def recommend(
    user: Annotated[str, typer.Option(help="user id; empty for a visitor who is not logged in")] = "",
    session: Annotated[str, typer.Option(help="session id of an anonymous visitor")] = "",
    surface: Annotated[str, typer.Option(help="home, trending or category")] = "home",
    category: Annotated[str, typer.Option(help="for the surface `category`")] = "",
    region: Annotated[str, typer.Option(help="country of the visitor")] = "",
    count: Annotated[int, typer.Option(help="how many items")] = 10,
    as_json: AsJson = False,
) -> None:
    """Ask the running API what to recommend."""
    query = {"user_id": user, "session_id": session, "surface": surface, "category": category, "region": region}
    _recommendations(query | {"count": count}, as_json)


@app.command()
def similar(
    item: Annotated[str, typer.Option(help="item id")],
    user: Annotated[str, typer.Option(help="user id, to leave out what they have seen")] = "",
    count: Annotated[int, typer.Option(help="how many items")] = 10,
    as_json: AsJson = False,
) -> None:
    """Ask the running API for items like one item."""
    _recommendations({"surface": "similar", "item_id": item, "user_id": user, "count": count}, as_json)


@app.command(name="tour")
def tour_() -> None:
    """Show what a known user, a new user and an anonymous session get, and where to look next."""
    tour.show(configuration.load(), console)


@release_app.command()
def show(as_json: AsJson = False) -> None:
    """The release that serves."""
    from models import release

    settings = configuration.load()
    live = release.Releases(Path(settings.storage.root)).live()
    if live is None:
        raise UsageError("nothing is live yet; `recsys run daily` brings a release live")
    _answer(asdict(live), as_json)


@release_app.command()
def history(as_json: AsJson = False) -> None:
    """Every switch, newest first: what went live when, where, and why."""
    from models import release

    settings = configuration.load()
    records = release.Releases(Path(settings.storage.root)).history()[::-1]
    if as_json:
        _print_json([asdict(record) for record in records])
        return
    view = Table("released at", "release", "colour", "data until", "previous", "reason", box=None, pad_edge=False)
    for record in records:
        row = (record.released_at[:19], record.release_id, record.colour, record.as_of[:10], record.previous or "")
        view.add_row(*row, record.reason)
    console.print(view)


@release_app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="why, for the history")] = "by hand", as_json: AsJson = False
) -> None:
    """Bring towers, index and ranker of the previous release back, together, in one switch."""
    from pipelines import deploy

    _answer(asdict(deploy.rollback(configuration.load(), reason)), as_json)


@data_app.command()
def describe(source: Annotated[str, typer.Argument(help="NAME:PATH")], as_json: AsJson = False) -> None:
    """Rows, users, items, days and event types of a source, and what its adapter drops and why.

    Sources: simulator, online_retail:PATH, movielens:PATH, retailrocket:PATH, canonical:PATH.
    """
    from pipelines import sources

    settings = configuration.load()
    with errors.status(f"reading {source}"):
        found = sources.describe(_prepared(settings, source), settings)
    _answer(found, as_json)


@data_app.command()
def simulate(
    users: Annotated[int, typer.Option(help="shoppers")] = 20_000,
    items: Annotated[int, typer.Option(help="products")] = 5_000,
    events: Annotated[int, typer.Option(help="events, impressions included")] = 1_000_000,
    days: Annotated[int, typer.Option(help="days of history")] = 60,
) -> None:
    """Make a simulated shop, deterministic under the seed, as the source `simulator`."""
    _simulate(configuration.load(), ["--users", users, "--items", items, "--events", events, "--days", days])


def _simulate(settings: Settings, options: list[Any]) -> None:
    out = Path(settings.storage.root) / "sources" / "simulator"
    command = [sys.executable, "-m", "simulator", "--out", out, "--seed", settings.seed, *options]
    env = configuration.child_environment(settings)
    done = subprocess.run([str(part) for part in command], env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UsageError(f"the simulator ended with exit code {done.returncode}; its last lines say why")
    made = json.loads(done.stdout)
    errors.print(f"simulated shop: {made['events']:,} events in {out}", highlight=False)


def _prepared(settings: Settings, source: str) -> str:
    """The source with an absolute path; the simulated shop is made first where there is none."""
    name, _, path = source.partition(":")
    if name == "simulator" and not (Path(settings.storage.root) / "sources" / "simulator" / "meta.json").exists():
        _simulate(settings, [])
    return f"{name}:{Path(path).expanduser().resolve()}" if path else source


def _last_day(settings: Settings, source: str) -> date:
    from pipelines import sources

    return sources.last_day(source, settings)


def _parameters(pairs: list[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--param wants name=value, got {pair!r}")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def _follow(server: airflow.Client, dag: str, run_id: str, *, quiet: bool) -> airflow.Run:
    latest = None
    with Live(console=errors if quiet else console, refresh_per_second=2, transient=True) as live:
        for latest in server.watch(dag, run_id):
            live.update(_progress(latest))
    assert latest is not None
    return latest


def _progress(run: airflow.Run) -> Table:
    view = Table(box=None, pad_edge=False, title=f"{run.dag_id} {run.state}", title_justify="left")
    view.add_column("")
    view.add_column("task")
    view.add_column("state")
    view.add_column("seconds", justify="right")
    for task in run.tasks:
        seconds = f"{task.seconds:.0f}" if task.seconds is not None else ""
        view.add_row(ICONS.get(task.state, "[dim]·[/]"), task.task_id, task.state.replace("none", "waiting"), seconds)
    return view


def _conclude(server: airflow.Client, settings: Settings, run: airflow.Run) -> None:
    console.print(_progress(run))
    if run.note:
        console.print(run.note, highlight=False)
    for task in run.tasks:
        if task.state == "failed":
            console.print(f"\n[red]{task.task_id}[/] failed; its last lines:")
            console.print("\n".join(server.log_tail(run, task.task_id)), markup=False, highlight=False)
    console.print(_run_url(settings, run.dag_id, run.run_id))


def _run_url(settings: Settings, dag: str, run_id: str) -> str:
    return f"{settings.airflow_url}/dags/{dag}/runs/{run_id}"


def _recommendations(query: Mapping[str, Any], as_json: bool) -> None:
    settings = configuration.load()
    answer = client.get(settings, "/api/v1/recommendations", {k: v for k, v in query.items() if v != ""})
    if as_json:
        _print_json(answer)
    else:
        console.print(tour.table(answer))


def _show_services(settings: Settings) -> None:
    from recsys import local

    view = Table("service", "state", "healthy", "address", "pid", "since", box=None, pad_edge=False)
    for service in local.status(settings):
        healthy = "[green]yes[/]" if service.healthy else "[red]no[/]" if service.expected else "[dim]idle[/]"
        pid, since = str(service.pid or ""), f"{service.seconds:.0f} s" if service.seconds else ""
        view.add_row(service.name, service.state, healthy, service.url, pid, since)
    console.print(view)


def _answer(value: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(value)
        return
    view = Table(box=None, pad_edge=False, show_header=False)
    for name, entry in value.items():
        text = json.dumps(entry, default=str) if isinstance(entry, dict | list) else str(entry)
        view.add_row(f"[bold]{name}[/]", text)
    console.print(view)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, default=str) + "\n")
