"""Train the two towers: the stage, without the training, which is in `pipelines.tower_training`.

A run that keeps what an earlier one trained has no use for TensorFlow, which takes five seconds to load.
"""

from pydantic import Field

from feature_repo import names
from pipelines import datasets, reuse, split, stage, tracking
from recsys.settings import Settings


class Params(stage.ReuseParams):
    epochs: int | None = Field(
        None, ge=1, description="passes over the examples; default: 2 to 8, the more events an item has the more"
    )
    dim: int = Field(names.EMBEDDING_DIM, ge=8, le=1024, description="length of the embeddings")
    batch_size: int | None = Field(None, ge=8, description="examples per step; default: by the items, 256 to 1024")
    learning_rate: float | None = Field(
        None, gt=0, description="of Adam at the start, falls along a cosine to 0; default: 0.002 per 256 examples"
    )
    history_length: int = Field(names.HISTORY_LENGTH, ge=1, le=1000, description="newest events that a tower sees")
    negatives: int | None = Field(
        None, ge=0, description="uniform negatives per step beside the batch's own; 0: all items, default up to 20,000"
    )
    layers: int = Field(1, ge=0, le=8, description="Transformer blocks over the history")
    history_dropout: float = Field(0.2, ge=0, lt=1, description="share of history events hidden in training")
    short_histories: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of visitors per step who keep their newest 1 to 15 events in training; default: 0.3 where "
        "hardly anybody's history stays that short, none elsewhere",
    )
    id_dropout: float = Field(0.1, ge=0, lt=1, description="share of items per step that go without their id")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of a user tower's inner values hidden in training")
    linear: float = Field(
        0.2, ge=0, description="weight of the linear autoencoder (EASE) beside the user tower; 0: without"
    )
    fade: float = Field(
        64.0, gt=0, description="events after which a target counts half: few if what comes next is all that is asked"
    )
    moments: int | None = Field(None, ge=0, description="moments of the past whose item statistics are used")


def touches(params: Params, settings: Settings) -> reuse.Touched:
    """Reads the sequences and snapshots of the day, and the item statistics up to it."""
    lake = datasets.lake(settings)
    stats = datasets.feature_view("item_stats")
    read = [lake.path(dataset, params.day) for dataset in (datasets.SEQUENCES, datasets.ITEMS, datasets.USERS)]
    # The first event alone decides where the holdout begins.
    told = {"seed": settings.seed, "cutoff": split.holdout(lake, params.day).cutoff}
    known = [lake.path(stats, day) for day in lake.days(stats, params.day)]
    return reuse.Touched([*read, *known], facts=params.facts() | told)


def keep(params: Params, settings: Settings, result: stage.Result) -> None:
    tracking.kept(settings, params.run, "train_retrieval", params.model_dump(), result)


def main(params: Params, settings: Settings) -> stage.Result | None:
    from pipelines import tower_training

    return tower_training.run(params, settings)
