"""Who asked: what was known of the users of the ranker's requests at the moment of each."""

from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore
from numpy.typing import NDArray

from feature_repo import names, store, transforms
from pipelines.past import Past


def users_at(features: FeatureStore, requests: pd.DataFrame, past: Past | None = None) -> dict[str, list[Any]]:
    """What was known of each request's user at its time: columns of `transforms.Requests.users`.

    From Feast by the same service as the predictor's, joined point in time. A visitor without a history of their own,
    logged in or not, has that of the session, as in serving. With `past`, a history goes on from midnight, where
    Feast's ends, up to the request.
    """
    found = _known(features, "ranking_v1", "user_id", requests, past)
    strangers = np.flatnonzero([not items for items in found["history_items"]])
    if len(strangers):
        visits = _known(features, "session_v1", "session_id", requests.iloc[strangers], past)
        for name in names.HISTORY:
            for row, value in zip(strangers, visits[name], strict=True):
                found[name][row] = value
    return {"user_id": requests["user_id"].tolist()} | found


def _known(
    features: FeatureStore, service: str, visitor: str, requests: pd.DataFrame, past: Past | None
) -> dict[str, list[Any]]:
    """What a feature service knew of the visitors in a column of the requests."""
    when = pd.to_datetime((requests["time"] * 1e6).astype(np.int64), unit="us", utc=True)
    asked = pd.DataFrame({visitor: requests[visitor], "event_timestamp": when})
    found = store.historical(features, service, visitor, asked)
    if past is not None:
        _go_on(found, requests[visitor].tolist(), requests["time"].to_numpy(), past)
    return found


def _go_on(found: dict[str, list[Any]], visitors: list[str], now: NDArray[np.float64], past: Past) -> None:
    """Append what each visitor did between midnight and the request to its history."""
    midnight = now // transforms.SECONDS_PER_DAY * transforms.SECONDS_PER_DAY
    for row, visitor in enumerate(visitors):
        today = past.between(visitor, midnight[row], now[row]).counting(now[row])
        for name, values in zip(names.HISTORY, (today.items, today.events, today.times), strict=True):
            found[name][row] = [*found[name][row], *values.tolist()][-names.HISTORY_LENGTH :]
