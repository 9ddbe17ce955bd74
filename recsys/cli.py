"""`recsys`: run the platform, its pipelines and its releases from a terminal.

Every command takes `--json` where it answers something.
It ends with an exit code that says what happened:
0 done, 1 refused by a gate, unhealthy or replayed otherwise,
64 wrong call, 65 bad data, 75 try again, 78 configuration, 99 nothing to do (of a stage).
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys import airflow, client, progress, tour
from recsys import settings as configuration
from recsys.errors import Exit, RecsysError, UsageError
from recsys.settings import Settings

if TYPE_CHECKING:
    from recsys.local import ServiceStatus

# Spark, TensorFlow and MLflow take seconds to import: commands that need them import them when they run.

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=__doc__, pretty_exceptions_enable=False)
release_app = typer.Typer(no_args_is_help=True, help="What serves, what served, and the way back.")
data_app = typer.Typer(no_args_is_help=True, help="Look at a source, accept a day, make a simulated shop.")
experiments_app = typer.Typer(invoke_without_command=True)
app.add_typer(release_app, name="release")
app.add_typer(data_app, name="data")
app.add_typer(experiments_app, name="experiments")

console = Console()
errors = Console(stderr=True)
AsJson = Annotated[bool, typer.Option("--json", help="answer as one JSON document")]
REFUSED = 1
TYPERS_USAGE = 2


def main() -> None:
    """The process edge: domain errors become one sentence and their exit code."""
    try:
        app()
    except SystemExit as end:  # an unknown command or option, which Typer has explained
        sys.exit(Exit.USAGE if end.code == TYPERS_USAGE else end.code)
    except RecsysError as error:
        errors.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)


@app.command()
def up(as_json: AsJson = False) -> None:
    """Start the local platform: Redis, MLflow, Airflow, the API and the predictors of the live release.

    What runs already is left alone, so the command can be repeated.
    """
    from models import release
    from recsys import local

    settings = configuration.load()
    with errors.status("starting") as status:
        services = local.up(settings, lambda line: status.update(line))
    _show_services(services, as_json)
    if settings.demo_url and not as_json:
        live = release.Releases(Path(settings.storage.root)).live()
        when = "" if live else ", once `recsys run daily` has brought a release live"
        console.print(f"\nA shop to look at{when}: {settings.demo_url}", soft_wrap=True)


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop every process of the local platform; nothing stored is lost."""
    from recsys import local

    with errors.status("stopping"):
        stopped = local.down(configuration.load())
    if as_json:
        _print_json({"stopped": stopped})
    else:
        console.print(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """What runs, where, and whether it is healthy; exit code 1 if something is not."""
    from recsys import local

    settings = configuration.load()
    services = local.status(settings)
    _show_services(services, as_json)
    if count := local.orphans(settings):
        words = f"the supervisor was killed: {count} of its processes serve on, and nobody looks after them; "
        errors.print(f"{words}`recsys up` starts everything anew, in its order", soft_wrap=True, highlight=False)
    if not all(service.healthy for service in services if service.expected):
        raise typer.Exit(REFUSED)


@app.command()
def use(
    name: Annotated[str, typer.Argument(help="name of the workspace, such as simulator or online_retail")],
    as_json: AsJson = False,
) -> None:
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
    if chosen != current or not chosen.exists():
        local.down(settings)
        configuration.choose_workspace(name)
    if as_json:
        _print_json({"workspace": str(chosen)})
    else:
        console.print(f"workspace {chosen}", highlight=False, soft_wrap=True)


@app.command()
def run(
    dag: Annotated[str, typer.Argument(help="daily, intraday, trending or email")],
    source: Annotated[
        str, typer.Option(help="NAME or NAME:PATH, as `recsys data describe` takes it; empty: that of the last run")
    ] = "",
    day: Annotated[
        str, typer.Option(help="last day of data, YYYY-MM-DD; empty: the last day of --source, or else yesterday")
    ] = "",
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
    if unknown := sorted(conf.keys() - (known := server.parameters(dag))):
        raise UsageError(f"{dag} has no parameter {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}")
    run_id = server.trigger(dag, conf)
    if not wait:
        _answer({"dag_id": dag, "run_id": run_id, "url": _run_url(settings, dag, run_id)}, as_json)
        return
    finished = progress.follow(server.watch(dag, run_id), errors if as_json else console)
    if as_json:
        _print_json(asdict(finished))
    else:
        progress.conclude(finished, console)
        _show_failures(server, finished)
        console.print(_run_url(settings, dag, run_id), soft_wrap=True)
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


@app.command()
def replay(
    request_id: Annotated[str, typer.Argument(help="of a response, as in its X-Request-ID")], as_json: AsJson = False
) -> None:
    """Have the running API make a page again from its record, and show what differs and why.

    Ends with 0 when every place shows the same item with the same score, and with 1 when not.
    """
    found = client.get(configuration.load(), f"/api/v1/replay/{quote(request_id, safe='')}", {})
    if as_json:
        _print_json(found)
    else:
        _show_replay(found)
    if not found["same"]:
        raise typer.Exit(REFUSED)


@app.command()
def token(
    user: Annotated[str, typer.Argument(help="user id that the token speaks for")],
    minutes: Annotated[float, typer.Option(help="how long it is good", min=1)] = 60,
    scope: Annotated[list[str], typer.Option(help="a scope, such as events:write; repeatable")] = ["recommend:read"],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Sign a token for one user with the secret in RECSYS_API__JWT_SECRET_FILE, to try what a user may do."""
    from serving.api import auth, tokens

    if unknown := sorted(set(scope) - set(auth.SCOPES)):
        raise UsageError(f"no scope is named {unknown[0]!r}; there are {', '.join(auth.SCOPES)}")
    signed = tokens.sign(configuration.load(), user, scope, minutes)
    if as_json:
        _print_json({"token": signed})
    else:
        sys.stdout.write(f"{signed}\n")


@app.command(name="tour")
def tour_(as_json: AsJson = False) -> None:
    """Show what a known user, a new user and an anonymous session get, and where to look next."""
    seen = tour.take(configuration.load())
    if as_json:
        _print_json(asdict(seen))
    else:
        tour.show(seen, console)


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
    # A release's id begins with its data day. Ids are there to be copied: the reason gives way where it is narrow.
    view = Table(box=None, pad_edge=False)
    for name in ("released at", "colour", "release", "previous"):
        view.add_column(name, no_wrap=True)
    view.add_column("reason", overflow="fold")
    for record in records:
        row = (record.released_at[:16].replace("T", " "), record.colour, record.release_id, record.previous or "")
        view.add_row(*row, escape(record.reason))
    console.print(view if records else "nothing has been live yet; `recsys run daily` brings a release live")


@release_app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="why, for the history")] = "by hand", as_json: AsJson = False
) -> None:
    """Bring towers, index and ranker of the previous release back, together, in one switch."""
    from pipelines import deploy

    _answer(asdict(deploy.rollback(configuration.load(), reason)), as_json)


@data_app.command()
def describe(
    source: Annotated[str, typer.Argument(help="NAME:PATH, or NAME:PATH?nobody=ID,ID")], as_json: AsJson = False
) -> None:
    """Rows, users, items, days and event types of a source, and what its adapter drops and why.

    Sources: simulator, online_retail:PATH, movielens:PATH, retailrocket:PATH, canonical:PATH.
    """
    from pipelines import sources

    settings = configuration.load()
    with errors.status(f"reading {source}"):
        found = sources.describe(_prepared(settings, source), settings)
    _answer(found, as_json)


@data_app.command()
def accept(
    days: Annotated[list[str], typer.Argument(metavar="DAY...", help="days, YYYY-MM-DD")],
    reason: Annotated[str, typer.Option(help="why the day is right, for whoever reads the report")],
    as_json: AsJson = False,
) -> None:
    """Have the quality gate publish days whatever their figures are: a holiday, a strike, a shop that sells less now.

    Who, when and why is kept in the lake and shown in the report. Rows that break a rule still go to quarantine. The
    next daily run takes the days up. Example:

        recsys data accept 2009-12-23 --reason "closed at noon"
    """
    from pipelines import acceptance, datasets

    lake = datasets.lake(configuration.load())
    accepted = [acceptance.accept(lake, day, reason) for day in map(_day, days)]
    if as_json:
        _print_json([asdict(one) for one in accepted])
    else:
        for one in accepted:
            console.print(f"{one.day}: {one}", highlight=False, soft_wrap=True, markup=False)


@data_app.command()
def simulate(
    users: Annotated[int, typer.Option(help="shoppers")] = 20_000,
    items: Annotated[int, typer.Option(help="products")] = 5_000,
    events: Annotated[int, typer.Option(help="events, impressions included")] = 1_000_000,
    days: Annotated[int, typer.Option(help="days of history")] = 60,
    as_json: AsJson = False,
) -> None:
    """Make a simulated shop, deterministic under the seed, as the source `simulator`."""
    made = _simulate(configuration.load(), ["--users", users, "--items", items, "--events", events, "--days", days])
    if as_json:
        _print_json(made)


@experiments_app.callback()
def experiments_(context: typer.Context, as_json: AsJson = False) -> None:
    """What is tried on whom: every experiment of config/experiments.yaml, its state and its traffic."""
    from serving.api import experiments

    if context.invoked_subcommand:
        return
    book, now = experiments.follow(configuration.load()).value, datetime.now(UTC)
    found = [
        {"layer": layer.name, "experiment": experiment.name, "state": experiment.state(now)}
        | book.changes[experiment.name].model_dump(mode="json")
        for layer in book.layers
        for experiment in layer.experiments
    ]
    if as_json:
        _print_json(found)
        return
    view = Table("layer", "experiment", "state", "traffic", "surfaces", "variants", box=None, pad_edge=False)
    for entry in found:
        first, end = entry["traffic"]
        weights = {arm: variant["weight"] for arm, variant in entry["variants"].items()}
        shares = ", ".join(f"{arm} {weight / sum(weights.values()):.0%}" for arm, weight in weights.items())
        where = ", ".join(entry["surfaces"])
        view.add_row(entry["layer"], entry["experiment"], entry["state"], f"{first:g}..{end:g} %", where, shares)
    console.print(view if found else "no experiments; docs/experiments.md says how to write one")


@experiments_app.command()
def assign(
    unit: Annotated[str, typer.Argument(help="user id, or the session id of an anonymous visitor")],
    as_json: AsJson = False,
) -> None:
    """Where a unit falls in each layer, and what it is in now when it asks for what the experiment is about."""
    from serving.api import experiments

    found = experiments.follow(configuration.load()).value.places(unit, datetime.now(UTC))
    if as_json:
        _print_json([asdict(place) for place in found])
        return
    view = Table("layer", "bucket", "experiment", "variant", box=None, pad_edge=False)
    for place in found:
        view.add_row(place.layer, str(place.bucket), place.experiment or "", place.variant or "")
    console.print(view)


def _simulate(settings: Settings, options: list[Any]) -> dict[str, Any]:
    out = Path(settings.storage.root) / "sources" / "simulator"
    command = [sys.executable, "-m", "simulator", "--out", out, "--seed", settings.seed, *options]
    env = configuration.child_environment(settings)
    done = subprocess.run([str(part) for part in command], env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UsageError(f"the simulator ended with exit code {done.returncode}; its last lines say why")
    made: dict[str, Any] = json.loads(done.stdout)
    errors.print(f"simulated shop: {made['events']:,} events in {out}", highlight=False, soft_wrap=True)
    return made


def _prepared(settings: Settings, source: str) -> str:
    """The source with an absolute path; the simulated shop is made first where there is none."""
    from pipelines import sources

    simulated = Path(settings.storage.root) / "sources" / "simulator" / "meta.json"
    if source.partition(":")[0] == "simulator" and not simulated.exists():
        _simulate(settings, [])
    return sources.absolute(source)


def _last_day(settings: Settings, source: str) -> date:
    from pipelines import sources

    return sources.last_day(source, settings)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"a day is written YYYY-MM-DD, got {text!r}") from None


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


def _show_failures(server: airflow.Client, run: airflow.Run) -> None:
    for task in run.tasks:
        if task.state == "failed":
            console.print(f"\n[red]{task.task_id}[/] failed; its last lines:")
            console.print("\n".join(server.log_tail(run, task.task_id)), markup=False, highlight=False, soft_wrap=True)


def _run_url(settings: Settings, dag: str, run_id: str) -> str:
    return f"{settings.airflow_url}/dags/{dag}/runs/{run_id}"


def _recommendations(query: Mapping[str, Any], as_json: bool) -> None:
    settings = configuration.load()
    answer = client.get(settings, "/api/v1/recommendations", {k: v for k, v in query.items() if v != ""})
    if as_json:
        _print_json(answer)
    else:
        console.print(tour.page(answer))


def _show_replay(found: Mapping[str, Any]) -> None:
    differences = found["differences"]
    if differences:
        view = Table("place", "shown", "score", "replayed", "score", box=None, pad_edge=False)
        for difference in differences:
            pair = [difference[side] or {"item_id": "", "score": None} for side in ("recorded", "replayed")]
            cells = [(escape(at["item_id"]), "" if at["score"] is None else f"{at['score']:.6g}") for at in pair]
            view.add_row(str(difference["position"] + 1), *cells[0], *cells[1])
        console.print(view)
    for reason in found["because"]:
        console.print(f"[yellow]because[/] {escape(reason)}", highlight=False, soft_wrap=True)
    count = (
        f"{len(differences)} of {found['places']} places differ"
        if differences
        else f"all {found['places']} places are the same"
    )
    explored = "" if found["exploration"] == "none" else f"; exploration {found['exploration']}"
    page = f"{found['surface']}, rung {found['rung']}, release {found['release_id']}"
    console.print(f"{count} ({page}{explored})", highlight=False, soft_wrap=True)


def _show_services(services: Sequence["ServiceStatus"], as_json: bool) -> None:
    if as_json:
        _print_json([asdict(service) for service in services])
        return
    view = Table("service", "state", "healthy", "address", "pid", "since", box=None, pad_edge=False)
    for service in services:
        healthy = "[green]yes[/]" if service.healthy else "[red]no[/]" if service.expected else "[dim]idle[/]"
        pid, since = str(service.pid or ""), f"{service.seconds:.0f} s" if service.seconds else ""
        view.add_row(service.name, service.state, healthy, service.url, pid, since)
    console.print(view)


def _answer(value: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(value)
        return
    view = Table(box=None, pad_edge=False, show_header=False)
    view.add_column()
    view.add_column(overflow="fold")
    for name, entry in value.items():
        text = json.dumps(entry, default=str) if isinstance(entry, dict | list) else str(entry)
        view.add_row(f"[bold]{escape(name)}[/]", escape(text))
    console.print(view)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, default=str) + "\n")
