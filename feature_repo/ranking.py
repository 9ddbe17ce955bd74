"""The ranking features of (request, item) pairs: numpy only, vectorised, called by training and by serving alike.

`transforms` gives them to callers. One request with 500 candidates and a batch of thousands of requests take the
same path, and no feature looks at the other candidates of a request, so that a training sample and a full list
agree. Names and meanings are in `feature_repo.ranking_table`, one block of columns per function here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import events, names
from feature_repo.item_matrix import Floats, Ints, ItemMatrix
from feature_repo.neighbours import Links
from feature_repo.ranking_table import BLOCKS, HALF_LIVES_DAYS, HALF_LIVES_EVENTS, RANKING_FEATURES, RELATIONS, SCOPES

DAY = 86_400.0
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0
STALE_DAYS = 30.0  # staleness beyond it, or unknown, counts as this
NEVER_DAYS = 1_000.0  # "days since" where it never happened
NOT_RETRIEVED = 8.0  # log1p of a rank of about 3,000, the most that retrieval returns
MOST_DUE = 4.0
USER_COLUMNS = (
    *("user_id", "region", "signup_time", "preferences", "history_items", "history_events", "history_times"),
    *names.USER_ACTIVITY,
    *("first_event_time", "activity_time"),
    *("categories", "category_weights", "top_categories", "top_category_weights", "brands", "brand_weights"),
)


@dataclass(frozen=True)
class Requests:
    """One entry per request.

    Attributes:
        users: what Feast returns for feature service `ranking_v1`, online (`store.read_online`) or offline (columns
            of the frame): `USER_COLUMNS`, one value per request, None or NaN where unknown. `user_id`, which
            `read_online` leaves out, is "" for an anonymous visitor, whose `history_*` come from `session_v1`.
        now: [requests] epoch seconds; events of a history from that moment on are not looked at.
        region: where the request comes from, "" where unknown: then the profile's.
        surface: home, similar, …; "" where unknown.
    """

    users: Mapping[str, Sequence[Any]]
    now: Floats
    region: Sequence[str]
    surface: Sequence[str]

    def __len__(self) -> int:
        return len(self.now)


@dataclass(frozen=True)
class Candidates:
    """One entry per (request, item) pair, in any order.

    Attributes:
        request: [n] index of the request.
        item: [n] row of the item matrix, -1 for an item that it does not hold.
        score: [n] inner product of the towers.
        rank: [n] place in retrieval's order, 0 the best, -1 where retrieval did not return the item.
    """

    request: Ints
    item: Ints
    score: Floats
    rank: Ints

    def __len__(self) -> int:
        return len(self.request)


def ranking_features(requests: Requests, candidates: Candidates, items: ItemMatrix) -> NDArray[np.float32]:
    """Compute `RANKING_FEATURES`: [n, F] float32, finite, one row per candidate.

    Raises:
        ValueError: a user column is missing, or a history's arrays differ in length.
    """
    if missing := [name for name in USER_COLUMNS if name not in requests.users]:
        raise ValueError(f"ranking needs user columns {missing}; it got {sorted(requests.users)}")
    moments = _Moments(requests, candidates, items, _histories(requests, items))
    found = np.empty((len(candidates), len(RANKING_FEATURES)), np.float32)
    start = 0
    for name, columns in BLOCKS.items():
        found[:, start : start + len(columns)] = _COMPUTE[name](moments)
        start += len(columns)
    return np.nan_to_num(found, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def ranking_inputs(requests: Requests, candidates: Candidates, items: ItemMatrix) -> dict[str, NDArray[Any]]:
    """Inputs of the serving signature: numeric [n, F] float32; category, brand, region, surface [n] str."""
    return {
        "numeric": ranking_features(requests, candidates, items),
        "category": items.category[candidates.item],
        "brand": items.brand[candidates.item],
        "region": np.array([*_regions(requests), ""], dtype=object)[candidates.request],
        "surface": np.array([*(name or "" for name in requests.surface), ""], dtype=object)[candidates.request],
    }


@dataclass(frozen=True)
class _Histories:
    """The past events of all requests, flat: [events] each. `item` is -1 where the catalogue no longer holds it."""

    request: Ints
    item: Ints
    age: Floats  # days before the request, > 0
    weight: Floats  # events.SIGNAL_WEIGHT
    bought: NDArray[np.bool_]
    carted: NDArray[np.bool_]


@dataclass(frozen=True)
class _Moments:
    """What every block works on."""

    requests: Requests
    candidates: Candidates
    items: ItemMatrix
    histories: _Histories

    @property
    def now(self) -> Floats:
        """[n] epoch seconds of each row's request."""
        return self.requests.now[self.candidates.request]


@dataclass(frozen=True)
class _Groups:
    """Values grouped by an integer key, to be looked up by key: a hash join in numpy."""

    keys: Ints  # sorted, unique
    order: Ints
    starts: Ints

    @staticmethod
    def of(keys: Ints) -> "_Groups":
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(keys)])
        return _Groups(ordered[starts], order, starts)

    def reduce(self, function: np.ufunc, values: Floats) -> Floats:
        """[groups, …] of `values` [rows, …] combined within each key."""
        if len(self.keys) == 0:
            return np.zeros((0, *values.shape[1:]))
        return np.asarray(function.reduceat(values[self.order], self.starts, axis=0))

    def at(self, keys: Ints, values: Floats, default: float = 0.0) -> Floats:
        """The values of keys, `default` where a key has no group."""
        if len(self.keys) == 0:
            return np.full((*keys.shape, *values.shape[1:]), default)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found = values[place]
        found[self.keys[place] != keys] = default
        return found


def _histories(requests: Requests, items: ItemMatrix) -> _Histories:
    columns = [_lists(requests.users[f"history_{what}"]) for what in ("items", "events", "times")]
    lengths = [[len(values) for values in column] for column in columns]
    if lengths[0] != lengths[1] or lengths[0] != lengths[2]:
        raise ValueError("history_items, history_events and history_times of a request must be equally long")
    request = np.repeat(np.arange(len(requests)), lengths[0])
    kinds = np.fromiter(chain.from_iterable(columns[1]), object, len(request))
    times = np.fromiter(chain.from_iterable(columns[2]), np.float64, len(request))
    age = (requests.now[request] - times) / DAY
    item = items.rows(chain.from_iterable(columns[0]))
    weight = np.fromiter((events.SIGNAL_WEIGHT.get(kind, 0.0) for kind in kinds), np.float64, len(kinds))
    past = age > 0
    return _Histories(
        request[past],
        item[past],
        age[past],
        weight[past],
        (kinds == events.EventType.PURCHASE)[past],
        (kinds == events.EventType.ADD_TO_CART)[past],
    )


def _item(m: _Moments) -> NDArray[np.float32]:
    return m.items.static[m.candidates.item]


def _freshness(m: _Moments) -> Floats:
    item, now = m.candidates.item, m.now
    age = _days(now - m.items.created[item], 0.0)
    stale = np.minimum(_days(now - m.items.stats_time[item], STALE_DAYS), STALE_DAYS)
    return np.column_stack(
        [
            np.log1p(age),
            (now >= m.items.created[item]) & (age < 2.0),
            np.log1p(_days(now - m.items.last_event[item], NEVER_DAYS)),
            stale,
        ]
    )


def _user(m: _Moments) -> Floats:
    users, now, past = m.requests.users, m.requests.now, m.histories
    count = len(m.requests)
    activity = np.stack([_numbers(users[name]) for name in names.USER_ACTIVITY], axis=1)
    length = np.bincount(past.request, minlength=count)
    pairs = np.unique(past.request * np.int64(len(m.items) + 1) + past.item + 1)  # item -1 counts as one item
    distinct = np.bincount(pairs // (len(m.items) + 1), minlength=count)
    groups = _Groups.of(past.request)
    everyone = np.arange(count)
    newest = groups.at(everyone, groups.reduce(np.minimum, past.age), NEVER_DAYS)
    oldest = groups.at(everyone, groups.reduce(np.maximum, past.age), NEVER_DAYS)
    signup, first = _numbers(users["signup_time"]), _numbers(users["first_event_time"])
    since = np.where(signup > 0, signup, np.where(first > 0, first, np.nan))
    up_to = _numbers(users["activity_time"])
    stale = np.minimum(_days(now - np.where(up_to > 0, up_to, np.nan), STALE_DAYS), STALE_DAYS)
    focus = [max((float(w) for w in weights), default=0.0) for weights in _lists(users["top_category_weights"])]
    found = np.column_stack(
        [
            _log(activity),
            np.log1p(length),
            distinct / np.maximum(length, 1),
            np.bincount(past.request, weights=past.bought, minlength=count) / np.maximum(length, 1),
            np.log1p(oldest - newest),
            np.log1p(_days(now - since, 0.0)),
            np.log1p(newest),
            stale,
            np.clip(np.nan_to_num(focus), -1e6, 1e6),
            np.log1p([len(wishes) for wishes in _lists(users["preferences"])]),
            length == 0,
            [not user_id for user_id in users["user_id"]],
        ]
    )
    return found[m.candidates.request]


def _context(m: _Moments) -> Floats:
    days = m.requests.now / DAY
    hour = 2 * np.pi * (days % 1.0)
    weekday = 2 * np.pi * ((np.floor(days) + EPOCH_WEEKDAY) % 7) / 7
    found = np.column_stack([np.sin(hour), np.cos(hour), np.sin(weekday), np.cos(weekday)])
    return found[m.candidates.request]


def _retrieval(m: _Moments) -> Floats:
    rank = m.candidates.rank
    found = rank >= 0
    place = np.maximum(rank, 0)
    score = np.clip(np.nan_to_num(m.candidates.score, nan=0.0), -100.0, 100.0)
    return np.column_stack([score, found / (place + 1.0), np.where(found, np.log1p(place), NOT_RETRIEVED), found])


def _touch(m: _Moments) -> Floats:
    past = m.histories
    decayed = past.weight[:, None] * 0.5 ** (past.age[:, None] / np.array(HALF_LIVES_DAYS))
    total = np.bincount(past.request, weights=decayed[:, -1], minlength=len(m.requests))[m.candidates.request]
    blocks = []
    for scope in SCOPES:
        keys, known = _keys(m, scope, past.request, m.items.codes[scope][past.item])
        groups = _Groups.of(keys[known])
        sums = groups.reduce(np.add, np.column_stack([np.ones(known.sum()), decayed[known]]))
        newest = groups.reduce(np.minimum, past.age[known])
        rows, _ = _keys(m, scope, m.candidates.request, m.items.codes[scope][m.candidates.item])
        summed = groups.at(rows, sums)
        recency = 1.0 / (1.0 + groups.at(rows, newest, np.inf))
        share = summed[:, -1] / np.maximum(total, 1e-9)
        blocks.append(np.column_stack([np.log1p(summed), recency, np.minimum(share, 1.0)]))
    return np.concatenate(blocks, axis=1)


def _repeat(m: _Moments) -> Floats:
    past = m.histories
    keys, known = _keys(m, "item", past.request, m.items.codes["item"][past.item])
    rows, _ = _keys(m, "item", m.candidates.request, m.items.codes["item"][m.candidates.item])
    bought, carted = known & past.bought, known & past.carted
    groups, carts = _Groups.of(keys[bought]), _Groups.of(keys[carted])
    times = groups.at(rows, groups.reduce(np.add, np.ones(bought.sum())))
    newest = groups.at(rows, groups.reduce(np.minimum, past.age[bought]), np.inf)
    oldest = groups.at(rows, groups.reduce(np.maximum, past.age[bought]), np.inf)
    twice = times >= 2
    gap = np.where(twice, oldest, 0.0) - np.where(twice, newest, 0.0)
    gap = np.maximum(gap / np.maximum(times - 1, 1), 1.0)
    kind_keys, kind_known = _keys(m, "category", past.request, m.items.codes["category"][past.item])
    kind_rows, _ = _keys(m, "category", m.candidates.request, m.items.codes["category"][m.candidates.item])
    kinds = _Groups.of(kind_keys[kind_known & past.bought])
    return np.column_stack(
        [
            np.log1p(times),
            1.0 / (1.0 + newest),
            np.where(twice, np.minimum(np.where(twice, newest, 0.0) / gap, MOST_DUE), 0.0),
            np.log1p(carts.at(rows, carts.reduce(np.add, np.ones(carted.sum())))),
            np.log1p(kinds.at(kind_rows, kinds.reduce(np.add, np.ones((kind_known & past.bought).sum())))),
        ]
    )


def _affinity(m: _Moments) -> Floats:
    users, request, item = m.requests.users, m.candidates.request, m.candidates.item
    price = m.items.log_price[item]
    usual = _numbers(users["mean_price_30d"])
    gap = np.nan_to_num(price - np.log1p(np.where(usual > 0, usual, np.nan))[request])
    profile, place = users["region"], _regions(m.requests)
    code = np.array([m.items.region_of.get(name, len(m.items.region_of)) for name in place], np.int64)[request]
    unknown = np.array([not name for name in place], bool)
    away = np.array([bool(home) and here != home for here, home in zip(place, profile, strict=True)], bool)
    return np.column_stack(
        [
            _weights(m, "category", users["categories"], users["category_weights"]),
            _weights(m, "top_category", users["top_categories"], users["top_category_weights"]),
            _weights(m, "brand", users["brands"], users["brand_weights"]),
            _preferences(m),
            gap,
            np.abs(gap),
            np.nan_to_num(price - _usual_price(m)[request]),
            m.items.allowed[code, item] | unknown[request],
            m.items.named[code, item],
            away[request],
        ]
    )


def _neighbours(m: _Moments) -> Floats:
    past, wanted, count = m.histories, m.candidates, len(m.requests)
    width = len(HALF_LIVES_EVENTS) + 1
    found = np.zeros((len(wanted), len(RELATIONS) * width))
    order = np.argsort(wanted.request, kind="stable")
    asked = np.searchsorted(wanted.request[order], np.arange(count + 1))
    bounds = np.searchsorted(past.request, np.arange(count + 1))
    for request in np.flatnonzero((np.diff(bounds) > 0) & (np.diff(asked) > 0)):
        rows = order[asked[request] : asked[request + 1]]
        latest_first = past.item[bounds[request] : bounds[request + 1]][::-1]
        for k, relation in enumerate(RELATIONS):
            scores = _led_to(m.items.links[relation], latest_first)
            found[rows, k * width : (k + 1) * width] = scores[wanted.item[rows]]
    found[wanted.item < 0] = 0.0
    return found


def _led_to(links: Links, items: Ints) -> Floats:
    """[items + 1, half-lives + 1] what a history leads to: the weights of its neighbours, summed per half-life, and the
    largest."""
    other, weight = links.other[items].ravel(), links.weight[items].astype(np.float64)
    decay = np.exp2(-np.arange(len(items)) / np.array(list(HALF_LIVES_EVENTS.values()))[:, None])
    sums = [np.bincount(other, (weight * factor[:, None]).ravel(), len(links.other)) for factor in decay]
    best = np.zeros(len(links.other))
    np.maximum.at(best, other, weight.ravel())
    return np.column_stack([*sums, best])


_COMPUTE: Mapping[str, Callable[[_Moments], NDArray[Any]]] = {
    "item": _item,
    "freshness": _freshness,
    "user": _user,
    "context": _context,
    "retrieval": _retrieval,
    "touch": _touch,
    "repeat": _repeat,
    "affinity": _affinity,
    "neighbours": _neighbours,
}


def _keys(m: _Moments, scope: str, request: Ints, code: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """One integer per (request, code), and which codes are known; an unknown code is nobody's key."""
    return request * np.int64(len(m.items.code_of[scope]) + 1) + code, code > 0


def _weights(m: _Moments, scope: str, labels: Sequence[Any], weights: Sequence[Any]) -> Floats:
    """[n] the weight that the row's user gives to the row's category or brand."""
    named, weighed = _lists(labels), _lists(weights)
    lengths = [min(len(a), len(b)) for a, b in zip(named, weighed, strict=True)]
    request = np.repeat(np.arange(len(lengths)), lengths)
    code_of = m.items.code_of[scope]
    code = np.fromiter((code_of.get(x, 0) for row, k in zip(named, lengths, strict=True) for x in row[:k]), np.int64)
    value = np.fromiter((x for row, k in zip(weighed, lengths, strict=True) for x in row[:k]), np.float64)
    keys, known = _keys(m, scope, request, code)
    groups = _Groups.of(keys[known])
    rows, _ = _keys(m, scope, m.candidates.request, m.items.codes[scope][m.candidates.item])
    return np.clip(groups.at(rows, groups.reduce(np.add, np.nan_to_num(value[known]))), -1e6, 1e6)


def _preferences(m: _Moments) -> Floats:
    """[n] stated preferences that the row's item meets."""
    wishes = _lists(m.requests.users["preferences"])
    width = np.int64(len(m.items.term_of) + 1)
    codes = [m.items.term_of.get(str(wish).casefold(), 0) for row in wishes for wish in row]
    request = np.repeat(np.arange(len(wishes)), [len(row) for row in wishes])
    stated = np.array(codes, np.int64)
    groups = _Groups.of((request * width + stated)[stated > 0])
    if len(groups.keys) == 0:
        return np.zeros(len(m.candidates))
    terms = m.items.terms[m.candidates.item]
    met = groups.at(m.candidates.request[:, None] * width + terms, np.ones(len(groups.keys)))
    return np.asarray(met.sum(axis=1))


def _usual_price(m: _Moments) -> Floats:
    """[requests] mean log price of the history's items, NaN where none has a price."""
    price = m.items.log_price[m.histories.item]
    known = ~np.isnan(price)
    count = np.bincount(m.histories.request[known], minlength=len(m.requests))
    total = np.bincount(m.histories.request[known], weights=price[known], minlength=len(m.requests))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _regions(requests: Requests) -> list[str]:
    """Where each request comes from: as it says, or else as the profile says; "" where nobody knows."""
    profile = (home if isinstance(home, str) else "" for home in requests.users["region"])
    return [here or home for here, home in zip(requests.region, profile, strict=True)]


def _days(seconds: Floats, unknown: float) -> Floats:
    """Days from seconds, at least 0; `unknown` where NaN."""
    return np.where(np.isnan(seconds), unknown, np.maximum(seconds, 0.0) / DAY)


def _log(values: Floats) -> Floats:
    return np.asarray(np.log1p(np.clip(values, 0.0, 1e12)))


def _numbers(values: Sequence[Any]) -> Floats:
    """A scalar column as float64; None, NaN and infinite values are 0, which all our counts and times read as none."""
    return np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _lists(values: Sequence[Any]) -> list[Any]:
    """A list column; None and NaN are empty."""
    return [value if isinstance(value, list | tuple | np.ndarray) else () for value in values]
