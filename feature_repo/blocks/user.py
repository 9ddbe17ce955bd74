"""Who asks: block "user"."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import names
from feature_repo.blocks.item import NEVER_DAYS, STALE_DAYS
from feature_repo.moments import Moments, days, lists, numbers

MOST_FOCUS = 1e6  # what a broken weight may do at most


def user(m: Moments) -> Iterator[NDArray[Any]]:
    users, now, past = m.requests.users, m.requests.now, m.histories
    count = len(m.requests)
    activity = numbers([users[name] for name in names.USER_ACTIVITY]).T
    length = np.diff(past.bounds)
    width = len(m.items) + 1
    pairs = np.unique(past.request * width + past.item + 1)  # item -1 counts as one item
    distinct = np.bincount(pairs // width, minlength=count)
    bought = m.visitors.total(past.of_kind("bought"))[m.visitor]
    newest = np.where(length > 0, m.idle, NEVER_DAYS)
    oldest = np.where(length > 0, m.visitors.most(past.age)[m.visitor], NEVER_DAYS)
    signup, first, up_to = numbers([users[name] for name in ("signup_time", "first_event_time", "activity_time")])
    since = np.where(signup > 0, signup, np.where(first > 0, first, np.nan))
    stale = np.minimum(days(now - np.where(up_to > 0, up_to, np.nan), STALE_DAYS), STALE_DAYS)
    focus = [max((float(w) for w in weights), default=0.0) for weights in lists(users["top_category_weights"])]
    yield m.per_row(
        np.log1p(np.clip(activity, 0.0, 1e12)),
        np.log1p(length),
        distinct / np.maximum(length, 1),
        bought / np.maximum(length, 1),
        np.log1p(oldest - newest),
        np.log1p(days(now - since, 0.0)),
        np.log1p(newest),
        stale,
        np.clip(np.nan_to_num(focus), -MOST_FOCUS, MOST_FOCUS),
        np.log1p([len(wishes) for wishes in lists(users["preferences"])]),
        length == 0,
        [not user_id for user_id in users["user_id"]],
    )
