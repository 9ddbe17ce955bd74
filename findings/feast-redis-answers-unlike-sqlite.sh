#!/usr/bin/env bash
# Feast 0.67.0: the same three calls answer differently on the Redis and on the SQLite online store.
#
#   a second write with an equal event timestamp    Redis: dropped            SQLite: the new value
#   an entity that nobody has written               Redis: PRESENT, None      SQLite: NOT_FOUND, None
#   a row written 30 days ago, ttl of one hour      both: returned as PRESENT (the ttl acts on offline joins alone)
#
# So a store that passes its tests on SQLite can lose corrections in production, and a status cannot tell a new user
# from a known one. What the platform does: rows carry the time of the run that made them, what is unknown is told by
# the value, and ages are checked by the reader.
#
# Needs python3.11 and redis-server. Exits non-zero if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "${redis:-0}" 2>/dev/null || true; rm -rf "$work"' EXIT
python3.11 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check 'feast[redis]==0.67.0'
port=$("$work/env/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --port "$port" --bind 127.0.0.1 --save '' --dir "$work" >/dev/null &
redis=$!
cat >"$work/ask.py" <<'PY'
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, String

work, port = Path(sys.argv[1]), sys.argv[2]
now = datetime.now(UTC).replace(microsecond=0)
source = work / "source.parquet"
pd.DataFrame({"user": ["ann"], "spend": [0.0], "event_timestamp": [now]}).to_parquet(source)
user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
view = FeatureView(
    name="activity",
    entities=[user],
    ttl=timedelta(hours=1),
    schema=[Field(name="user", dtype=String), Field(name="spend", dtype=Float64)],
    source=FileSource(path=str(source), timestamp_field="event_timestamp"),
)


def answers(online: dict[str, str]) -> dict[str, tuple[float | None, str]]:
    kind = online["type"]
    store = FeatureStore(
        config=RepoConfig(
            project="probe",
            registry=str(work / f"{kind}.registry"),
            provider="local",
            online_store=online,
            entity_key_serialization_version=3,
        )
    )
    store.apply([user, view])

    def write(name: str, spend: float, at: datetime) -> None:
        row = {"user": [name], "spend": [spend], "event_timestamp": [at]}
        store.write_to_online_store("activity", pd.DataFrame(row))

    def read(name: str) -> tuple[float | None, str]:
        response = store.get_online_features(["activity:spend"], [{"user": name}])
        place = list(response.proto.metadata.feature_names.val).index("spend")
        status = response.proto.results[place].statuses[0]
        names = {0: "INVALID", 1: "PRESENT", 2: "NULL_VALUE", 3: "NOT_FOUND", 4: "OUTSIDE_MAX_AGE"}
        return response.to_dict()["spend"][0], names[status]

    write("ann", 1.0, now)
    write("ann", 2.0, now)
    write("old", 5.0, now - timedelta(days=30))
    return {"equal time": read("ann"), "never written": read("nobody"), "older than the ttl": read("old")}


seen = {
    "redis": answers({"type": "redis", "connection_string": f"localhost:{port}"}),
    "sqlite": answers({"type": "sqlite", "path": str(work / "online.db")}),
}
for kind, found in seen.items():
    print(kind, found)
assert seen == {
    "redis": {"equal time": (1.0, "PRESENT"), "never written": (None, "PRESENT"), "older than the ttl": (5.0, "PRESENT")},
    "sqlite": {"equal time": (2.0, "PRESENT"), "never written": (None, "NOT_FOUND"), "older than the ttl": (5.0, "PRESENT")},
}, "Feast answers otherwise now"
PY
"$work/env/bin/python" -W ignore "$work/ask.py" "$work" "$port"
