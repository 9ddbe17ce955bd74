"""All Feast objects, and only here: Feast imports this module once by its bare name, and the same object defined
twice is an error.

Offline tables lie beside the lake (`<storage root>/lake/features/<view>`), one parquet partition a day, written
by `pipelines.features` alone. Items have a row every day. A user has one when something happened; training and
serving both take the latest row before the moment of the request, so a window that has run out since is stale in
the same way for both, and the features of its age (ranking_table.py) say by how much.
"""

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, Float32, Float64, Int64, String

from feature_repo import names

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="a logged-in person")
session = Entity(name="session", join_keys=["session_id"], value_type=ValueType.STRING, description="one visit")
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="one product or film")

HISTORY = [
    Field(
        name="history_items",
        dtype=Array(String),
        description="positive events' items, oldest first, last 100",
    ),
    Field(name="history_events", dtype=Array(String), description="event type of each"),
    Field(name="history_times", dtype=Array(Int64), description="epoch seconds of each, UTC"),
]
SCHEMAS: dict[str, list[Field]] = {
    "user_profile": [
        Field(name="region", dtype=String),
        Field(name="age_group", dtype=String),
        Field(name="language", dtype=String),
        Field(name="signup_time", dtype=Int64, description="epoch seconds; 0 where unknown"),
        Field(name="preferences", dtype=Array(String)),
    ],
    "user_history": HISTORY,
    "user_activity": [
        *(Field(name=name, dtype=Float32) for name in names.USER_ACTIVITY),
        Field(name="first_event_time", dtype=Int64, description="epoch seconds"),
        Field(name="last_event_time", dtype=Int64, description="epoch seconds"),
        Field(name="activity_time", dtype=Int64, description="epoch seconds up to which the windows reach"),
    ],
    "user_categories": [
        Field(name="categories", dtype=Array(String), description="category paths by weight, heaviest first"),
        Field(
            name="category_weights",
            dtype=Array(Float32),
            description="signal-weighted share, half-life 30 days",
        ),
        Field(name="top_categories", dtype=Array(String), description="the same for most general categories"),
        Field(name="top_category_weights", dtype=Array(Float32)),
        Field(name="brands", dtype=Array(String)),
        Field(name="brand_weights", dtype=Array(Float32)),
    ],
    "user_embedding": [
        Field(name="embedding", dtype=Array(Float32), description="user tower's output, unit norm"),
        Field(name="embedding_version", dtype=String, description="version of the retrieval model"),
    ],
    "item_content": [
        Field(name="title", dtype=String),
        Field(name="category", dtype=String),
        Field(name="brand", dtype=String),
        Field(name="price", dtype=Float64),
        Field(name="available", dtype=Bool),
        Field(name="created_time", dtype=Int64, description="epoch seconds"),
    ],
    "item_stats": [
        *(Field(name=name, dtype=Float32) for name in names.ITEM_STATS),
        Field(name="item_first_event_time", dtype=Int64, description="epoch seconds"),
        Field(name="item_last_event_time", dtype=Int64, description="epoch seconds"),
        Field(name="stats_time", dtype=Int64, description="epoch seconds up to which the windows reach"),
    ],
    "item_embedding": [
        Field(name="embedding", dtype=Array(Float32), description="item tower's output, unit norm"),
        Field(name="embedding_version", dtype=String, description="version of the retrieval model"),
    ],
    "session_history": HISTORY,
}
ENTITIES = {"user_id": user, "item_id": item, "session_id": session}


def definitions(features: Path) -> list[Entity | FeatureView | FeatureService]:
    """All Feast objects over the offline tables in a folder.

    Args:
        features: folder that holds one subfolder of parquet files per view.
    """
    views = {name: _view(name, schema, features) for name, schema in SCHEMAS.items()}
    retrieval = FeatureService(
        name="retrieval_v1",
        features=[views[name] for name in ("user_profile", "user_history", "user_categories")],
    )
    ranking = FeatureService(
        name="ranking_v1",
        features=[views[n] for n in ("user_profile", "user_history", "user_activity", "user_categories")],
    )
    visit = FeatureService(name="session_v1", features=[views["session_history"]])
    items = FeatureService(name="items_v1", features=[views["item_content"], views["item_stats"]])
    return [user, session, item, *views.values(), retrieval, ranking, visit, items]


def _view(name: str, schema: list[Field], features: Path) -> FeatureView:
    key = names.ENTITY_OF_VIEW[name]
    # DuckDB reads files, not folders. The pattern passes by what a partition's replacement leaves aside for a moment.
    path = str(features / name / "day=*" / "*.parquet")
    source = FileSource(
        name=f"{name}_source", path=path, timestamp_field="event_timestamp", file_format=ParquetFormat()
    )
    # Offline joins look back without limit: a user who was away for a year still has a history. The key is part of
    # the schema, so that Feast need not open the files, which may not exist yet, to learn its type.
    return FeatureView(
        name=name,
        entities=[ENTITIES[key]],
        schema=[*schema, Field(name=key, dtype=String)],
        source=source,
        ttl=timedelta(0),
    )
