"""Adapters that turn other people's files into the canonical tables of `feature_repo.events`.

A source is named `NAME:PATH`; `simulator` alone is the simulated shop under the storage root, and `bus` alone is
what the API has received, over the newest published catalogue. `NAME:PATH?nobody=ID,ID` names ids that stand for
visitors who were not logged in (`nobody`).
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipelines.sources import bus, canonical, clock, movielens, nobody, online_retail, retailrocket
from pipelines.sources.source import Source
from recsys.errors import UsageError
from recsys.settings import Settings

NAMES = {
    "canonical": "events, items and users in the canonical schema, parquet or csv",
    "online_retail": "UCI Online Retail (II): parquet, csv, or the publisher's xlsx",
    "movielens": "MovieLens 100K (original or atomic files), 1M, 20M, 25M, 32M, latest",
    "retailrocket": "RetailRocket: events.csv, item_properties_part*.csv, category_tree.csv",
    "simulator": "the simulated shop under <storage root>/sources/simulator",
    "bus": "events received by the API, over the newest published catalogue",
}
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
END = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Spec:
    """A source by name and, but for `bus`, place."""

    name: str
    path: Path


def parse(text: str, settings: Settings) -> Spec:
    """Read `NAME:PATH`, without what may stand behind the path.

    Raises:
        UsageError: there is no such source, or its path is missing.
    """
    name, colon, place = nobody.split(text)[0].partition(":")
    root = Path(settings.storage.root).resolve()
    if name not in NAMES:
        raise UsageError(f"no source {name!r} in {text!r}; the sources are {', '.join(NAMES)}")
    if name == "bus":
        return Spec(name, root)
    if name == "simulator" and not place:
        shop = root / "sources" / "simulator"
        if not (shop / "meta.json").exists():
            raise UsageError(f"there is no simulated shop yet; make one with `python -m simulator --out {shop}`")
        return Spec(name, shop)
    if not colon or not place:
        raise UsageError(f"source {text!r} names no path; write {name}:PATH")
    return Spec(name, Path(place).expanduser().resolve())


def absolute(text: str) -> str:
    """`NAME:PATH` by its absolute path; it means the same in every folder."""
    name, _, place = text.partition(":")
    place, option, ids = place.partition(nobody.OPTION)
    return f"{name}:{Path(place).expanduser().resolve()}{option}{ids}" if place else text


def open_source(text: str, settings: Settings) -> Source:
    """Open a source.

    Raises:
        UsageError: see `parse`.
        BadData: the input is missing, or is not what its name says.
    """
    opened = _opened(parse(text, settings), settings)
    ids = nobody.split(text)[1]
    return nobody.Without(opened, ids) if ids else opened


def _opened(spec: Spec, settings: Settings) -> Source:
    work = Path(settings.storage.root).resolve() / "sources" / "work"
    match spec.name:
        case "online_retail":
            return online_retail.OnlineRetail(spec.path, work)
        case "movielens":
            return movielens.MovieLens(spec.path)
        case "retailrocket":
            return retailrocket.RetailRocket(spec.path)
        case "bus":
            return bus.Bus(spec.path)
        case _:
            return canonical.Canonical(spec.path)


def last_day(text: str, settings: Settings) -> date:
    """The day of the last event of a source whose clock is plausible, UTC; reads as little as the format allows."""
    return open_source(text, settings).last().date()


def describe(text: str, settings: Settings) -> dict[str, Any]:
    """Facts about a source: counts, plausible days, event types, anonymous share, and what is not taken, by reason."""
    source = open_source(text, settings)
    types: Counter[str] = Counter()
    days, anonymous = clock.Days(), 0
    for batch in source.events(BEGINNING, END):
        for entry in pc.value_counts(batch.column("event")).to_pylist():
            types[entry["values"]] += entry["counts"]
        anonymous += batch.column("user_id").null_count
        days.add(batch.column("event_time"))
    rows, span = types.total(), days.span(datetime.now(UTC).date())
    return {
        "source": text,
        "rows": rows,
        "users": sum(batch.num_rows for batch in source.users(END)),
        "items": sum(batch.num_rows for batch in source.items(END)),
        "first_day": span.first.isoformat() if span else None,
        "last_day": span.last.isoformat() if span else None,
        "wrong_clocks": dict(days.strays(span)) if span else {},
        "event_types": dict(types.most_common()),
        "anonymous_share": round(anonymous / rows, 4) if rows else 0.0,
        "dropped": dict(source.dropped),
    }
