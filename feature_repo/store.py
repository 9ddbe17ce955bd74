"""The feature store of an installation: Feast over the lake's offline tables and Redis.

The configuration is made here from our settings. There is no `feature_store.yaml`: Feast's own command line would
collect the objects it finds at the top of modules, and drop the views, which `definitions.definitions` makes for a
storage root. Feast is always the reader: nobody else knows how its hashes are laid out.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
from feast import FeatureService, FeatureStore, RepoConfig
from feast.types import Array

from feature_repo import definitions, online
from feature_repo.row import Row
from recsys.errors import Permanent
from recsys.settings import Settings

PROJECT = "recsys"


def connect(settings: Settings, timeout: float = online.READ_TIMEOUT) -> FeatureStore:
    """Open the feature store; registers the definitions where no registry lies yet.

    Args:
        settings: the installation.
        timeout: seconds that one call of Redis may take; there is no second try. Batch jobs pass
            `online.WRITE_TIMEOUT`.
    """
    store = FeatureStore(config=config(settings, timeout))
    if not _registry(settings).exists():
        _apply(store, settings)
    return store


def apply(settings: Settings, timeout: float = online.READ_TIMEOUT) -> FeatureStore:
    """Bring the registry up to date with `definitions.py` and open the store; safe to repeat."""
    store = FeatureStore(config=config(settings, timeout))
    _apply(store, settings)
    return store


def config(settings: Settings, timeout: float = online.READ_TIMEOUT) -> RepoConfig:
    """Feast's configuration for these settings; `timeout` as for `connect`."""
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry={"path": str(_registry(settings)), "cache_ttl_seconds": 0},
        online_store={"type": "redis", "connection_string": connection_string(settings.redis_url, timeout)},
        # Measured on 20,000 requests into 45,000 histories: 4 s of CPU; the file (dask) store took over 200 s.
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
    )


def connection_string(url: str, timeout: float) -> str:
    """A redis:// URL in Feast's own notation.

    Raises:
        Permanent: the URL is of another kind, or has a comma in its password, which Feast cannot express.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise Permanent(f"redis_url must look like redis://host:port/0, got {url!r}")
    options: dict[str, str] = {
        "db": parts.path.strip("/") or "0",
        "socket_timeout": str(timeout),
        "socket_connect_timeout": str(timeout),
        # JSON null: redis-py would otherwise retry three times with growing pauses, seconds in all.
        "retry": "null",
    }
    if parts.scheme == "rediss":
        options["ssl"] = "true"
    if parts.username:
        options["username"] = f'"{unquote(parts.username)}"'
    if parts.password:
        options["password"] = f'"{unquote(parts.password)}"'
    if any("," in value for value in options.values()):
        raise Permanent("the user name and password of redis_url must not contain a comma: Feast splits there")
    return ",".join([f"{parts.hostname}:{parts.port or 6379}", *(f"{k}={v}" for k, v in options.items())])


def read_online(store: FeatureStore, service: str, entity: str, ids: Sequence[str]) -> dict[str, list[Any]]:
    """Read all features of a service for some entities, in one round trip.

    Args:
        store: from `connect`.
        service: name of a feature service, such as "retrieval_v1".
        entity: its join key: "user_id", "item_id" or "session_id".
        ids: entity ids, known or not.

    Returns:
        per feature, one value per id; for an unknown id None, and an empty list for a feature that is a list.

    Raises:
        Retryable: Redis does not answer within the timeout.
    """
    features, arrays = _service(store, service)
    with online.reachable():
        found: dict[str, list[Any]] = store.get_online_features(
            features=features, entity_rows={entity: list(ids)}
        ).to_dict()
    del found[entity]
    for name in arrays:
        found[name] = [value if value is not None else [] for value in found[name]]
    return found


def online_user(store: FeatureStore, user_id: str, service: str = "ranking_v1") -> dict[str, Any]:
    """All features of one user, scalars by name; an unknown user has None and empty lists. See `Row.read`."""
    return _row(store, service, "user_id").read(user_id)


def online_session(store: FeatureStore, session_id: str) -> dict[str, Any]:
    """The history of one visit; empty lists where it is unknown. See `Row.read`."""
    return _row(store, "session_v1", "session_id").read(session_id)


def historical(store: FeatureStore, service: str, entity: str, asked: pd.DataFrame) -> dict[str, list[Any]]:
    """What each request would have read online at its time: of every view the newest row that was not later.

    Rows change at midnight UTC only, so the join is made once per entity and day and not once per request: Feast
    multiplies every request with all earlier rows of its entity before it keeps the newest.

    Args:
        store: from `connect`.
        service: name of a feature service.
        entity: its join key.
        asked: columns `entity` and `event_timestamp` (UTC), one row per request, in any order.

    Returns:
        per feature, one value per request in the order asked, in the form of `read_online`.
    """
    features, arrays = _service(store, service)
    fields = [f.name for projection in features.feature_view_projections for f in projection.features]
    midnight = pd.to_datetime(asked["event_timestamp"], utc=True).dt.floor("D").astype("datetime64[ns, UTC]")
    keys = pd.DataFrame({entity: asked[entity].array, "event_timestamp": midnight.array})
    unique = keys.drop_duplicates(ignore_index=True)
    found = store.get_historical_features(entity_df=unique, features=features).to_df()
    aligned = keys.merge(found, on=[entity, "event_timestamp"], how="left", validate="many_to_one")
    return {name: [_plain(value, name in arrays) for value in aligned[name]] for name in fields}


def _plain(value: Any, is_array: bool) -> Any:
    """A value of a data frame as `read_online` gives it: None for NaN, lists for arrays."""
    if is_array:
        return list(value) if isinstance(value, list | np.ndarray) else []
    if value is None or value != value or value is pd.NA:  # NaN is the value that differs from itself
        return None
    return value.item() if isinstance(value, np.generic) else value


@lru_cache(maxsize=32)
def _service(store: FeatureStore, name: str) -> tuple[FeatureService, tuple[str, ...]]:
    """A service and its list-valued features; looking them up costs as much as the read itself."""
    service = store.get_feature_service(name)
    fields = [f for projection in service.feature_view_projections for f in projection.features]
    return service, tuple(f.name for f in fields if isinstance(f.dtype, Array))


@lru_cache(maxsize=32)
def _row(store: FeatureStore, service: str, entity: str) -> Row:
    return Row(store, store.get_feature_service(service), entity)


def _registry(settings: Settings) -> Path:
    return Path(settings.storage.root).resolve() / "feast" / "registry.db"


def offline_folder(settings: Settings) -> Path:
    """The folder with one subfolder of parquet partitions per view."""
    return Path(settings.storage.root).resolve() / "lake" / "features"


def _apply(store: FeatureStore, settings: Settings) -> None:
    _registry(settings).parent.mkdir(parents=True, exist_ok=True)
    store.apply(definitions.definitions(offline_folder(settings)))
