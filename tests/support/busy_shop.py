"""The shop of `fake_models` with features worth comparing: every item and visitor has a past of its own.

Each row has an older one, three days before, which nobody may take for the newest.
"""

from datetime import date, datetime, timedelta
from typing import Any

import fake_models
import numpy as np
import offline_views
import pyarrow as pa

from feature_repo import events, names
from pipelines import datasets
from recsys.settings import Settings

REGULARS = ("ann", "amy")  # users with a full history
NEWCOMER = "ben"  # a user who has done nothing but sign up
SESSION = "s1"  # an anonymous visit of the last day
REGIONS = ["France", "Spain"]


def write(settings: Settings, day: date) -> None:
    """Write the tables of a day, the offline ones of Feast among them."""
    fake_models.write_shop(settings, day)
    rng = np.random.default_rng(7)
    lake = datasets.lake(settings)
    items = [_item(row, rng) for row in lake.read(datasets.ITEMS, day).to_pylist()]
    lake.write(datasets.ITEMS, day, pa.Table.from_pylist(items, schema=events.ITEMS.arrow()))
    ids = [item["item_id"] for item in items]
    for before in (3, 0):
        stamp = datasets.end_of(day) - timedelta(days=before)
        rows = {
            "item_stats": [_stats(item, stamp, rng) for item in ids if item != "i9"],
            "item_content": [_content(item) for item in items],
            "user_profile": [_profile(user, stamp) for user in (*REGULARS, NEWCOMER)],
            "user_history": [{"user_id": user} | _history(ids, stamp, 60, rng) for user in REGULARS],
            "user_activity": [_activity(user, stamp, rng) for user in REGULARS],
            "user_categories": [_categories(user, rng) for user in REGULARS],
            "session_history": [{"session_id": SESSION} | _history(ids[:6], stamp, 0.5, rng)],
        }
        for view, found in rows.items():
            lake.write(
                datasets.feature_view(view), stamp.date() - timedelta(days=1), offline_views.table(view, stamp, found)
            )


def _item(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    number = int(row["item_id"].removeprefix("i"))
    return row | {
        "created_at": row["created_at"] + timedelta(days=int(rng.integers(0, 100))),
        "brand": row["brand"] if number % 6 else None,
        "price": row["price"] if number % 7 else None,
        "regions": REGIONS if number % 5 == 0 else [],
        "tags": [f"tag{number % 3}"],
    }


def _stats(item: str, stamp: datetime, rng: np.random.Generator) -> dict[str, Any]:
    seconds = int(stamp.timestamp())
    times = {"item_first_event_time": seconds - 10**7, "item_last_event_time": seconds - int(rng.integers(1, 10**6))}
    found = {name: float(rng.gamma(1, 20)) for name in names.ITEM_STATS}
    return {"item_id": item, "stats_time": seconds} | times | found


def _content(item: dict[str, Any]) -> dict[str, Any]:
    same = {name: item[name] for name in ("item_id", "title", "category", "brand", "price", "available")}
    return same | {"created_time": int(item["created_at"].timestamp())}


def _profile(user: str, stamp: datetime) -> dict[str, Any]:
    signup = int(stamp.timestamp()) - 200 * 86_400
    return {"user_id": user, "region": "France", "age_group": "25-34", "signup_time": signup, "preferences": ["Toys"]}


def _history(ids: list[str], stamp: datetime, days: float, rng: np.random.Generator) -> dict[str, Any]:
    """As many events as a history holds, or one per item if there are fewer, in visits; a fifth of them are
    purchases of the first item."""
    count = min(names.HISTORY_LENGTH, len(ids))
    ago = np.sort(rng.integers(60, max(int(days * 86_400), 3_600), count // 5 + 1))[::-1].repeat(5)[:count]
    times = int(stamp.timestamp()) - ago + np.arange(count) % 5
    again = rng.random(count) < 0.2
    return {
        "history_items": np.where(again, ids[0], rng.choice(ids, count)).tolist(),
        "history_events": np.where(again, "purchase", rng.choice(events.POSITIVE, count)).tolist(),
        "history_times": times.tolist(),
    }


def _activity(user: str, stamp: datetime, rng: np.random.Generator) -> dict[str, Any]:
    seconds = int(stamp.timestamp())
    times = {"first_event_time": seconds - 10**7, "last_event_time": seconds - 60, "activity_time": seconds}
    return {"user_id": user} | {name: float(rng.gamma(1, 5)) for name in names.USER_ACTIVITY} | times


def _categories(user: str, rng: np.random.Generator) -> dict[str, Any]:
    labels = {
        "category": list(fake_models.CATEGORIES),
        "top_category": ["Home", "Toys", "Garden"],
        "brand": [f"b{n}" for n in range(5)],
    }
    named = {"category": "categories", "top_category": "top_categories", "brand": "brands"}
    found: dict[str, Any] = {"user_id": user}
    for scope, values in labels.items():
        found[named[scope]] = values
        found[f"{scope}_weights"] = np.sort(rng.dirichlet(np.ones(len(values))))[::-1].tolist()
    return found
