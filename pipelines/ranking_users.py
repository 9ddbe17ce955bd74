"""Who asked: what was known of the users of the ranker's requests at the moment of each."""

from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore

from feature_repo import names, store, transforms
from pipelines import ranking_requests
from pipelines.past import Past


def users_at(features: FeatureStore, requests: pd.DataFrame, past: Past | None = None) -> dict[str, list[Any]]:
    """What was known of each request's user at its time: columns of `transforms.Requests.users`.

    From Feast by the same service as the predictor's, joined point in time. An anonymous visitor has the history of
    the session alone. With `past`, a history goes on from midnight, where Feast's ends, up to the request.
    """
    when = pd.to_datetime((requests["time"] * 1e6).astype(np.int64), unit="us", utc=True)
    asked = pd.DataFrame({"user_id": requests["user_id"], "event_timestamp": when})
    found = {"user_id": asked["user_id"].tolist()} | store.historical(features, "ranking_v1", "user_id", asked)
    anonymous = np.flatnonzero(requests["user_id"] == "")
    if len(anonymous):
        visits = pd.DataFrame({"session_id": requests["session_id"], "event_timestamp": when}).iloc[anonymous]
        for name, values in store.historical(features, "session_v1", "session_id", visits).items():
            for row, value in zip(anonymous, values, strict=True):
                found[name][row] = value
    if past is not None:
        _go_on(found, requests, past)
    return found


def _go_on(found: dict[str, list[Any]], requests: pd.DataFrame, past: Past) -> None:
    """Append what each visitor did between midnight and the request to its history."""
    now = requests["time"].to_numpy()
    midnight = now // transforms.SECONDS_PER_DAY * transforms.SECONDS_PER_DAY
    for row, visitor in enumerate(ranking_requests.visitors(requests)):
        today = past.between(visitor, midnight[row], now[row])
        for name, values in zip(names.HISTORY, (today.items, today.events, today.times), strict=True):
            found[name][row] = [*found[name][row], *values.tolist()][-names.HISTORY_LENGTH :]
