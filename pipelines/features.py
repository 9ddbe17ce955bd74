"""Windowed features of users and items, and the sequences that the towers learn from, with Spark.

A row covers a whole UTC day and is stamped with its end, t: its windows are [t - N days, t), so a request inside
the day sees the row of the day before. Per view:

- item_stats: every catalogue item, every day, so that decay and shares are those of the moment; before the days that
  the first run fills, one day a week, which is what the towers see of an item's past;
- user_activity, user_categories, user_history: a user on the days with events (impressions are not the user's doing);
- session_history: anonymous sessions, on the day of their last event;
- user_profile, item_content: rows that are new or differ from the snapshot before; a new one is known since its
  signup or creation.

The first run fills the holdout and the days around its start. Training joins users into the holdout, so older rows
would cost time and serve nobody; for users who were away during all of it, the first partition also keeps their last
row before, stamped with its own time. Later runs add the days since the last one. Where events have been published anew
since (refunds, late events), they write again what was made of those, but no further back than a first run fills.

Here is the order of work; the views of users and sessions are in user_features.py, those of items in
item_features.py, the arithmetic of windows in windows.py, and what they share in feature_rows.py.
"""

import bisect
import logging
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from pydantic import Field
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from pipelines import datasets, feature_rows, item_features, reuse, split, stage, turns, user_features
from pipelines import spark as engine
from pipelines.datasets import Dataset, Lake
from pipelines.feature_rows import Span
from recsys.settings import Settings

log = logging.getLogger(__name__)

ITEM_STATS = datasets.feature_view("item_stats")
BEFORE_HOLDOUT = 2  # days: a request in the first hour of the holdout sees the row of the day before
VIEWS = (
    *("item_stats", "item_content", "session_history"),
    *("user_activity", "user_categories", "user_history", "user_profile"),
)
SNAPSHOTS = ("item_content", "user_profile")  # made of the catalogue and the users, not of events
REPEAT_THRESHOLD = 0.15  # of purchases; above it people buy again, and a recommendation may repeat what they bought


class Params(stage.ReuseParams):
    history_days: int | None = Field(
        None, ge=2, le=1000, description="past days that the first run fills; default: the holdout and two before it"
    )


def touches(params: Params, settings: Settings) -> reuse.Touched:
    """Reads the published days up to the day; writes the offline tables up to it, and its sequences."""
    lake = datasets.lake(settings)
    views = [datasets.feature_view(name) for name in VIEWS]
    published, made = (
        [lake.path(dataset, day) for dataset in group for day in lake.days(dataset, params.day)]
        for group in (datasets.CLEAN.values(), views)
    )
    return reuse.Touched(published, [*made, lake.path(datasets.SEQUENCES, params.day)], params.facts())


def main(params: Params, settings: Settings) -> stage.Result:
    lake = datasets.lake(settings)
    previous = _previous(lake, params.day)
    filled = params.history_days or split.holdout(lake, params.day).days + BEFORE_HOLDOUT
    span = Span.until(params.day, _standing(lake, params.day, filled), filled)
    since_then = Span.until(params.day, previous, filled)
    log.info("features of %s: %d days, %s", params.day, span.last - span.first + 1, "first run" if span.initial else "")
    session = engine.session(settings, "features")
    items, users = (engine.read(session, lake, dataset, [params.day]) for dataset in (datasets.ITEMS, datasets.USERS))
    published = engine.read(session, lake, datasets.EVENTS, lake.days(datasets.EVENTS, until=params.day))
    events = feature_rows.prepare(published, items, span).persist()
    try:
        emit = user_features.active_days(events, span).persist()
        turned = turns.turned(published.where(F.unix_seconds("event_time") < span.end), items).persist()
        visits = user_features.sequences(events, turned).persist()
        bought = feature_rows.purchases(events).persist()
        frames = {
            "item_stats": item_features.item_stats(events, turned, bought, items, span),
            "user_activity": user_features.user_activity(events, emit),
            "user_categories": user_features.user_categories(events, turned, items, emit, span),
            "user_history": user_features.user_history(visits, emit),
            "session_history": user_features.session_history(visits, span),
            "item_content": item_features.item_content(
                items, _snapshot(session, lake, datasets.ITEMS, previous), since_then
            ),
            "user_profile": user_features.user_profile(
                users, _snapshot(session, lake, datasets.USERS, previous), since_then
            ),
        }
        spans = {name: since_then if name in SNAPSHOTS else span for name in frames}
        rows = {name: _publish(lake, datasets.feature_view(name), frame, spans[name]) for name, frame in frames.items()}
        rows["sequences"] = _publish_day(
            lake, datasets.SEQUENCES, params.day, user_features.training_sequences(visits, users)
        )
        share = item_features.repeat_share(bought)
    finally:
        session.catalog.clearCache()
    return {
        "rows": rows,
        "first_day": str(feature_rows.date_of(span.first)),
        "repeat_share": round(share, 4),
        "allow_repeats": share > REPEAT_THRESHOLD,
    }


def _previous(lake: Lake, day: date) -> date | None:
    """The last day before `day` that has rows; item_stats has some on every day."""
    done = lake.days(ITEM_STATS, until=day - timedelta(days=1))
    return done[-1] if done else None


def _standing(lake: Lake, day: date, filled: int) -> date | None:
    """The last day before `day` up to which no events were published after what was made of them."""
    previous = _previous(lake, day)
    if previous is None:
        return None
    done = lake.days(ITEM_STATS, until=previous)
    stale = previous + timedelta(days=1)
    for event_day in lake.days(datasets.EVENTS, until=previous):
        made = done[bisect.bisect_left(done, event_day)]
        if _written(lake, datasets.EVENTS, event_day) > _written(lake, ITEM_STATS, made):
            stale = min(stale, made)
    return max(stale - timedelta(days=1), min(previous, day - timedelta(days=filled)))


def _written(lake: Lake, dataset: Dataset, day: date) -> int:
    """When the files of a partition were written, in nanoseconds."""
    return max(path.stat().st_mtime_ns for path in lake.path(dataset, day).iterdir())


def _snapshot(session: SparkSession, lake: Lake, dataset: Dataset, until: date | None) -> DataFrame | None:
    """The newest snapshot of a dataset up to a day."""
    days = lake.days(dataset, until=until) if until else []
    return engine.read(session, lake, dataset, days[-1:]) if days else None


def _publish(lake: Lake, view: Dataset, frame: DataFrame, span: Span) -> int:
    """Write one partition a day, the last even if it is empty; returns the number of rows.

    Rows of users from before the span go into its first partition. A day of the span that has no rows any more leaves.
    """
    oldest = span.oldest if view == ITEM_STATS else span.first
    partition = F.date_add(F.lit(feature_rows.EPOCH), F.greatest("day", F.lit(oldest)))
    parts = 2 * frame.sparkSession.sparkContext.defaultParallelism
    with lake.replacing_days(view) as work:
        placed = frame.withColumn("day", partition).repartition(parts, "day")
        placed.write.mode("overwrite").partitionBy("day").parquet(str(work))
        last = work / f"day={feature_rows.date_of(span.last)}"
        if not last.exists():
            last.mkdir()
            empty: pa.Table = frame.drop("day").limit(0).toArrow()
            pyarrow.parquet.write_table(empty, last / "part-0.parquet")
        rows = int(pyarrow.dataset.dataset(work, format="parquet", partitioning=None).count_rows())
        written = {date.fromisoformat(path.name.removeprefix("day=")) for path in work.glob("day=*")}
    for day in lake.days(view, until=feature_rows.date_of(span.last)):
        if day >= feature_rows.date_of(span.first) and day not in written:
            lake.remove(view, day)
    log.info("%s: %d rows", view.name, rows)
    return rows


def _publish_day(lake: Lake, dataset: Dataset, day: date, frame: DataFrame) -> int:
    with lake.replacing(dataset, day) as work:
        frame.write.mode("overwrite").parquet(str(work))
        rows = int(pyarrow.dataset.dataset(work, format="parquet").count_rows())
    log.info("%s: %d rows", dataset.name, rows)
    return rows
