"""How an item suits the user's profile and the place of the request: block "affinity"."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.groups import Floats, Groups
from feature_repo.moments import Moments, lists, numbers
from feature_repo.ranking_table import LIFT_FLOOR, SCOPES, WEIGHED

MOST_WEIGHT = 1e6  # what a broken weight may do at most


def affinity(m: Moments) -> Iterator[NDArray[Any]]:
    users, request, item = m.requests.users, m.candidates.request, m.candidates.item
    here, profile = m.requests.regions, users["region"]
    code = np.array([m.items.region_of.get(name, len(m.items.region_of)) for name in here], np.int64)[request]
    unknown = np.array([not name for name in here], bool)
    away = np.array([bool(home) and place != home for place, home in zip(here, profile, strict=True)], bool)
    weight, log_weight = _weights(m)
    yield weight.T
    yield _preferences(m)
    yield m.items.allowed[code, item] | unknown[request]
    yield m.items.named[code, item]
    yield away[request]
    for k, scope in enumerate(WEIGHED):
        lift = log_weight[k] - m.items.log_popularity_share[scope][item]
        yield np.where(m.items.code(scope)[item] > 0, lift, 0.0)


def _weights(m: Moments) -> tuple[Floats, Floats]:
    """[WEIGHED, n] the weight that the row's user gives to what the row's item has, and its logarithm, NaN where the
    user gives none to any."""
    keys, members, values, known = [], [], [], []
    for scope, columns in WEIGHED.items():
        code_of = m.items.code_of[scope]
        named, weighed = (lists(m.requests.users[column]) for column in columns)
        lengths = [min(len(a), len(b)) for a, b in zip(named, weighed, strict=True)]
        labels = (label for row, k in zip(named, lengths, strict=True) for label in row[:k])
        code = np.fromiter((code_of.get(label, 0) for label in labels), np.int64)
        keys.append(m.scopes.key(scope, np.repeat(np.arange(len(lengths)), lengths), code))
        members.append(code > 0)
        values += [weight for row, k in zip(weighed, lengths, strict=True) for weight in row[:k]]
        known.append(np.where(np.array(lengths) > 0, 0.0, np.nan))
    groups = Groups.of(np.concatenate(keys), np.concatenate(members))
    total = np.clip(groups.total(numbers(values)), -MOST_WEIGHT, MOST_WEIGHT)
    found = groups.find(m.scopes.keys[[SCOPES.index(scope) for scope in WEIGHED]])
    return total[found], np.log(np.maximum(total, 0.0) + LIFT_FLOOR)[found] + np.array(known)[:, m.candidates.request]


def _preferences(m: Moments) -> Floats:
    """[n] stated preferences that the row's item meets."""
    wishes = lists(m.requests.users["preferences"])
    width = len(m.items.term_of) + 1
    stated = np.array([m.items.term_of.get(str(wish).casefold(), 0) for row in wishes for wish in row], np.int64)
    request = np.repeat(np.arange(len(wishes)), [len(row) for row in wishes])
    groups = Groups.of(request * width + stated, stated > 0)
    met = groups.find(m.candidates.request[:, None] * width + m.items.terms[m.candidates.item]) < len(groups.keys)
    return np.asarray(met.sum(axis=1))
