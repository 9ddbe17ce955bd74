"""The trees of the ranker, by XGBoost: shallow ones, for the logit of what a row is expected to be worth.

They stand beside the network in the ranker; those that gate G3 holds against it (`pipelines.trees`) are deeper, learn
the order of a list, and are theirs alone.
"""

import logging

import numpy as np
from numpy.typing import NDArray

from models import ranker
from models.forest import Forest, Logit
from pipelines.ranking_examples import Examples
from pipelines.trees import GROWTH

DEPTH = 4
RATE = 0.1
MOST_TREES = 100  # twice as many order Online Retail no better, and cost every request a few milliseconds
PATIENCE = 20  # trees without gain on the newest requests
log = logging.getLogger(__name__)


def fit(train: Examples, tail: Examples, seed: int) -> Forest:
    """Trees for the gains of rows as a share of the most that one can bring, stopped early on the tail."""
    import xgboost as xgb

    options = {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "base_score": 0.5,
        "max_depth": DEPTH,
        "eta": RATE,
        **GROWTH,
        "seed": seed % 2**31,
    }
    most = sum(ranker.BLEND[head] for head in ranker.CHAIN)
    rows, newest = (
        # Negatives kept at a rate make odds too high by its inverse, as for the network.
        xgb.DMatrix(part.numeric, label=part.gains(ranker.BLEND) / most, base_margin=-part.log_rate)
        for part in (train, tail)
    )
    booster = xgb.train(
        options, rows, MOST_TREES, evals=[(newest, "tail")], early_stopping_rounds=PATIENCE, verbose_eval=False
    )
    kept = booster[: booster.best_iteration + 1]
    log.info("%d trees, log loss %.5f on the tail", kept.num_boosted_rounds(), booster.best_score)
    return Forest.of_xgboost(kept.save_raw("json"), DEPTH)


def logits(forest: Forest, examples: Examples) -> NDArray[np.float64]:
    """[n] what the trees say of examples."""
    import tensorflow as tf

    said = Logit(forest)
    parts = [said(tf.constant(examples.numeric[block])).numpy() for block in ranker.blocks(len(examples))]
    return np.concatenate(parts).astype(np.float64)
