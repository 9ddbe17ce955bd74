"""The requests that the ranker learns from and is judged on: who asked, when, and what came of each item.

Where the data know what was shown, a request is a shown list: every impression is a row, and its labels are what
the visitor did with it afterwards. Where they do not (a shop's invoices, a film club's ratings), a request is the
moment before a visit, and in a long one the moment before every page of it: its rows are the items of the visit from
there on, and `ranking_examples` adds negatives.

Labels nest, as the ranker's chain does: a purchase is wanted and engaged with, too. What it brought in is its `amount`.
What was taken back, such as a purchase by its return, is no label (`feature_repo.standing`), as far as the data go: a
label may know what the features of its request must not.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo import events, standing
from models import ranker
from pipelines import datasets
from pipelines.datasets import Lake

COLUMNS = [
    *("user_id", "session_id", "item_id", "event", "value", "quantity"),
    *("event_time", "surface", "position", "request_id", "region", "category", "brand"),
]
LABELS = (*ranker.CHAIN, "amount")
WANTED_WEIGHT = 3.0  # wanted, not merely looked at: what the middle head, "cart", stands for in a shop and for films
ATTRIBUTION_SECONDS = 24 * 3600.0
FEWEST_LISTS = 50  # shown lists with a click below which visits are used instead
VISIT_LEAD = 0.001  # seconds before the first event of a page at which it is ranked
PAGE = 8  # items of a visit after which a visitor is asked about again


@dataclass(frozen=True)
class Judged:
    """Requests and their labelled items.

    Attributes:
        requests: user_id ("" = anonymous), session_id, time (epoch seconds), region, surface; index 0, 1, … by time.
        rows: request (index), item_id, position (-1 = not shown in a list), one 0/1 column per link of the chain, and
            the amount that purchases of a known price brought in, in the shop's currency.
        shown: whether `rows` are all that the visitor saw. If not, they are what the visitor chose, unasked.
    """

    requests: pd.DataFrame
    rows: pd.DataFrame
    shown: bool

    def take(self, chosen: NDArray[np.int64]) -> "Judged":
        """Some requests by index, numbered again."""
        place = pd.Series(np.arange(len(chosen)), index=chosen)
        rows = self.rows[self.rows["request"].isin(chosen)]
        rows = rows.assign(request=rows["request"].map(place)).sort_values("request", kind="stable", ignore_index=True)
        return Judged(self.requests.iloc[chosen].reset_index(drop=True), rows, self.shown)


def read(lake: Lake, start: datetime, end: datetime) -> Judged:
    """The requests in [start, end), both midnights, from the published events."""
    days = [day for day in lake.days(datasets.EVENTS) if start < datasets.end_of(day) <= end]
    table = lake.read_days(datasets.EVENTS, days, COLUMNS)
    kinds = pa.array([events.EventType.IMPRESSION, *events.POSITIVE, *_refusing()], pa.string())
    log = table.filter(pc.is_in(table.column("event").cast(pa.string()), kinds)).to_pandas()
    if log["item_id"].isna().any():
        content = lake.read(datasets.ITEMS, lake.days(datasets.ITEMS, days[-1])[-1], ["item_id", "category", "brand"])
        return judge(log, content.to_pandas())
    return judge(log)


def judge(log: pd.DataFrame, content: pd.DataFrame | None = None) -> Judged:
    """Turn events (`COLUMNS`) into requests: shown lists if there are enough of them, visits otherwise.

    Args:
        log: of any type; those that say nothing of an item are left out.
        content: item_id, category and brand, for a no to all of a category or a brand.
    """
    log = log.assign(
        time=log["event_time"].astype("datetime64[us, UTC]").astype(np.int64) / 1e6,
        user_id=log["user_id"].fillna(""),
        region=log["region"].fillna(""),
        surface=log["surface"].fillna(""),
    ).sort_values("time", kind="stable")
    log["visitor"] = np.where(log["user_id"] != "", "u:" + log["user_id"], "s:" + log["session_id"])
    log = log[log["item_id"].notna()] if content is None else spelled_out(log, content)
    lists = shown_lists(log)
    clicked = lists.rows.loc[lists.rows["click"] > 0, "request"].nunique() if len(lists.rows) else 0
    return lists if clicked >= FEWEST_LISTS else visits(log)


def shown_lists(log: pd.DataFrame) -> Judged:
    """Requests from impressions.

    click: any positive event that names the same request and item, after the impression. cart, purchase, amount: of a
    clicked item, by the same visitor, within 24 hours after the impression. An impression that was not clicked
    takes no credit for what the visitor found elsewhere.
    """
    shown = log[(log["event"] == events.EventType.IMPRESSION) & log["request_id"].notna()]
    shown = shown.drop_duplicates(["request_id", "item_id"])
    deeds = _deeds(log)
    named = deeds[deeds["request_id"].notna()].drop_duplicates(["request_id", "item_id"])
    keys = ["request_id", "item_id"]
    rows = shown.merge(named[[*keys, "time"]], on=keys, how="left", suffixes=("", "_deed"))
    rows["click"] = (rows["time_deed"] > rows["time"]).astype(np.int8)
    clicked = rows.loc[rows["click"] > 0, [*keys, "visitor", "time"]]
    wanted = deeds.loc[deeds["cart"], ["visitor", "item_id", "time", "purchase", "amount"]]
    pairs = clicked.merge(wanted, on=["visitor", "item_id"], suffixes=("", "_deed"))
    delay = pairs["time_deed"] - pairs["time"]
    pairs = pairs[(delay > 0) & (delay <= ATTRIBUTION_SECONDS)]
    follow = pairs.groupby(keys).agg({"purchase": "max", "amount": "sum"}).reset_index().assign(cart=1)
    rows = rows.merge(follow.astype({"purchase": np.int8}), on=keys, how="left")
    first = rows.groupby("request_id", sort=False)
    asked = first[["user_id", "session_id", "time", "region", "surface"]].first().sort_values("time", kind="stable")
    return _judged(asked, rows, rows["request_id"], shown=True)


def visits(log: pd.DataFrame) -> Judged:
    """Requests from visits: just before the first positive event, and again after every `PAGE` items of the visit.

    What happened at one and the same time, such as the lines of an invoice, is never cut apart. click: any positive
    event with the item from there on, up to 24 hours after the visit began, unless an earlier page of it had the item;
    cart: one that says "wanted"; purchase: bought, for the amount.
    """
    deeds = _deeds(log)
    deeds["visit"] = deeds["visitor"] + "\n" + deeds["session_id"]
    deeds = deeds[deeds["time"] - deeds.groupby("visit")["time"].transform("min") <= ATTRIBUTION_SECONDS]
    deeds["page"] = _pages(deeds)
    how = {"page": "min"} | dict.fromkeys(ranker.CHAIN, "max") | {"amount": "sum"}
    chosen = deeds.groupby(["visit", "item_id"], sort=False).agg(how).reset_index()
    pages = deeds.groupby(["visit", "page"], sort=False)[["user_id", "session_id", "time", "region"]].first()
    pages = pages.assign(time=pages["time"] - VISIT_LEAD, surface="").sort_values("time", kind="stable").reset_index()
    asked = pages[["visit", "page"]].rename(columns={"page": "from"}).rename_axis("request").reset_index()
    rows = chosen.merge(asked, on="visit").query("page >= `from`").assign(position=-1)
    return _judged(pages.drop(columns=["visit", "page"]), rows, rows["request"], shown=False)


def visitors(requests: pd.DataFrame) -> NDArray[np.object_]:
    """[requests] whose past it is: the user's, or the session's where nobody is known."""
    return np.where(requests["user_id"] != "", requests["user_id"], requests["session_id"])


def wanted() -> list[str]:
    """The types that say more than that an item was looked at."""
    return [kind for kind, weight in events.yes().items() if weight >= WANTED_WEIGHT]


def _refusing() -> tuple[str, ...]:
    return (*events.NEGATIVE, events.EventType.UNDO)


def spelled_out(log: pd.DataFrame, content: pd.DataFrame) -> pd.DataFrame:
    """A no to a category or a brand, and its undo, as one event for each of its items that the visitor had acted on."""
    about_none = log["item_id"].isna()
    touched = log.loc[log["event"].isin(events.POSITIVE), ["visitor", "item_id"]].drop_duplicates()
    touched = touched.merge(content.rename(columns={"category": "path", "brand": "maker"}), on="item_id")
    pairs = log[about_none].drop(columns="item_id").merge(touched, on="visitor")
    columns = (pairs[name].to_list() for name in ("path", "maker", "category", "brand"))
    pairs = pairs[[standing.concerns(*four) for four in zip(*columns, strict=True)]]
    pairs = pairs.assign(target=pairs["category"].fillna("") + "\n" + pairs["brand"].fillna(""))
    return pd.concat([log[~about_none].assign(target=""), pairs.drop(columns=["path", "maker"])], ignore_index=True)


def counting(log: pd.DataFrame) -> NDArray[np.bool_]:
    """[n] whether each event still counts after all others."""
    spoken = np.flatnonzero(log["event"].isin([*events.POSITIVE, *_refusing()]))
    said = log.iloc[spoken]
    targets = said["target"].to_list() if "target" in said else [""] * len(said)
    visitor, item, kind, time = (said[name].to_list() for name in ("visitor", "item_id", "event", "time"))
    turns = standing.Log(visitor, item, kind, time, targets).turns(events.yes(), events.no())
    out = np.ones(len(log), bool)
    out[spoken[list(turns)]] = [len(moments) % 2 == 0 for moments in turns.values()]
    return out


def _deeds(log: pd.DataFrame) -> pd.DataFrame:
    """The positive events that count, each with its labels; a purchase that does not say how many pieces is of one."""
    deeds = log[log["event"].isin(events.POSITIVE) & counting(log)]
    bought = deeds["event"] == events.EventType.PURCHASE
    amount = deeds["value"] * deeds["quantity"].fillna(1)
    paid = bought & amount.between(0, np.inf, inclusive="neither")
    return deeds.assign(click=1, cart=deeds["event"].isin(wanted()), purchase=bought, amount=amount.where(paid, 0.0))


def _pages(deeds: pd.DataFrame) -> NDArray[np.int64]:
    """[n] the page of each deed: how many times `PAGE` items of its visit were chosen strictly before it."""
    new = (~deeds.duplicated(["visit", "item_id"])).astype(np.int64)
    moments = new.groupby([deeds["visit"], deeds["time"]]).sum()
    before = moments.groupby("visit").cumsum() - moments
    place = pd.MultiIndex.from_frame(deeds[["visit", "time"]])
    return np.asarray(before.loc[place].to_numpy() // PAGE, np.int64)


def _judged(asked: pd.DataFrame, rows: pd.DataFrame, key: pd.Series, *, shown: bool) -> Judged:
    place = pd.Series(np.arange(len(asked)), index=asked.index)
    rows = rows.assign(
        request=key.map(place).astype(np.int64),
        position=rows["position"].fillna(-1).astype(np.int32),
        **{label: rows[label].fillna(0).astype(np.float32) for label in LABELS},
    )
    rows = rows.sort_values(["request", "position"], kind="stable", ignore_index=True)
    return Judged(asked.reset_index(drop=True), rows[["request", "item_id", "position", *LABELS]], shown)
