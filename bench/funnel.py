"""The whole funnel on a frozen split: retrieval's candidates, ordered by the ranker.

The ranker learns from the question of the split asked one step earlier (`protocol.earlier`), where the answer is known
and neither the towers nor the neighbours that it learns with have seen it. The towers that then answer have learnt from
everything allowed, with the same hyperparameters, so the ranker meets scores of the kind it knows.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import protocol
from feature_repo import events, names, store
from models import ranker, two_tower
from pipelines import (
    datasets,
    holdout,
    item_neighbours,
    ranker_training,
    ranking_examples,
    ranking_requests,
    ranking_users,
    train_ranker,
)
from pipelines.datasets import Lake
from pipelines.past import Deeds, Past
from pipelines.ranking_examples import Examples
from pipelines.ranking_requests import Judged
from recsys.settings import Settings

AT_ONCE = 1_024  # users whose rows of features are in memory
log = logging.getLogger(__name__)
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """Who asks, when (epoch seconds), after which events (item_id, time), and what was then wanted, if it is known: the
    amount of each item, 0 where the split has no prices."""

    user: str
    now: float
    history: pd.DataFrame
    wanted: Mapping[str, float] = field(default_factory=dict)


def asked(split: protocol.Split) -> list[Question]:
    """Of everybody, in the order of `split.asked`; the answers stay unknown."""
    return [Question(*facts) for facts in zip(split.asked, split.now(), split.histories(), strict=True)]


def taught(earlier: protocol.Split) -> list[Question]:
    """With their answers, by time. By time: all that a user had in the window. Otherwise: the very next event, asked
    before each of those that were left out."""
    future = dict(tuple(earlier.future.assign(amount=amounts(earlier.future)).groupby("user_id", sort=False)))
    found = []
    for question in asked(earlier):
        then = future[question.user]
        if earlier.window is not None:
            wanted = then.groupby("item_id", sort=False)["amount"].sum().to_dict()
            found.append(Question(question.user, question.now, question.history, wanted))
            continue
        step = question.now - question.history["time"].iloc[-1]
        whole = pd.concat([question.history, then], ignore_index=True)
        for place in range(len(question.history), len(whole)):
            history, wanted = whole.iloc[:place], {whole["item_id"].iloc[place]: whole["amount"].iloc[place]}
            found.append(Question(question.user, history["time"].iloc[-1] + step, history, wanted))
    return sorted(found, key=lambda question: question.now)


def amounts(bought: pd.DataFrame) -> pd.Series:
    """[n] price times quantity; 0 where the split has no prices."""
    return bought.get("price", 0.0) * bought.get("qty", pd.Series(1.0, bought.index))


@dataclass(frozen=True)
class Funnel:
    """What stands before the ranker, fitted on all that a split allows, and the question's surroundings."""

    split: protocol.Split
    towers: two_tower.Towers
    shelf: ranking_examples.Shelf
    regions: pd.Series
    repeats: bool
    settings: Settings

    @staticmethod
    def stand(
        split: protocol.Split, lake: Lake, towers: two_tower.Towers, repeats: bool, settings: Settings
    ) -> "Funnel":
        item_ids = sorted(split.items["item_id"])
        end = datasets.end_of(split.day).timestamp()
        seen = holdout.interactions(lake, split.day, {item: row for row, item in enumerate(item_ids)}, end)
        shelf = ranking_examples.Shelf(lake, split.day, towers, item_neighbours.fit(seen, item_ids))
        users = protocol.users(split).set_index("user_id")
        regions = users["region"] if "region" in users else pd.Series("", users.index)
        return Funnel(split, towers, shelf, regions.fillna(""), repeats, settings)

    def learn(self, questions: list[Question], params: train_ranker.Params) -> ranker.Scorer:
        """The ranker, from questions with answers, oldest first; of more than `params.max_requests` a sample."""
        rng = np.random.default_rng([self.settings.seed, 1])
        kept = np.sort(rng.permutation(len(questions))[: params.max_requests])
        examples = self.examples([questions[row] for row in kept], params.negatives)
        log.info("%d questions of %d, %d rows of examples", len(kept), len(questions), len(examples))
        served, _, chosen = ranker_training.learn(*examples.tail(), params, self.settings.seed)
        log.info("chosen: %s", chosen)
        return ranker.Scorer(served.score, served)

    def answer(self, questions: list[Question], scorer: ranker.Scorer) -> "Lists":
        """Candidates of every question, scored."""
        return Lists(*(np.concatenate(column) for column in zip(*self._answers(questions, scorer), strict=True)))

    def _answers(self, questions: list[Question], scorer: ranker.Scorer) -> Iterator[tuple[NDArray[np.generic], ...]]:
        for first in range(0, len(questions), AT_ONCE):
            part = questions[first : first + AT_ONCE]
            order = np.argsort([question.now for question in part], kind="stable")
            examples = self.examples([part[row] for row in order], negatives=0)
            row = first + order[examples.request]
            by_row = np.argsort(row, kind="stable")
            item = self.split.place.get_indexer(examples.item_id)
            ranked = ranker.blend(scorer.score(examples.inputs()), ranker.BLEND)
            columns = row, item, examples.feature("retrieval_score"), ranked
            yield tuple(column[by_row] for column in columns)
            log.info("%d of %d users asked about", first + len(part), len(questions))

    def examples(self, questions: Sequence[Question], negatives: int) -> Examples:
        """Rows of questions, which are in order of time; `negatives` as in `ranking_examples.Plan`."""
        asking = pd.DataFrame({"user_id": [q.user for q in questions], "time": [q.now for q in questions]})
        region = self.regions.reindex(asking["user_id"]).fillna("").to_numpy()
        asking = asking.assign(session_id="", surface="", region=region)
        users = ranking_users.users_at(store.connect(self.settings), asking)
        newest = [q.history.tail(names.HISTORY_LENGTH) for q in questions]
        users["history_items"] = [history["item_id"].tolist() for history in newest]
        users["history_events"] = [[self.split.event] * len(history) for history in newest]
        users["history_times"] = [history["time"].tolist() for history in newest]
        # A user may ask at several moments, and what was had before each follows from the longest history.
        past = Past({q.user: self._deeds(q.history) for q in sorted(questions, key=lambda q: len(q.history))})
        plan = ranking_examples.Plan(self.settings.api.candidates, negatives, self.repeats, self.settings.seed)
        judged = Judged(asking, self._wanted(questions), shown=False)
        return ranking_examples.build(judged, users, self.shelf, self.towers, names.HISTORY_LENGTH, plan, past)

    def _wanted(self, questions: Sequence[Question]) -> pd.DataFrame:
        kind = self.split.event
        meant = {
            "click": 1.0,
            "cart": float(kind in ranking_requests.wanted()),
            "purchase": float(kind == events.EventType.PURCHASE),
        }
        rows = {
            "request": np.repeat(np.arange(len(questions)), [len(q.wanted) for q in questions]),
            "item_id": np.array([item for q in questions for item in q.wanted], dtype=object),
            "amount": np.array([amount for q in questions for amount in q.wanted.values()]),
        }
        return pd.DataFrame(rows).assign(position=-1, **meant)

    def _deeds(self, history: pd.DataFrame) -> Deeds:
        items = history["item_id"].to_numpy(object)
        kinds = np.full(len(items), self.split.event, object)
        return Deeds(items, kinds, history["time"].to_numpy(np.int64), np.empty((len(items), 0)))


@dataclass(frozen=True)
class Lists:
    """Candidates [n] of the asked users, by user: rows of users and of items, retrieval's score and the ranker's."""

    user: Ints
    item: Ints
    retrieval: NDArray[np.float32]
    ranked: NDArray[np.float64]

    def scores(self, rows: slice, items: int, by: str) -> NDArray[np.float32]:
        """[users of the slice, items] -inf for what is no candidate.

        Args:
            by: "retrieval" or "ranked".
        """
        part = slice(*np.searchsorted(self.user, [rows.start, rows.stop]))
        found = np.full((rows.stop - rows.start, items), -np.inf, np.float32)
        found[self.user[part] - rows.start, self.item[part]] = getattr(self, by)[part]
        return found
