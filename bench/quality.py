"""How well the pipeline's models rank on a frozen split, and how its peers do on the same.

    .venv/bin/python -m bench.quality --dataset online_retail --model two_tower --out predictions.parquet

The split is written as a canonical source, and the pipeline's own stages `ingest`, `quality` and `features` read it;
the towers are trained by `tower_training.train` on all that the protocol allows to fit on, with the hyperparameters
that the pipeline derives from the data. `--model funnel` has the ranker order their candidates. Prints one JSON line
per figure (see bench/protocol.py for their definition).
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench import figures, protocol
from feature_repo import names, transforms
from pipelines import baselines, datasets, embedding, stage
from pipelines.datasets import RunId
from recsys import settings as configuration
from recsys.settings import Settings, Storage

if TYPE_CHECKING:
    from models import two_tower

SPLITS = configuration.REPOSITORY.parent / "shared" / "eval" / "splits"
RUN = RunId("bench")
NEXT_FADE = 2.0  # events after which a target counts half where the next event is asked for
SHOWN = {
    "all": ("recall@20", "recall@100", "recall@500", "ndcg@20"),
    "new": ("recall@5", "recall@10", "recall@20", "recall@100", "recall@500", "ndcg@5", "ndcg@10", "ndcg@20", "hr@10"),
}
Scores = Callable[[slice], NDArray[np.floating]]
Found = Mapping[str, Scores]  # by name; the first is the model, others are what it is to be seen beside
log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_split(parser)
    parser.add_argument("--model", choices=MODELS, default="two_tower")
    parser.add_argument("--out", type=Path, help="parquet of predictions: user_id, item_id, rank")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    split = split_of(options)
    with tempfile.TemporaryDirectory() as scratch:
        settings = configuration.load().model_copy(update={"storage": Storage(root=str(options.root or scratch))})
        started = time.monotonic()
        found = MODELS[options.model](split, settings)
        seconds = time.monotonic() - started
    for view in split.views:
        for model, scores in found.items():
            lists = protocol.rank(split, scores, view)
            if view == split.views[0] and model == options.model and options.out:
                protocol.save(split, lists, options.out)
            reached = protocol.figures(split, lists, view)
            facts = {"dataset": split.name, "part": split.part, "model": model, "view": view}
            for name in SHOWN[view]:
                figures.report(f"quality.{name}", reached[name], "share", users=int(reached["users"]), **facts)
    figures.report("quality.seconds", seconds, "s", dataset=split.name, part=split.part, model=options.model)


def add_split(parser: argparse.ArgumentParser) -> None:
    """Options that name a split, and where its lake is built."""
    parser.add_argument("--dataset", required=True, help="folder of a split, or the name of one under --splits")
    parser.add_argument("--splits", type=Path, default=SPLITS, help="where the named splits are")
    parser.add_argument("--part", choices=("valid", "test"), default="test", help="what is predicted")
    parser.add_argument(
        "--root", type=Path, help="storage root to build lakes in and keep; a temporary one if left out"
    )


def split_of(options: argparse.Namespace) -> protocol.Split:
    named = Path(options.dataset)
    return protocol.load(named if named.is_dir() else options.splits / options.dataset, options.part)


def two_towers(split: protocol.Split, settings: Settings) -> Found:
    """Both towers, trained and asked as in production: one query vector, one vector an item, inner product."""
    from models import vocabulary  # TensorFlow, which the peers do without
    from pipelines import corpus

    lake = prepared(split, settings)
    towers = trained(split, lake, settings)
    users = embed_users(split, towers, names.HISTORY_LENGTH)
    stats = corpus.known_stats(lake, split.day, tuple(split.items["item_id"]))[vocabulary.FIRST :]
    items = embed_items(split, towers, stats)
    return {"two_tower": lambda rows: users[rows] @ items.T}


def whole_funnel(split: protocol.Split, settings: Settings) -> Found:
    """Retrieval's candidates ordered by the ranker, and as retrieval orders them."""
    from bench.funnel import Funnel, asked, taught
    from pipelines import train_ranker

    earlier, root = protocol.earlier(split), Path(settings.storage.root)
    before = settings.model_copy(update={"storage": Storage(root=str(root / "earlier"))})
    stands = []
    for part, where in ((earlier, before), (split, settings)):
        lake = prepared(part, where)
        repeats = bool(stage.result_of(where, RUN, "features")["allow_repeats"])
        stands.append(Funnel.stand(part, lake, trained(part, lake, where), repeats, where))
    learning, answering = stands
    scorer = learning.learn(taught(earlier), train_ranker.Params(day=earlier.day, run=RUN))
    lists, count = answering.answer(asked(split), scorer), len(split.items)
    return {
        "funnel": lambda rows: lists.scores(rows, count, "ranked"),
        "retrieval": lambda rows: lists.scores(rows, count, "retrieval"),
    }


def trained(split: protocol.Split, lake: datasets.Lake, settings: Settings) -> "two_tower.Towers":
    """The towers by the pipeline's training, on all that may be fitted on."""
    from models import two_tower, workers
    from pipelines import corpus, tower_training, train_retrieval

    # One left out is the very next event, as far as ties in time let one tell; a window asks for what the weeks bring.
    params = train_retrieval.Params(day=split.day, run=RUN, **({"fade": NEXT_FADE} if split.window is None else {}))
    strategy = workers.strategy()
    with tempfile.TemporaryDirectory() as folder:
        found = corpus.source(lake, split.day, datasets.end_of(split.day))
        counted = corpus.census(found)
        recipe = tower_training.settle(params, counted, found.cutoff)
        made = tower_training.train(params, found, counted, recipe, settings.seed, Path(folder), _tell, strategy)
        two_tower.save(made.model, counted.words, Path(folder))
        return two_tower.Towers.load(Path(folder))


def prepared(split: protocol.Split, settings: Settings) -> datasets.Lake:
    """The lake of a split, filled by the pipeline's stages."""
    lake = datasets.lake(settings)
    source = Path(settings.storage.root) / "source"
    if lake.path(datasets.SEQUENCES, split.day).exists():
        return lake
    protocol.write_canonical(split, source)
    for name, extra in (("ingest", ["--source", f"canonical:{source}"]), ("quality", []), ("features", [])):
        command = [sys.executable, "-m", "pipelines", name, "--day", str(split.day), "--run", RUN, *extra]
        done = subprocess.run(
            command,
            env=configuration.child_environment(settings),
            cwd=configuration.REPOSITORY,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{name} ended with exit code {done.returncode}; its last lines say why")
    return lake


def embed_users(split: protocol.Split, towers: Any, length: int) -> NDArray[np.float32]:
    """[asked, dim]."""
    histories, now = split.histories(), split.now()
    profiles = protocol.users(split).set_index("user_id").reindex(split.asked)
    told: dict[str, list[Any]] = {
        name: [value if isinstance(value, str) else None for value in profiles.get(name, [None] * len(now))]
        for name in ("region", "age_group")
    }
    told["history_items"] = [history["item_id"].tolist() for history in histories]
    told["history_events"] = [[split.event] * len(history) for history in histories]
    told["history_times"] = [history["time"].tolist() for history in histories]
    told["preferences"] = [None] * len(now)
    return embedding.embed_requests(towers, told, now, length)


def embed_items(split: protocol.Split, towers: Any, stats: NDArray[np.float32]) -> NDArray[np.float32]:
    """[items, dim], with statistics [items, S] of the last day."""
    items = protocol.items(split)
    columns = {name: items[name].tolist() for name in ("item_id", "title", "category", "brand", "tags", "price")}
    return towers.items(
        transforms.item_tower_inputs(
            **columns,
            created=items["created_at"].astype(np.int64).to_numpy() / 1e6,
            stats=stats,
            now=datasets.end_of(split.day).timestamp(),
        )
    )


def ease(split: protocol.Split, _: Settings) -> Found:
    """Recency-weighted EASE."""
    seen = interactions(split)
    weights = baselines.ease(seen, len(split.items))
    query = [baselines.query(seen, user, len(split.items)) for user in range(len(split.asked))]
    return {"ease": lambda rows: np.stack(query[rows]) @ weights}


def popularity(split: protocol.Split, _: Settings) -> Found:
    """What sells now, the same for everybody."""
    found = baselines.decayed_popularity(interactions(split), len(split.items), half_life=7.0)
    return {"popularity": lambda rows: np.tile(found, (len(range(*rows.indices(len(split.asked)))), 1))}


def repeats(split: protocol.Split, _: Settings) -> Found:
    """What each user had before, then what sells now."""
    seen = interactions(split)
    trend = baselines.decayed_popularity(seen, len(split.items))
    found = [baselines.repeats(seen, user, trend, None) for user in range(len(split.asked))]
    return {"repeats": lambda rows: np.stack(found[rows])}


def interactions(split: protocol.Split) -> baselines.Interactions:
    """What may be known, asked users first; histories that parameters may not be fitted on are those users' own."""
    place = {user: row for row, user in enumerate(split.asked)}
    frame = split.fit if split.window is not None else split.known
    visit = frame["invoice"].astype(str) if "invoice" in frame else frame["user_id"]
    who = frame["user_id"].where(frame["user_id"] != "", "\n" + visit)
    others = {user: row for row, user in enumerate(sorted(set(who) - set(place)), len(place))}
    visitor = who.map(place | others).to_numpy(np.int64)
    order = np.argsort(visitor, kind="stable")
    age = (frame["time"].max() - frame["time"].to_numpy(np.float64)) / protocol.DAY
    item = split.place.get_indexer(frame["item_id"])
    return baselines.Interactions(visitor[order], item[order], age[order], np.ones(len(order)))


def _tell(epoch: int, told: object) -> None:
    log.info("epoch %d: %s", epoch, told)


MODELS: dict[str, Callable[[protocol.Split, Settings], Found]] = {
    "two_tower": two_towers,
    "funnel": whole_funnel,
    "ease": ease,
    "popularity": popularity,
    "repeats": repeats,
}

if __name__ == "__main__":
    main()
