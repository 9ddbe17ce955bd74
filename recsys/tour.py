"""What a person sees after the first run: recommendations for three kinds of visitors, and where to look next."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from pipelines import datasets
from recsys import client
from recsys.errors import BadData
from recsys.settings import Settings

SHOWN = 10  # items per visitor
TYPICAL_HISTORY = (8, 40)  # events: enough to know somebody, few enough to read


@dataclass(frozen=True)
class Visitor:
    """Somebody to recommend to, and what they did."""

    label: str
    query: dict[str, str]
    history: list[str]


def visitors(settings: Settings) -> list[Visitor]:
    """A known user, a new user and an anonymous session, the first two from the newest data; the same every time."""
    lake = datasets.lake(settings)
    days = lake.days(datasets.SEQUENCES)
    if not days:
        raise BadData("there are no features yet; `recsys run daily` computes them")
    sequences = lake.read(datasets.SEQUENCES, days[-1])
    titles = _titles(lake, days[-1])
    known, session = _typical(sequences, is_user=True), _typical(sequences, is_user=False)
    found = [Visitor("a known user", {"user_id": known["visitor_id"]}, _told(known, titles))] if known else []
    region = str((known or {}).get("region") or "")
    found.append(Visitor("a new user", {"user_id": "somebody-new"} | ({"region": region} if region else {}), []))
    if session:
        found.append(Visitor("an anonymous session", {"session_id": session["visitor_id"]}, _told(session, titles)))
    return found


@dataclass(frozen=True)
class Visit:
    """A visitor, and the home page that the API gave them."""

    visitor: Visitor
    answer: dict[str, Any]


@dataclass(frozen=True)
class Tour:
    """The visitors with their pages, and the address of everything there is to look at."""

    visits: list[Visit]
    addresses: dict[str, str]


def take(settings: Settings) -> Tour:
    """Ask the API for the home page of each visitor."""
    visits = [
        Visit(who, client.get(settings, "/api/v1/recommendations", who.query | {"surface": "home", "count": SHOWN}))
        for who in visitors(settings)
    ]
    addresses = {
        "storefront": settings.demo_url,
        "api_docs": f"{settings.api_url}/docs",
        "airflow": settings.airflow_url,
        "airflow_passwords": f"{settings.storage.root}/run/airflow_passwords.json",
        "mlflow": settings.mlflow_url,
    }
    return Tour(visits, addresses)


def show(seen: Tour, console: Console) -> None:
    """Print a tour for a person."""
    for visit in seen.visits:
        who = " ".join(visit.visitor.query.values())
        console.print(f"\n[bold]Home page of {visit.visitor.label}[/] ({escape(who)})")
        if visit.visitor.history:
            console.print("[dim]lately: " + escape(" · ".join(visit.visitor.history[-6:][::-1])) + "[/]")
        console.print(page(visit.answer))
    where = seen.addresses
    console.print(f"\nStorefront {where['storefront'] or 'off (api.demo)'}")
    console.print(
        f"API docs   {where['api_docs']}\nAirflow    {where['airflow']}  (user admin; password in "
        f"{where['airflow_passwords']})\nMLflow     {where['mlflow']}\n",
        soft_wrap=True,
    )
    console.print(
        "`source .venv/bin/activate`, and then `recsys recommend --user ID`, `recsys similar --item ID` and "
        "`recsys --help` go on from here; `make stop` stops everything."
    )


def page(answer: dict[str, Any]) -> Group:
    """Recommendations as a table of two lines an item, readable at 80 columns: title and score, category and reason;
    and what served them."""
    view = Table(box=None, pad_edge=False, show_header=False)
    view.add_column(justify="right", style="dim")
    view.add_column(overflow="fold")
    view.add_column(justify="right")
    for rank, item in enumerate(answer["items"], start=1):
        told = " · ".join(filter(None, (item.get("category"), item["reason"])))
        view.add_row(str(rank), f"{escape(item['title'])}\n[dim]{escape(told)}[/]", f"{item['score']:.3g}")
    return Group(view, f"[dim]rung: {answer['rung']}, release {answer.get('release_id') or 'none'}[/]")


def _typical(sequences: pa.Table, *, is_user: bool) -> dict[str, Any] | None:
    """The visitor of readable history who was here last; ties by id, so that the choice is the same every time."""
    shortest, longest = TYPICAL_HISTORY if is_user else (2, 20)
    length = pc.list_value_length(sequences["items"])
    fits = pc.and_(
        pc.and_(pc.greater_equal(length, shortest), pc.less_equal(length, longest)), _kind(sequences, is_user)
    )
    rows = sequences.filter(fits)
    if rows.num_rows == 0:
        rows = sequences.filter(_kind(sequences, is_user))
    if rows.num_rows == 0:
        return None
    order = pc.sort_indices(
        pa.table({"last": _last(rows), "id": rows["visitor_id"]}),
        sort_keys=[("last", "descending"), ("id", "ascending")],
    )
    return dict(rows.slice(order[0].as_py(), 1).to_pylist()[0])


def _kind(sequences: pa.Table, is_user: bool) -> pa.ChunkedArray:
    return sequences["is_user"] if is_user else pc.invert(sequences["is_user"])


def _last(rows: pa.Table) -> pa.Array:
    return pa.array([times[-1] if times else 0 for times in rows["times"].to_pylist()])


def _titles(lake: datasets.Lake, day: date) -> dict[str, str]:
    items = lake.read(datasets.ITEMS, day, ["item_id", "title"])
    return dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))


def _told(sequence: dict[str, Any], titles: dict[str, str]) -> list[str]:
    pairs = zip(sequence["events"], sequence["items"], strict=True)
    return [f"{event.replace('_', ' ')} {titles.get(item, item)}" for event, item in pairs]
