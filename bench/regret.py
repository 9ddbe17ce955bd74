"""What listening to a no is worth, on the truth of a simulated shop.

    nice .venv/bin/python -m bench.regret [--users 2000] [--items 500] [--events 300000] [--days 30] [--seeds 3]

Lists of ten are made twice from one log, by the neighbours that the ranker reads most from: of all that visitors did,
and of what still counts (`feature_repo.standing`). Each list is judged by the truth: the share of its places that would
be clicked, and that would be bought and kept; of the views, those that would end in a dislike, and of the purchases,
those that would be returned.
Prints one JSON line per figure: the mean of the seeds, with that of all deeds as `peer`.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench import figures
from feature_repo import events, standing
from pipelines import baselines
from recsys import settings
from simulator import canonical, frame, regret, world
from simulator.behaviour import sigmoid
from simulator.world import Plan, World

LENGTH = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What lists lead to: chances per place of a list."""

    clicks: float
    purchases: float
    dislikes: float
    returns: float


def deeds(log: frame.Frame, *, listening: bool) -> baselines.Interactions:
    """The positive events of people who are logged in; those that count, if somebody listens."""
    log = log.take(log.known).sorted()
    kinds = [frame.KINDS[kind] for kind in log.kind]
    kept = np.isin(kinds, list(events.POSITIVE))
    if listening:
        said = standing.Log(log.user.tolist(), log.item.tolist(), kinds, log.time.tolist(), [""] * len(kinds))
        ended = said.turns(events.yes(), events.no())
        kept[[row for row, turns in ended.items() if len(turns) % 2]] = False
    weight = np.array([events.SIGNAL_WEIGHT[kind] for kind in kinds])[kept]
    age = (log.time.max() - log.time[kept]) / 86_400e6
    order = np.argsort(log.user[kept], kind="stable")
    return baselines.Interactions(log.user[kept][order], log.item[kept][order], age[order], weight[order])


def lists(seen: baselines.Interactions, had: baselines.Interactions, users: int, items: int) -> NDArray[np.int64]:
    """[users, LENGTH] what goes best with what each did, of what they have not had."""
    known = np.zeros((users, items), np.float32)
    np.add.at(known, (seen.visitor, seen.item), seen.weight * np.exp2(-seen.age / 14))
    scores = known @ baselines.ease(seen, items)
    scores[had.visitor, had.item] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :LENGTH]


def judge(shop: World, shown: NDArray[np.int64], users: NDArray[np.int64]) -> Outcome:
    """Expected outcomes of lists on the day after the last."""
    day = shop.plan.days - 1
    person, item = np.repeat(users, LENGTH), shown[users].ravel()
    logit = shop.click_logit(shop.shoppers.taste_at(1.0), person, item, day)
    click = sigmoid(logit)
    bought = (
        0.5 * click * sigmoid(0.7 * logit - 0.3 - 0.5 * shop.dearness[item] * shop.shoppers.price_sensitivity[person])
    )
    dislike, back = click * regret.dislike_chance(logit), bought * regret.return_chance(logit)
    return Outcome(
        float(click.mean()),
        float((bought - back).mean()),
        float(dislike.sum() / click.sum()),
        float(back.sum() / bought.sum()),
    )


def compare(plan: Plan) -> tuple[Outcome, Outcome]:
    """The outcomes of listening to a no and of not listening, on one log."""
    shop = world.build(plan)
    log = frame.concat(list(canonical.days(shop)))
    log = log.take(shop.shoppers.bot[log.user] == 0)
    every, counting = deeds(log, listening=False), deeds(log, listening=True)
    users = np.unique(every.visitor)
    made = (lists(seen, every, plan.users, plan.items) for seen in (counting, every))
    heard, deaf = (judge(shop, shown, users) for shown in made)
    return heard, deaf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"users": 2_000, "items": 500, "events": 300_000, "days": 30, "seeds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    settings.load()
    seeds = options.pop("seeds")
    pairs = [compare(Plan(**options, seed=seed)) for seed in range(seeds)]
    for name in ("clicks", "purchases", "dislikes", "returns"):
        heard, deaf = (float(np.mean([getattr(pair[side], name) for pair in pairs])) for side in (0, 1))
        figures.report(f"regret.{name}", 100 * heard, "%", peer=100 * deaf, seeds=seeds, **options)


if __name__ == "__main__":
    main()
