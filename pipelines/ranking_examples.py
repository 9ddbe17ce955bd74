"""The ranker's examples: requests of the holdout, which the towers never saw, as rows of features and labels.

Everything is as it was at the moment of the request: users from Feast's point-in-time join, item statistics as of
the start of that day (what a release made the night before would serve with), retrieval's scores by the run's own
towers over the items that existed. Features come from `transforms.ranking_inputs`, as in serving.

Where nobody knows what was shown, a request's rows are its candidates, retrieval's best 500. For training only
some of those that the visitor did not choose are kept, at a rate whose logarithm is `log_rate`; the ranker takes it
off the click logit, so that its probabilities are those of the full list. For judging, every candidate is kept.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from feature_repo import names, transforms
from feature_repo.neighbours import NOBODY, Neighbours
from models import ranker
from pipelines import datasets, embedding, ranking_requests
from pipelines.datasets import Lake
from pipelines.past import Past
from pipelines.ranking_requests import Judged

TAIL_SHARE = 0.15  # of the training requests, the newest
BLOCK = 64  # requests scored against the catalogue at once
log = logging.getLogger(__name__)
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Examples:
    """Rows of whole requests, request after request.

    Attributes:
        numeric: [n, F] float32, in the order of `transforms.RANKING_FEATURES`.
        strings: by name of `ranker.STRINGS`, [n] str.
        request: [n] number of the request, ascending from 0.
        item_id: [n] str. position: [n] int32, -1 = not shown in a list. labels: [n, chain] float32, nested.
        amount: [n] float32, what purchases of a known price brought in, in the shop's currency; 0 elsewhere.
        log_rate: [n] float32, log of the rate at which the request's negatives were sampled.
        chosen: [requests] items that the visitor chose, whether among the rows or not.
        time: [requests] epoch seconds, ascending.
    """

    numeric: NDArray[np.float32]
    strings: Mapping[str, NDArray[np.object_]]
    request: Ints
    item_id: NDArray[np.object_]
    position: NDArray[np.int32]
    labels: NDArray[np.float32]
    amount: NDArray[np.float32]
    log_rate: NDArray[np.float32]
    chosen: Ints
    time: Floats

    def __len__(self) -> int:
        return len(self.request)

    def feature(self, name: str) -> NDArray[np.float32]:
        """[n] one feature."""
        return self.numeric[:, transforms.RANKING_FEATURES.index(name)]

    def inputs(self) -> dict[str, NDArray[Any]]:
        """The inputs of the serving signature."""
        return {"numeric": self.numeric, **self.strings}

    def gains(self, blend: Mapping[str, float]) -> Floats:
        """[n] what each row is worth: the weights of everything in the chain that came true."""
        return np.asarray(self.labels.astype(np.float64) @ np.array([blend[head] for head in ranker.CHAIN]))

    def tail(self) -> tuple["Examples", "Examples"]:
        """The older requests, to fit weights on, and the newest, for early stopping and calibration."""
        return self.split_at(max(1, round(len(self.time) * (1 - TAIL_SHARE))))

    def only(self, rows: NDArray[np.bool_]) -> "Examples":
        """Some of the rows, of the same requests."""
        return self._part(rows, slice(None), 0)

    def split_at(self, requests: int) -> tuple["Examples", "Examples"]:
        """The first requests, and the others, numbered from 0 again."""
        row = int(np.searchsorted(self.request, requests))
        return self._part(slice(0, row), slice(0, requests), 0), self._part(
            slice(row, None), slice(requests, None), requests
        )

    def _part(self, rows: slice | NDArray[np.bool_], requests: slice, first: int) -> "Examples":
        return Examples(
            self.numeric[rows],
            {name: values[rows] for name, values in self.strings.items()},
            self.request[rows] - first,
            self.item_id[rows],
            self.position[rows],
            self.labels[rows],
            self.amount[rows],
            self.log_rate[rows],
            self.chosen[requests],
            self.time[requests],
        )


@dataclass(frozen=True)
class Plan:
    """How candidates are taken.

    Attributes:
        candidates: retrieval's list, as long as in serving.
        negatives: of those that a visitor did not choose, kept per request; 0 keeps all.
        allow_repeats: whether an item that the visitor had already is a candidate.
        seed: of the sample.
    """

    candidates: int
    negatives: int
    allow_repeats: bool
    seed: int


class Shelf:
    """The catalogue of a data day as it was known at earlier moments."""

    def __init__(self, lake: Lake, day: date, towers: embedding.Towers, neighbours: Neighbours = NOBODY) -> None:
        self._neighbours = neighbours
        self._items = embedding.catalogue(lake, day)
        self._towers = towers
        self._created = transforms.item_matrix({**self._columns(self._items)}).created[:-1]
        view = datasets.feature_view("item_stats")
        columns = ["item_id", "event_timestamp", *names.ITEM_STATS, *embedding.ITEM_TIMES]
        stats = lake.read_days(view, lake.days(view, until=day), columns).to_pandas()
        self._stats = stats.sort_values("event_timestamp", kind="stable", ignore_index=True)
        self._times = self._stats["event_timestamp"].astype("datetime64[us, UTC]").astype(np.int64).to_numpy() / 1e6

    @staticmethod
    def _columns(items: pa.Table) -> dict[str, NDArray[Any]]:
        return {name: items.column(name).to_numpy(zero_copy_only=False) for name in transforms.ITEM_COLUMNS}

    def as_of(self, moment: float) -> tuple[transforms.ItemMatrix, NDArray[np.float32]]:
        """The item matrix and the item vectors [n, dim] with the statistics known at a moment (epoch seconds)."""
        known = self._stats.iloc[: int(np.searchsorted(self._times, moment, side="right"))]
        newest = known.drop_duplicates("item_id", keep="last").set_index("item_id")
        newest = newest.reindex(self._items.column("item_id").to_pylist())
        items = self._items
        for name in (*names.ITEM_STATS, *embedding.ITEM_TIMES):
            kind = items.schema.field(name).type
            values = pa.array(newest[name].fillna(0).to_numpy()).cast(kind, safe=False)
            items = items.set_column(items.schema.get_field_index(name), name, values)
        vectors = embedding.embed_items(self._towers, items, datetime.fromtimestamp(moment, UTC))
        return transforms.item_matrix(self._columns(items), self._neighbours), vectors

    def there(self, now: Floats) -> NDArray[np.bool_]:
        """[requests, items] whether an item was in the catalogue at the time of a request."""
        return ~(self._created[None, :] >= now[:, None])


def build(
    judged: Judged,
    users: Mapping[str, list[Any]],
    shelf: Shelf,
    towers: embedding.Towers,
    history_length: int,
    plan: Plan,
    past: Past | None = None,
) -> Examples:
    """Rows, features and labels of requests.

    Args:
        judged: requests and what came of them.
        users: of `ranking_users.users_at`, for the same requests.
        shelf: the items.
        towers: of the run. history_length: what its user tower was trained with.
        plan: which candidates are kept.
        past: of the visitors; needed where `plan.allow_repeats` is False.
    """
    requests = _placed(judged.requests, users)
    queries = _queries(requests, users, towers, history_length)
    parts: list[dict[str, Any]] = []
    midnight = requests["time"].to_numpy() // transforms.SECONDS_PER_DAY * transforms.SECONDS_PER_DAY
    for moment in np.unique(midnight):
        matrix, vectors = shelf.as_of(moment)
        today = np.flatnonzero(midnight == moment)
        for start in range(0, len(today), BLOCK):
            block = today[start : start + BLOCK]
            allowed = _allowed(requests.iloc[block], matrix, shelf, None if plan.allow_repeats else past)
            top, scores = _retrieve(queries[block], vectors, allowed, plan.candidates)
            rows = _rows(judged, block, matrix, top, scores, plan)
            parts.append(rows | _inputs(requests, users, block, rows, matrix))
        log.info("%s: %d requests", datetime.fromtimestamp(moment, UTC).date(), len(today))
    return _assemble(judged, parts)


def _placed(requests: pd.DataFrame, users: Mapping[str, list[Any]]) -> pd.DataFrame:
    """The requests, each from where it says, or else from where the profile says, as the API sends them."""
    where = zip(requests["region"], users["region"], strict=True)
    return requests.assign(region=[here or home or "" for here, home in where])


def _queries(
    requests: pd.DataFrame, users: Mapping[str, list[Any]], towers: embedding.Towers, length: int
) -> NDArray[np.float32]:
    """[requests, dim] vectors by the user tower, as the predictor makes them: at home, if that is known."""
    home = [known or here for known, here in zip(users["region"], requests["region"], strict=True)]
    return embedding.embed_requests(towers, {**users, "region": home}, requests["time"].to_numpy(np.float64), length)


def _allowed(
    requests: pd.DataFrame,
    matrix: transforms.ItemMatrix,
    shelf: Shelf,
    past: Past | None,
) -> NDArray[np.bool_]:
    """[requests, items] what may be recommended: there, legal in the region (everywhere, if that is unknown), and new
    to the visitor if it must be."""
    allowed = shelf.there(requests["time"].to_numpy())
    asked = zip(ranking_requests.visitors(requests), requests["region"], requests["time"], strict=True)
    for row, (visitor, region, now) in enumerate(asked):
        allowed[row] &= matrix.allowed[matrix.region_of.get(region, -1), :-1]
        if past is not None:
            had = matrix.rows(past.before(visitor, now).items)
            allowed[row, had[had >= 0]] = False
    return allowed


def _retrieve(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], allowed: NDArray[np.bool_], k: int
) -> tuple[Ints, NDArray[np.float32]]:
    """Exact retrieval: rows [b, k] best first, -1 where fewer than k are allowed, and all scores [b, items]."""
    scores = queries @ vectors.T
    masked = np.where(allowed, scores, -np.inf)
    k = min(k, scores.shape[1])
    part = np.argpartition(-masked, k - 1, axis=1)[:, :k]
    best = np.take_along_axis(masked, part, 1)
    order = np.lexsort((part, -best))
    top = np.take_along_axis(part, order, 1)
    return np.where(np.isfinite(np.take_along_axis(best, order, 1)), top, -1), scores


def _rows(
    judged: Judged,
    block: Ints,
    matrix: transforms.ItemMatrix,
    top: Ints,
    scores: NDArray[np.float32],
    plan: Plan,
) -> dict[str, Any]:
    """The rows of a block of requests: which item, where retrieval had it, and its labels."""
    rank = np.full((len(block), len(matrix) + 1), -1, np.int64)
    for row, best in enumerate(top):
        rank[row, best[best >= 0]] = np.arange((best >= 0).sum())
    first = np.searchsorted(judged.rows["request"].to_numpy(), [block[0], block[-1] + 1])
    labelled = judged.rows.iloc[slice(*first)]
    labelled = labelled.assign(item=matrix.rows(labelled["item_id"]), local=labelled["request"] - block[0])
    labelled = labelled[labelled["item"] >= 0]
    chosen = np.bincount(labelled.loc[labelled["click"] > 0, "local"], minlength=len(block))
    rows = labelled.assign(log_rate=0.0) if judged.shown else _with_negatives(labelled, block, top, rank, plan)
    local, item = rows["local"].to_numpy(np.int64), rows["item"].to_numpy(np.int64)
    return {
        "request": block[0] + local,
        "local": local,
        "item": item,
        "score": scores[local, item].astype(np.float64),
        "rank": rank[local, item],
        "position": rows["position"].to_numpy(np.int32),
        "labels": rows[list(ranker.CHAIN)].to_numpy(np.float32),
        "amount": rows["amount"].to_numpy(np.float32),
        "log_rate": rows["log_rate"].to_numpy(np.float32),
        "chosen": chosen,
        "item_id": np.array(list(matrix.row_of), dtype=object)[item],
    }


def _with_negatives(labelled: pd.DataFrame, block: Ints, top: Ints, rank: Ints, plan: Plan) -> pd.DataFrame:
    """The candidates of each request: those chosen, and all or a sample of the others.

    A chosen item that retrieval missed is not among them: no ranker can help it, and its rank would tell the label.
    """
    found = labelled[rank[labelled["local"], labelled["item"]] >= 0]
    others: list[pd.DataFrame] = []
    log_rate = np.zeros(len(block))
    for row, best in enumerate(top):
        rest = np.setdiff1d(best[best >= 0], found.loc[found["local"] == row, "item"], assume_unique=True)
        if plan.negatives and len(rest) > plan.negatives:
            log_rate[row] = np.log(plan.negatives / len(rest))
            rest = np.random.default_rng([plan.seed, block[row]]).choice(rest, plan.negatives, replace=False)
        others.append(pd.DataFrame({"local": row, "item": np.sort(rest)}))
    rows = pd.concat([found, *others], ignore_index=True)
    rows = rows.fillna({"position": -1} | dict.fromkeys(ranking_requests.LABELS, 0.0))
    # Ties of a score must not be broken by the label: rows lie by item, not chosen items first.
    rows = rows.sort_values(["local", "item"], kind="stable", ignore_index=True)
    return rows.assign(log_rate=log_rate[rows["local"]])


def _inputs(
    requests: pd.DataFrame, users: Mapping[str, list[Any]], block: Ints, rows: Mapping[str, Any], matrix: Any
) -> dict[str, NDArray[Any]]:
    """Features of the rows, by the function that serving calls."""
    asked = requests.iloc[block]
    known = {name: [users[name][row] for row in block] for name in transforms.USER_COLUMNS}
    batch = transforms.Requests(
        known, asked["time"].to_numpy(np.float64), asked["region"].tolist(), asked["surface"].tolist()
    )
    return transforms.ranking_inputs(
        batch, transforms.Candidates(rows["local"], rows["item"], rows["score"], rows["rank"]), matrix
    )


def _assemble(judged: Judged, parts: list[dict[str, Any]]) -> Examples:
    def whole(name: str) -> NDArray[Any]:
        return np.concatenate([part[name] for part in parts])

    return Examples(
        whole("numeric"),
        {name: whole(name) for name in ranker.STRINGS},
        whole("request"),
        whole("item_id"),
        whole("position"),
        whole("labels"),
        whole("amount"),
        whole("log_rate"),
        whole("chosen"),
        judged.requests["time"].to_numpy(np.float64),
    )


def save(examples: Examples, folder: Path) -> None:
    """Write `rows.parquet` and `requests.parquet`; one column per feature and per label."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {"request": examples.request, "item_id": examples.item_id, **examples.strings}
    columns |= {"position": examples.position, "amount": examples.amount, "log_rate": examples.log_rate}
    columns |= {f"label_{head}": examples.labels[:, k] for k, head in enumerate(ranker.CHAIN)}
    columns |= {name: examples.numeric[:, k] for k, name in enumerate(transforms.RANKING_FEATURES)}
    pyarrow.parquet.write_table(pa.table(columns), folder / "rows.parquet", compression="zstd")
    asked: dict[str, Any] = {"time": examples.time, "chosen": examples.chosen}
    requests = pa.table(asked)
    pyarrow.parquet.write_table(requests, folder / "requests.parquet", compression="zstd")


def load(folder: Path) -> Examples:
    """Read what `save` wrote."""
    rows = pyarrow.parquet.read_table(folder / "rows.parquet")
    requests = pyarrow.parquet.read_table(folder / "requests.parquet")

    def column(name: str) -> NDArray[Any]:
        return np.asarray(rows.column(name).to_numpy(zero_copy_only=False))

    return Examples(
        np.stack([column(name) for name in transforms.RANKING_FEATURES], axis=1),
        {name: column(name) for name in ranker.STRINGS},
        column("request"),
        column("item_id"),
        column("position"),
        np.stack([column(f"label_{head}") for head in ranker.CHAIN], axis=1),
        column("amount"),
        column("log_rate"),
        requests.column("chosen").to_numpy(),
        requests.column("time").to_numpy(),
    )


def batches(
    examples: Examples, words: NDArray[np.int32], size: int, rng: np.random.Generator | None
) -> Iterator[dict[str, NDArray[Any]]]:
    """Batches for `ranker.Ranker`: whole requests, `size` of them, shuffled if there is an rng.

    Args:
        words: [n, 5] from `ranker.Words`.
    """
    count = len(examples.time)
    bounds = np.searchsorted(examples.request, np.arange(count + 1))
    order = np.arange(count) if rng is None else rng.permutation(count)
    for start in range(0, count, size):
        group = order[start : start + size]
        lengths = np.diff(bounds)[group]
        rows = np.repeat(bounds[group] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        if len(rows):
            yield {
                "numeric": examples.numeric[rows],
                "words": words[rows],
                "group": np.repeat(np.arange(len(group)), lengths),
                "position": examples.position[rows],
                "labels": examples.labels[rows],
                "amount": examples.amount[rows],
                "log_rate": examples.log_rate[rows],
            }
