"""Train the multi-task ranker: the stage, without the training, which is in `pipelines.ranker_training`.

A run that keeps what an earlier one trained has no use for TensorFlow, which takes five seconds to load.
"""

from pydantic import Field

from feature_repo import names
from models import places
from pipelines import datasets, reuse, stage, tracking
from pipelines.baselines import EASE_ITEMS
from recsys.settings import Settings


class Params(stage.ReuseParams):
    """What a person may change."""

    max_requests: int = Field(4000, ge=50, description="requests to learn from; beyond it a random sample by time")
    max_test_requests: int = Field(1500, ge=20, description="requests to judge on; the same for the last 30 %")
    max_test_lists: int = Field(400, ge=20, description="the same where a request has all candidates as rows")
    negatives: int = Field(50, ge=5, description="candidates not chosen that are kept per training request")
    epochs: int = Field(20, ge=1, description="most passes; training stops early")
    listwise: float = Field(0.3, ge=0, description="weight of the ranking loss beside the likelihoods")
    debias: places.Debias = Field(
        "tower",
        description="what keeps the slots of a list out of the scores: a position tower, inverse propensities, nothing",
    )
    patience: int = Field(3, ge=1, description="passes without gain before it stops")
    batch: int | None = Field(None, ge=1, description="requests per step; default: a hundredth of all, 8 to 32")
    learning_rate: float = Field(1e-3, gt=0, description="peak, falling to a twentieth along a cosine")
    weight_decay: float = Field(1e-2, ge=0, description="of AdamW")
    ease_items: int = Field(
        EASE_ITEMS, ge=0, description="largest catalogue whose neighbours are EASE's weights; above, cosines"
    )


def touches(params: Params, settings: Settings) -> reuse.Touched:
    """Reads the towers of the run, the published days and the offline tables up to the day."""
    lake = datasets.lake(settings)
    tables = [*datasets.CLEAN.values(), *map(datasets.feature_view, names.DATA_VIEWS)]
    read = [lake.path(table, day) for table in tables for day in lake.days(table, params.day)]
    told = {
        "seed": settings.seed,
        "candidates": settings.api.candidates,
        "repeats": stage.result_of(settings, params.run, "features")["allow_repeats"],
        "towers": stage.result_of(settings, params.run, "train_retrieval")["artifact"]["version"],
    }
    return reuse.Touched(read, facts=params.facts() | told)


def keep(params: Params, settings: Settings, result: stage.Result) -> None:
    tracking.kept(settings, params.run, "train_ranker", params.model_dump(), result)


def main(params: Params, settings: Settings) -> stage.Result:
    from pipelines import ranker_training

    return ranker_training.run(params, settings)
