"""What the towers make of the new: items that nobody has had yet, and visitors with a handful of events.

    .venv/bin/python -m bench.cold --dataset online_retail

Cold items: a tenth of the items, the same share of each decile of popularity, loses all its interactions, out of what
parameters are fitted on and out of the histories. They stay in the catalogue with their content, created at the end of
what is known. The towers are trained on the rest, and every item ranks in one full catalogue. Per decile, Recall@100 is
the share of (user, target) pairs among the user's first hundred; hidden and warm items are compared decile by decile,
each decile weighing as many pairs as its hidden items have. What is asked, and what leaves the lists because the user
had it, is as before the hiding.

Cold users: what is known of whoever is asked about is cut to the newest 1, 3 and 5 events, and the towers rank for
them beside EASE, both with parameters from everything that may be known. Items that a user had leave the lists even
where the cut keeps them from the model: they are no targets.
"""

import argparse
import logging
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import figures, protocol, quality
from feature_repo import names
from pipelines import baselines, datasets
from recsys import settings as configuration
from recsys.settings import Settings, Storage

if TYPE_CHECKING:
    from models import two_tower

SHARE = 0.1  # of the items, hidden
DECILES = 10
DEPTH = 100
LEAST = 0.6  # of the warm items' recall, that cold ones are to reach
EVENTS = (1, 3, 5)
VIEW = "new"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    quality.add_split(parser)
    parser.add_argument("--of", nargs="+", choices=MEASURED, default=list(MEASURED), help="what is measured")
    parser.add_argument("--seed", type=int, default=0, help="draws the items to hide")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    split = quality.split_of(options)
    with tempfile.TemporaryDirectory() as scratch:
        for measured in options.of:
            MEASURED[measured](split, options.root or Path(scratch), options.seed)


@dataclass(frozen=True)
class Hidden:
    """A split whose every asked user keeps a history when some items are hidden.

    Attributes:
        before, after: the hiding.
        items: [items] which are hidden.
        decile: [items] of popularity before, 0 for the most popular; -1 for items that nobody had.
    """

    before: protocol.Split
    after: protocol.Split
    items: NDArray[np.bool_]
    decile: NDArray[np.int64]


def hide(split: protocol.Split, seed: int, share: float = SHARE) -> Hidden:
    """Take all interactions of a share of each decile's items, and make these items new."""
    counts = split.fit["item_id"].value_counts().reindex(split.place, fill_value=0).to_numpy()
    decile = deciles(counts)
    chosen = np.zeros(len(decile), bool)
    random = np.random.default_rng(seed)
    for number in range(DECILES):
        members = np.flatnonzero(decile == number)
        chosen[random.choice(members, round(share * len(members)), replace=False)] = True
    gone = split.place[chosen]
    known, fit = (frame[~frame["item_id"].isin(gone)].reset_index(drop=True) for frame in (split.known, split.fit))
    # Whoever had hidden items alone is a visitor without a history, and not what is measured here.
    future = split.future[split.future["user_id"].isin(known["user_id"])]
    created = pd.Series(np.where(chosen, split.fit["time"].max(), np.nan), index=split.items.index)
    after = replace(split, known=known, fit=fit, future=future, items=split.items.assign(created=created))
    return Hidden(replace(split, future=future), after, chosen, decile)


def deciles(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """[items] from 0, the most popular tenth of the items that anybody had; -1 for the others."""
    had = np.flatnonzero(counts > 0)
    by_count = had[np.argsort(-counts[had], kind="stable")]
    found = np.full(len(counts), -1)
    found[by_count] = np.arange(len(had)) * DECILES // max(len(had), 1)
    return found


def recalls(hidden: Hidden, lists: protocol.Ints) -> pd.DataFrame:
    """Recall@DEPTH over pairs of a user and a target.

    Returns:
        a row per decile that has pairs of both kinds: `cold` and `warm` recall, `cold_pairs` and `warm_pairs`.
    """
    had, targets = hidden.before.rows(hidden.before.known), hidden.before.rows(hidden.before.future)
    wanted = [np.setdiff1d(target, mine) for target, mine in zip(targets, had, strict=True)]
    item = np.concatenate(wanted)
    hit = np.concatenate([np.isin(row, ranked[:DEPTH]) for row, ranked in zip(wanted, lists, strict=True)])
    kind = np.where(hidden.items[item], "cold", "warm")
    pairs = pd.DataFrame({"decile": hidden.decile[item], "kind": kind, "hit": hit})
    found = (
        pairs[pairs["decile"] >= 0].groupby(["decile", "kind"])["hit"].agg(["mean", "size"]).unstack("kind").dropna()
    )
    return pd.DataFrame(
        {
            "cold": found["mean", "cold"],
            "warm": found["mean", "warm"],
            "cold_pairs": found["size", "cold"].astype(int),
            "warm_pairs": found["size", "warm"].astype(int),
        }
    )


def overall(found: pd.DataFrame) -> tuple[float, float]:
    """Recall of cold items, and of warm ones of the same popularity: each decile weighs its cold pairs."""
    cold, warm = (float(np.average(found[kind], weights=found["cold_pairs"])) for kind in ("cold", "warm"))
    return cold, warm


def cold_items(split: protocol.Split, root: Path, seed: int) -> None:
    hidden = hide(split, seed)
    after = hidden.after
    lake, towers = trained(after, root / f"hidden-{seed}")
    users, items = quality.embed_users(after, towers, names.HISTORY_LENGTH), embed_items(after, lake, towers)
    found = recalls(hidden, protocol.rank(hidden.before, lambda rows: users[rows] @ items.T, VIEW))
    facts: dict[str, Any] = {"dataset": split.name, "part": split.part, "seed": seed}
    for row in found.itertuples():
        told = {"decile": row.Index + 1, "pairs": row.cold_pairs, "peer_pairs": row.warm_pairs}
        figures.report("cold.items_recall@100_of_decile", row.cold, "share", peer=row.warm, **told, **facts)
    cold, warm = overall(found)
    facts |= {"hidden_items": int(hidden.items.sum()), "hidden_pairs": int(found["cold_pairs"].sum())}
    figures.report("cold.items_recall@100", cold, "share", peer=warm, **facts)
    figures.report("cold.items_per_warm", cold / warm if warm else 0.0, "share", limit=LEAST, **facts)
    for name, kinds in (("warm", ["warm"]), ("all", ["cold", "warm"])):
        hits = sum(found[kind] @ found[f"{kind}_pairs"] for kind in kinds)
        pairs = sum(found[f"{kind}_pairs"].sum() for kind in kinds)
        figures.report(f"cold.{name}_items_recall@100", hits / pairs, "share", **facts)


def cut(split: protocol.Split, events: int) -> protocol.Split:
    """The split with the newest events of each user alone, for asking; parameters are fitted on the whole one."""
    newest = split.known.groupby("user_id", sort=False).tail(events).reset_index(drop=True)
    return replace(split, known=newest, fit=newest)


def cold_users(split: protocol.Split, root: Path, seed: int) -> None:
    lake, towers = trained(split, root)
    items = embed_items(split, lake, towers)
    weights = baselines.ease(quality.interactions(split), len(split.items))
    shown = ("recall@20", "ndcg@20", *(("hr@10",) if split.window is None else ()))
    for events in EVENTS:
        short = cut(split, events)
        users, told = quality.embed_users(short, towers, names.HISTORY_LENGTH), queries(short)
        reached, peer = _figures(split, users, items.T), _figures(split, told, weights)
        facts: dict[str, Any] = {
            "dataset": split.name,
            "part": split.part,
            "events": events,
            "users": int(reached["users"]),
        }
        for name in shown:
            figures.report(f"cold.users_{name}", reached[name], "share", peer=peer[name], against="ease", **facts)


def _figures(split: protocol.Split, queries: NDArray[np.float32], weights: NDArray[np.float32]) -> dict[str, float]:
    return protocol.figures(split, protocol.rank(split, lambda rows: queries[rows] @ weights, VIEW), VIEW)


def queries(split: protocol.Split) -> NDArray[np.float32]:
    """[asked, items] what EASE is told."""
    seen, items = quality.interactions(split), len(split.items)
    return np.stack([baselines.query(seen, user, items) for user in range(len(split.asked))])


def trained(split: protocol.Split, root: Path) -> tuple[datasets.Lake, "two_tower.Towers"]:
    settings: Settings = configuration.load().model_copy(update={"storage": Storage(root=str(root))})
    lake = quality.prepared(split, settings)
    return lake, quality.trained(split, lake, settings)


def embed_items(split: protocol.Split, lake: datasets.Lake, towers: "two_tower.Towers") -> NDArray[np.float32]:
    """[items, dim] with the statistics of the last day."""
    from models import vocabulary  # TensorFlow, which hiding and counting do without
    from pipelines import corpus

    stats = corpus.known_stats(lake, split.day, tuple(split.items["item_id"]))[vocabulary.FIRST :]
    return quality.embed_items(split, towers, stats)


MEASURED = {"items": cold_items, "users": cold_users}

if __name__ == "__main__":
    main()
