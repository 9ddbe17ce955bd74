"""The peers of the ranker: boosted trees on its own features, strong and simple, which a network must not fall behind.

Both are LambdaMART (Burges, "From RankNet to LambdaRank to LambdaMART", 2010) on the same rows and linear gains, about
equally large: at most 64 leaves a tree, rate 0.05, a half of the features and four fifths of the data per tree. How
many trees is found by early stopping on the newest training requests, as for the ranker.
"""

import logging
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.ranking_examples import Examples

MOST_TREES = 400
PATIENCE = 40  # trees without gain on the newest requests
RATE = 0.05
DEPTH = 6
TRUNCATION = 20  # pairs are made with the first so many of a list
GROWTH = {"min_child_weight": 2.0, "subsample": 0.8, "colsample_bytree": 0.5, "tree_method": "hist"}  # XGBoost's
log = logging.getLogger(__name__)


def scores(train: Examples, test: Examples, blend: Mapping[str, float], seed: int) -> dict[str, NDArray[np.float32]]:
    """[n] scores of the test's rows, by name of `PEERS`."""
    return {name: fitted(train, test, blend, seed) for name, fitted in PEERS.items()}


def xgboost(train: Examples, test: Examples, blend: Mapping[str, float], seed: int) -> NDArray[np.float32]:
    """[n] scores by XGBoost, its trees grown level by level."""
    import xgboost as xgb

    options = {
        "objective": "rank:ndcg",
        "eval_metric": "ndcg@10",
        "ndcg_exp_gain": False,
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": TRUNCATION,
        "max_depth": DEPTH,
        "eta": RATE,
        **GROWTH,
        "seed": seed % 2**31,
    }
    fit, tail = (xgb.DMatrix(part.numeric, label=part.gains(blend), qid=part.request) for part in train.tail())
    booster = xgb.train(
        options, fit, MOST_TREES, evals=[(tail, "tail")], early_stopping_rounds=PATIENCE, verbose_eval=False
    )
    log.info("XGBoost: %d trees", booster.best_iteration + 1)
    found = booster.predict(xgb.DMatrix(test.numeric), iteration_range=(0, booster.best_iteration + 1))
    return np.asarray(found, np.float32)


def lightgbm(train: Examples, test: Examples, blend: Mapping[str, float], seed: int) -> NDArray[np.float32]:
    """[n] scores by LightGBM, its trees grown leaf by leaf."""
    import lightgbm as lgb

    # LightGBM wants whole labels, and is told what each is worth.
    worth, label = np.unique(train.gains(blend), return_inverse=True)
    options = {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": [10],
        "label_gain": worth.tolist(),
        "lambdarank_truncation_level": TRUNCATION,
        "num_leaves": 2**DEPTH,
        "learning_rate": RATE,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "feature_fraction": 0.5,
        "deterministic": True,
        "force_row_wise": True,  # or the fastest of two ways is found by the clock, and the sums with it
        "seed": seed % 2**31,
        "verbosity": -1,
    }
    older, newest = train.tail()
    fit = lgb.Dataset(older.numeric, label[: len(older)], group=_lengths(older))
    tail = lgb.Dataset(newest.numeric, label[len(older) :], group=_lengths(newest), reference=fit)
    stop = lgb.early_stopping(PATIENCE, verbose=False)
    booster = lgb.train(options, fit, MOST_TREES, valid_sets=[tail], callbacks=[stop])
    log.info("LightGBM: %d trees", booster.best_iteration)
    return np.asarray(booster.predict(test.numeric, num_iteration=booster.best_iteration), np.float32)


def _lengths(examples: Examples) -> NDArray[np.int64]:
    """Rows of each request that has some."""
    return np.asarray(np.unique(examples.request, return_counts=True)[1], np.int64)


Fitted = Callable[[Examples, Examples, Mapping[str, float], int], NDArray[np.float32]]
PEERS: Mapping[str, Fitted] = {"xgboost": xgboost, "lightgbm": lightgbm}
