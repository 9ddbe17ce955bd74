"""Frozen splits of a data set, on which the pipeline and its peers rank the full catalogue: no sampled negatives.

A split is a folder:

    meta.json       `test_window` [start, end): a split by time. Without it: leave one out
    train.parquet, valid.parquet, test.parquet       user_id, item_id, ts; optional invoice, qty, price, rating, country
    anon_train.parquet, anon_valid.parquet           invoice, item_id, ts: baskets of nobody known (by time only)
    items.parquet   item_id; optional title, genres, attributes, price, year, first_seen, created (epoch seconds)
    users.parquet   user_id; optional age, gender, occupation, zip

What may be known: by time, everything before the window, for parameters and histories alike. Leave one out: parameters
are fitted on `train` whatever is predicted; when `test` is predicted, `valid` joins the histories. There a `ts` may be
the place in a sequence instead of a time: then a day lies between two events, and every history ends on the same day.

Figures per user, then plain means: recall@k = hits among the first k / targets; NDCG@k divides by the best a list of
k could do. View `all`: what a user had before may be recommended and counts; `new`: it leaves ranking and targets.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.sources import gift_ware

Part = Literal["valid", "test"]
DAY = 86_400
EPOCH_OF_PLACES = 1_600_000_000 // DAY * DAY  # when histories without times end
PLACES_BELOW = 10_000_000  # a `ts` that is smaller is a place in a sequence
LEAD_SECONDS = 43_200  # a window is asked about at noon of its first day
BANDS = (18, 25, 35, 45, 55, 65)
DEPTH = 1_000
PLACES = 8  # events of a user that are left out at most, where the question is asked earlier
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """One part of a data set to be predicted, and what may be known for it.

    Attributes:
        name, part: of the data set; which part is predicted.
        known: user_id, item_id, time (epoch seconds), in time order: the histories.
        fit: the same, that parameters may be fitted on; anonymous baskets have an empty user_id.
        future: user_id, item_id of the part.
        items, users: as in the folder.
        window: epoch seconds of the first moment predicted; None where one is left out per user.
        days: that the window lasts; 0 where there is none.
    """

    name: str
    part: Part
    known: pd.DataFrame
    fit: pd.DataFrame
    future: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame
    window: float | None
    days: int = 0

    @property
    def views(self) -> tuple[str, ...]:
        return ("new",) if self.window is None else ("all", "new")

    @property
    def event(self) -> str:
        """What an interaction is in the canonical schema."""
        return "rate" if "rating" in self.fit else "purchase"

    @property
    def day(self) -> date:
        """The last day of the data that parameters may be fitted on."""
        return datetime.fromtimestamp(self.fit["time"].max(), UTC).date()

    @cached_property
    def place(self) -> pd.Index:
        return pd.Index(self.items["item_id"])

    @cached_property
    def asked(self) -> list[str]:
        """Users with a history and a target, in a stable order."""
        both = set(self.future["user_id"]) & set(self.known["user_id"])
        return sorted(both)

    @cached_property
    def candidates(self) -> NDArray[np.bool_]:
        """[items] by time, what anybody had before the window; all items otherwise."""
        if self.window is None:
            return np.ones(len(self.items), bool)
        seen = np.zeros(len(self.items), bool)
        seen[self.place.get_indexer(pd.concat([self.known["item_id"], self.fit["item_id"]]))] = True
        return seen

    def rows(self, frame: pd.DataFrame) -> list[Ints]:
        """Per asked user, the distinct rows of `items` in a frame."""
        row = self.place.get_indexer(frame["item_id"])
        found = pd.Series(row).groupby(frame["user_id"].to_numpy()).unique()
        return [np.sort(found.get(user, np.zeros(0, np.int64))) for user in self.asked]

    def histories(self) -> list[pd.DataFrame]:
        """Per asked user, the known events, oldest first."""
        groups = dict(tuple(self.known.groupby("user_id", sort=False)))
        return [groups[user] for user in self.asked]

    def now(self) -> NDArray[np.float64]:
        """[asked] when each user is asked about: noon of the window's first day; a step after the last event."""
        if self.window is not None:
            return np.full(len(self.asked), self.window + LEAD_SECONDS)
        last = self.known.groupby("user_id")["time"].max()
        return last.loc[self.asked].to_numpy(np.float64) + (DAY if self.by_place else 1)

    @property
    def by_place(self) -> bool:
        return bool(self.known["time"].max() >= EPOCH_OF_PLACES and (self.known["time"] % DAY == 0).all())


def load(folder: Path, part: Part) -> Split:
    """Read a split.

    Raises:
        FileNotFoundError: the folder lacks a file of the layout above.
    """
    meta = json.loads((folder / "meta.json").read_text())
    frames = {name: _read(folder / f"{name}.parquet") for name in ("train", "valid", "test")}
    if all(frame["time"].max() < PLACES_BELOW for frame in frames.values()):
        ends = frames["train"].groupby("user_id")["time"].max()
        for frame in frames.values():
            after_end = frame["time"] - frame["user_id"].map(ends).fillna(0)
            frame["time"] = EPOCH_OF_PLACES + after_end.astype(np.int64) * DAY
    known = frames["train"] if part == "valid" else pd.concat([frames["train"], frames["valid"]], ignore_index=True)
    by_time = f"{part}_window" in meta
    fit = known if by_time else frames["train"]
    baskets = [folder / f"anon_{name}.parquet" for name in ("train", "valid")[: 1 if part == "valid" else 2]]
    if by_time:
        fit = pd.concat([fit, *(_read(path) for path in baskets if path.exists())], ignore_index=True)
    users = folder / "users.parquet"
    window, until = (
        (datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() for moment in meta[f"{part}_window"])
        if by_time
        else (None, None)
    )
    return Split(
        name=folder.name,
        part=part,
        known=known.sort_values(["user_id", "time"], kind="stable", ignore_index=True),
        fit=fit.sort_values("time", kind="stable", ignore_index=True),
        future=frames[part],
        items=pd.read_parquet(folder / "items.parquet").astype({"item_id": str}),
        users=pd.read_parquet(users).astype({"user_id": str}) if users.exists() else pd.DataFrame({"user_id": []}),
        window=window,
        days=round((until - window) / DAY) if by_time else 0,
    )


def earlier(split: Split) -> Split:
    """The question of a split asked one step earlier, about what may be fitted on: for what is learnt on top of models
    that must not know the answer.

    By time, it is the window of the same length before. Otherwise the last events of each user are left out, `PLACES`
    or a third of them.
    """
    if split.window is not None:
        start = split.window - split.days * DAY
        known, fit = (frame[frame["time"] < start].reset_index(drop=True) for frame in (split.known, split.fit))
        future = split.known[split.known["time"] >= start]
        return replace(split, known=known, fit=fit, future=future, window=start)
    fit = split.fit.sort_values(["user_id", "time"], kind="stable")
    by_user = fit.groupby("user_id")["item_id"]
    out = by_user.cumcount(ascending=False) < np.minimum(PLACES, by_user.transform("size") // 3)
    known = fit[~out].reset_index(drop=True)
    return replace(split, known=known, fit=known.sort_values("time", kind="stable", ignore_index=True), future=fit[out])


def _read(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path).rename(columns={"ts": "time"})
    frame["user_id"] = frame["user_id"].astype(str) if "user_id" in frame else ""
    return frame.astype({"item_id": str})


def write_canonical(split: Split, folder: Path) -> None:
    """Write what parameters may be fitted on as `events`, `items` and `users` of the canonical source."""
    folder.mkdir(parents=True, exist_ok=True)
    events(split).to_parquet(folder / "events.parquet", index=False)
    items(split).to_parquet(folder / "items.parquet", index=False)
    users(split).to_parquet(folder / "users.parquet", index=False)


def events(split: Split) -> pd.DataFrame:
    """Canonical events of what parameters may be fitted on; ratings as `rate`, anything else as `purchase`."""
    fit = split.fit
    number = np.arange(len(fit)).astype(str)
    day = (fit["time"] // DAY).astype(str)
    visit = fit["invoice"].astype(str) if "invoice" in fit else fit["user_id"] + "-" + day
    table = pd.DataFrame(
        {
            "event_id": "e" + pd.Series(number),
            "user_id": fit["user_id"].where(fit["user_id"] != "", None),
            "session_id": visit,
            "item_id": fit["item_id"],
            "event": split.event,
            "event_time": _moment(fit["time"]),
        }
    )
    for name, column, kind in (("value", "rating", float), ("value", "price", float), ("quantity", "qty", "int32")):
        if column in fit:
            table[name] = fit[column].astype(kind)
    if "country" in fit:
        table["region"] = fit["country"]
    return table


def items(split: Split) -> pd.DataFrame:
    """Canonical items, in the split's order; a category comes from the genres, or else from the words of the title.

    An item enters the catalogue when `created` says so, or else with its first event, or else with everybody's.
    """
    items = split.items
    first = split.fit.groupby("item_id")["time"].min()
    created = items["item_id"].map(first).fillna(split.fit["time"].min())
    created = (items["created"].fillna(created) if "created" in items else created).astype(np.int64)
    nothing = pd.Series([""] * len(items), index=items.index)
    title = items["title"].fillna("") if "title" in items else "item " + items["item_id"]
    words = (items[name].fillna("") for name in ("genres", "attributes") if name in items)
    tags = next(words, nothing).str.split()
    if "genres" in items:
        category = tags.map(lambda found: found[0] if found else "None")
    elif "title" in items:
        category = title.map(gift_ware.category)
    else:
        category = pd.Series(["All"] * len(items), index=items.index)
    return pd.DataFrame(
        {
            "item_id": items["item_id"],
            "title": title.where(title != "", items["item_id"]),
            "category": category,
            "tags": tags,
            "brand": ("year " + items["year"].astype(str)) if "year" in items else None,
            "price": items["price"].astype(float) if "price" in items else None,
            "created_at": _moment(created),
            "available": True,
        }
    )


def users(split: Split) -> pd.DataFrame:
    """Canonical users: everybody with a history."""
    ids = pd.Index(sorted(set(split.known["user_id"])), name="user_id")
    table = pd.DataFrame({"user_id": ids})
    facts = split.users.set_index("user_id")
    if "country" in split.fit:
        table["region"] = ids.map(split.fit[split.fit["user_id"] != ""].groupby("user_id")["country"].last())
    elif "occupation" in facts:
        # The schema has no occupation; a closed group of people is what a region is, too.
        table["region"] = ids.map(facts["occupation"])
    if "age" in facts:
        band = np.searchsorted(BANDS, ids.map(facts["age"]).astype(float), side="right")
        gender = ids.map(facts["gender"]) if "gender" in facts else pd.Index([""] * len(ids))
        table["age_group"] = [f"{sex}{number}" for sex, number in zip(gender, band, strict=True)]
    return table


def _moment(seconds: pd.Series) -> pd.Series:
    return pd.to_datetime(seconds, unit="s", utc=True).astype("datetime64[us, UTC]")


def rank(split: Split, scores: Callable[[slice], NDArray[np.floating]], view: str, at_once: int = 512) -> Ints:
    """[asked, DEPTH] rows of items, best first, equal scores by row; -1 where a list ends.

    Args:
        scores: gives [users of the slice, items].
        view: "new" leaves out what a user had.
    """
    seen = split.rows(split.known)
    depth = min(DEPTH, len(split.items))
    lists = []
    for start in range(0, len(split.asked), at_once):
        part = slice(start, min(start + at_once, len(split.asked)))
        found = np.array(scores(part), np.float32)
        found[:, ~split.candidates] = -np.inf
        if view == "new":
            for row, had in enumerate(seen[part]):
                found[row, had] = -np.inf
        best = np.argsort(-found, axis=1, kind="stable")[:, :depth]
        lists.append(np.where(np.isfinite(np.take_along_axis(found, best, 1)), best, -1))
    return np.concatenate(lists)


def figures(split: Split, lists: Ints, view: str) -> dict[str, float]:
    """Recall@{5,10,20,100,500}, NDCG@{5,10,20} and HR@10 of lists of `rank`, over users that have a target."""
    seen, targets = split.rows(split.known), split.rows(split.future)
    by_user: list[dict[str, float]] = []
    discount = 1.0 / np.log2(np.arange(2, 22))
    for ranked, had, wanted in zip(lists, seen, targets, strict=True):
        wanted = wanted[split.candidates[wanted]]
        if view == "new":
            wanted = np.setdiff1d(wanted, had)
        if not len(wanted):
            continue
        hit = np.zeros(500, bool)
        hit[: len(ranked)] = np.isin(ranked[:500], wanted)
        one = {f"recall@{k}": hit[:k].sum() / len(wanted) for k in (5, 10, 20, 100, 500)}
        one |= {f"ndcg@{k}": discount[:k] @ hit[:k] / discount[: min(k, len(wanted))].sum() for k in (5, 10, 20)}
        by_user.append(one | {"hr@10": float(hit[:10].any())})
    table = pd.DataFrame(by_user)
    return {**table.mean().to_dict(), "users": float(len(table))}


def save(split: Split, lists: Ints, path: Path) -> None:
    """Write predictions: user_id, item_id, rank (1 = best)."""
    user, place = np.nonzero(lists >= 0)
    columns: Mapping[str, Any] = {
        "user_id": np.array(split.asked, object)[user],
        "item_id": split.place.to_numpy()[lists[user, place]],
        "rank": (place + 1).astype(np.int32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_parquet(path, index=False)
