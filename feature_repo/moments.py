"""What the ranking features are computed from: requests, their candidates, and the visitors' pasts, prepared once.

Every block of `feature_repo.blocks` reads a `Moments`: histories are flattened and grouped here, so that no block
does it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import events, names
from feature_repo.groups import Bools, Floats, Groups, Ints
from feature_repo.item_matrix import ItemMatrix
from feature_repo.ranking_table import KINDS, SCOPES, WANTED_WEIGHT

DAY = 86_400.0
VISIT_GAP = 1_800.0  # seconds without an event that end a visit
USER_COLUMNS = (
    *("user_id", "region", "signup_time", "preferences", "history_items", "history_events", "history_times"),
    *names.USER_ACTIVITY,
    *("first_event_time", "activity_time"),
    *("categories", "category_weights", "top_categories", "top_category_weights", "brands", "brand_weights"),
)


@cache
def _by_type(weights: tuple[tuple[str, float], ...]) -> tuple[Mapping[str, int], Floats, Bools]:
    """Code of each event type, and by code its weight and whether it is of each of `ranking_table.KINDS`; the last row
    is for a type that this process does not know."""
    weight = np.array([*(value for _, value in weights), 0.0])
    kinds = np.array([[kind in kinds for kinds in KINDS.values()] for kind in (*(name for name, _ in weights), "")])
    return {kind: code for code, (kind, _) in enumerate(weights)}, weight, kinds


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

    @cached_property
    def regions(self) -> list[str]:
        """Where each comes from: as it says, or else as the profile says; "" where nobody knows."""
        profile = (home if isinstance(home, str) else "" for home in self.users["region"])
        return [here or home for here, home in zip(self.region, profile, strict=True)]


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


@dataclass(frozen=True)
class Histories:
    """The past events of all requests, flat, request after request, oldest first.

    Attributes:
        request: [events]. item: [events], -1 where the catalogue no longer holds it.
        time: [events] epoch seconds. age: [events] days before the request, > 0.
        ago: [events] later events of the history. visit: [events] later visits of it; 0 is the last visit.
        weight: [events] `events.SIGNAL_WEIGHT`. kinds: [events, KINDS] whether it is of each of `ranking_table.KINDS`.
        price: [events] log price of the item, NaN where unknown.
        bounds: [requests + 1] where each request's events begin.
    """

    request: Ints
    item: Ints
    time: Floats
    age: Floats
    ago: Ints
    visit: Ints
    weight: Floats
    kinds: Bools
    price: Floats
    bounds: Ints

    def of_kind(self, kind: str) -> Bools:
        """[events] whether each is of a kind of `ranking_table.KINDS`."""
        return self.kinds[:, list(KINDS).index(kind)]

    @property
    def wanted(self) -> Bools:
        """[events] whether each says that the item was wanted, not merely looked at."""
        return self.weight >= WANTED_WEIGHT


@dataclass(frozen=True)
class Scopes:
    """The histories grouped by request and by what items share: once per name of `ranking_table.SCOPES`, all in one.

    Attributes:
        groups: of the events of `Histories`, each in the group of every scope in which its item has a code.
        keys: [scopes, n] key of each candidate. rows: [scopes, n] its group.
        widths, offsets: [scopes] of which keys are made: a number per request and code, after those of other scopes.
    """

    groups: Groups
    keys: Ints
    rows: Ints
    widths: Ints
    offsets: Ints

    @staticmethod
    def of(past: Histories, candidates: Candidates, items: ItemMatrix, requests: int) -> "Scopes":
        widths = items.widths
        offsets = (np.cumsum(widths) - widths) * requests
        code = items.codes[:, past.item]
        groups = Groups.of(past.request * widths[:, None] + code + offsets[:, None], code > 0)
        keys = candidates.request * widths[:, None] + items.codes[:, candidates.item] + offsets[:, None]
        return Scopes(groups, keys, groups.find(keys), widths, offsets)

    def key(self, scope: str, request: Ints, code: Ints) -> Ints:
        """Keys of requests and codes; code 0 is nobody's."""
        k = SCOPES.index(scope)
        return np.asarray(request * self.widths[k] + code + self.offsets[k])

    def per_row(self, scope: str, groups: NDArray[Any]) -> NDArray[Any]:
        """[n, …] what is known per group, for each candidate."""
        return np.asarray(groups[self.rows[SCOPES.index(scope)]])


@dataclass(frozen=True)
class Moments:
    """What every block works on.

    Attributes:
        visitors: the histories grouped by request.
        visitor: [requests] group of each request.
        scopes: the histories grouped by what items share.
    """

    requests: Requests
    candidates: Candidates
    items: ItemMatrix
    histories: Histories
    visitors: Groups
    visitor: Ints
    scopes: Scopes

    @staticmethod
    def of(requests: Requests, candidates: Candidates, items: ItemMatrix) -> "Moments":
        """Prepare.

        Raises:
            ValueError: a user column is missing, or a history's arrays differ in length.
        """
        if missing := [name for name in USER_COLUMNS if name not in requests.users]:
            raise ValueError(f"ranking needs user columns {missing}; it got {sorted(requests.users)}")
        past = _histories(requests, items)
        visitors = Groups.of(past.request, np.ones(len(past.request), bool))
        visitor = visitors.find(np.arange(len(requests)))
        scopes = Scopes.of(past, candidates, items, len(requests))
        return Moments(requests, candidates, items, past, visitors, visitor, scopes)

    @property
    def now(self) -> Floats:
        """[n] epoch seconds of each row's request."""
        return self.requests.now[self.candidates.request]

    @cached_property
    def idle(self) -> Floats:
        """[requests] days since the last event of the history, infinite without one."""
        return self.visitors.least(self.histories.age)[self.visitor]

    @property
    def visiting(self) -> Bools:
        """[requests] whether the last visit is still going on."""
        return self.idle <= VISIT_GAP / DAY

    @cached_property
    def visits(self) -> Floats:
        """[requests] visits of the history."""
        return self.visitors.most(self.histories.visit + 1)[self.visitor]

    def of_last(self, values: NDArray[Any], nothing: float) -> NDArray[Any]:
        """[requests, …] the value [events, …] of the last event, `nothing` without one."""
        newest = np.flatnonzero(self.histories.ago == 0)
        found = np.full((len(self.requests), *values.shape[1:]), nothing, values.dtype)
        found[self.histories.request[newest]] = values[newest]
        return found

    def per_row(self, *columns: NDArray[Any] | Sequence[Any]) -> NDArray[np.float32]:
        """[n, columns] what is known per request, for each candidate."""
        return table(*columns)[self.candidates.request]


def _histories(requests: Requests, items: ItemMatrix) -> Histories:
    columns = [lists(requests.users[name]) for name in names.HISTORY]
    lengths = [[len(values) for values in column] for column in columns]
    if lengths[0] != lengths[1] or lengths[0] != lengths[2]:
        raise ValueError("history_items, history_events and history_times of a request must be equally long")
    request = np.repeat(np.arange(len(requests)), lengths[0])
    time = np.fromiter(chain.from_iterable(columns[2]), np.float64, len(request))
    code_of, weights, kinds = _by_type(tuple(events.SIGNAL_WEIGHT.items()))
    code = np.fromiter((code_of.get(kind, -1) for kind in chain.from_iterable(columns[1])), np.int64, len(request))
    item = items.rows(chain.from_iterable(columns[0]))
    age = (requests.now[request] - time) / DAY
    order = np.lexsort((time, request))  # of one second: in the order of the store
    past = order[age[order] > 0]
    request, item, time, age, code = request[past], item[past], time[past], age[past], code[past]
    bounds = np.searchsorted(request, np.arange(len(requests) + 1))
    last = bounds[request + 1] - 1
    begun = np.cumsum(np.diff(time, prepend=-np.inf) > VISIT_GAP)  # only differences within a request mean anything
    return Histories(
        request=request,
        item=item,
        time=time,
        age=age,
        ago=last - np.arange(len(request)),
        visit=begun[last] - begun,
        weight=weights[code],
        kinds=kinds[code],
        price=items.log_price[item],
        bounds=bounds,
    )


def table(*columns: NDArray[Any] | Sequence[Any]) -> NDArray[np.float32]:
    """[rows, columns] float32 of columns [rows] or [rows, some]."""
    return np.column_stack(columns).astype(np.float32)


def days(seconds: Floats, unknown: float) -> Floats:
    """Days from seconds, at least 0; `unknown` where NaN."""
    return np.where(np.isnan(seconds), unknown, np.maximum(seconds, 0.0) / DAY)


def numbers(values: Sequence[Any]) -> Floats:
    """Scalar columns as float64; None, NaN and infinite values are 0, which all our counts and times read as none."""
    found = np.asarray(values, np.float64)
    return np.where(np.isfinite(found), found, 0.0)


def lists(values: Sequence[Any]) -> list[Any]:
    """A list column; None and NaN are empty."""
    return [value if isinstance(value, list | tuple | np.ndarray) else () for value in values]
