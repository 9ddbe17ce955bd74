"""Exploration: a set number of slots of each page shows items that few have been shown, with exact propensities.

The arms are items of the catalogue: new ones that are still owed their guaranteed exposure first, the others by how
seldom they were shown. What is known of them (`feature_repo.arms`) is read, and the policies are made of it, in the
background; a request takes the newest edition, draws by its own id, and waits for nothing. While the online store is
away the last edition serves.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import redis
from numpy.typing import NDArray

from feature_repo import arms, online
from feature_repo.dismissals import SAYS
from feature_repo.events import POSITIVE, EventType
from models import bandits
from models.bandits import Beta, Choice, EpsilonGreedy, Linear, Particles, Policy, Regression
from recsys.errors import Retryable
from serving.api import contexts, filters
from serving.api.intake import Line
from serving.api.live import LiveRelease
from serving.api.metrics import Metrics
from serving.api.outbox import Outbox
from serving.api.sources import candidates
from serving.api.surfaces import Explore
from serving.api.visit import Visit

log = logging.getLogger(__name__)

EXPLORED = 40  # items of a request beyond which no page explores: few scroll on, and each page's draw takes its time
REFRESH_SECONDS = 30.0
VERSION = "1"  # of the constants below; with others it is another policy
ARMS = 100  # a draw from 200 takes 0.2 ms (bench.bandits), one for each page that explores
NEWEST = 1_000  # new items that are asked about, the newest first
HALF_LIFE = 14 * 86_400.0  # seconds in which what is known of an arm loses half its weight
RATE, TRIALS = 0.02, 100.0  # success rate of all arms before they have told, and how many trials that counts as
SPREAD = 0.15  # standard deviation of a reward of 0 or 1 at such rates
# Of a trial, besides the 0 that no answer is. A no weighs against a success as a dislike's weight goes: a skip is a
# quarter of what a click was worth, and a return takes all of its purchase back.
REWARD: Mapping[str, float] = dict.fromkeys(POSITIVE, 1.0) | {kind: -share for kind, share in SAYS.items()}
FADES_EVERY = 3_600.0  # seconds: what is known is as of the full hour, so an edition lasts until more is known
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Candidates = candidates.Pool


@dataclass(frozen=True, eq=False)
class Pool:
    """An edition of the arms.

    Attributes:
        live: the release that they are of.
        item_ids, rows: [n] the arms, and their catalogue rows.
        owed: item ids among them that have not had their guaranteed exposure.
        edition: digest of the arms and of what is known of them: the same in every process that knows the same.
        posterior: of their success rates.
        thompson: the policy that is made of it.
        linear: the policy that tells shoppers apart; the third is made on the spot.
    """

    live: LiveRelease
    item_ids: NDArray[np.object_]
    rows: Rows
    owed: frozenset[str]
    edition: str
    posterior: Beta
    thompson: Particles
    linear: Linear

    def within(self, live: LiveRelease) -> "Pool":
        """The same arms by the rows of the catalogue as it is now; -1 for one that has left it since."""
        return self if live is self.live else replace(self, live=live, rows=live.catalogue.rows(self.item_ids))

    def policy(self, explore: Explore, features: Floats) -> Policy:
        """The policy of a surface, for a request whose arms have these features, see `contexts.of`."""
        if explore.policy == "thompson":
            return self.thompson
        if explore.policy == "linear":
            return self.linear.on(features)
        return EpsilonGreedy(self.posterior.mean, explore.epsilon, f"{VERSION}-{explore.epsilon:g}", self.edition)


class Slot(NamedTuple):
    """One place of a page.

    Attributes:
        position: of the candidate in the pool of the request; -1 for an arm.
        row: of the catalogue.
        propensity: how likely this place was to show this item, given those before it.
        policy: name, version and edition of the policy that chose the arm; empty where the order alone did.
        context: what a linear policy knows of the shopper and the arm.
    """

    position: int
    row: int
    propensity: float = 1.0
    policy: Mapping[str, str] = MappingProxyType({})
    context: Sequence[float] = ()


class Explorer:
    """Keeps the arms and mixes them into pages.

    Attributes:
        pool: the edition that serves; None before the first.
    """

    def __init__(self, store: online.AsyncClient, outbox: Outbox, metrics: Metrics, guarantee: int) -> None:
        self._store, self._outbox, self._metrics, self._guarantee = store, outbox, metrics, guarantee
        self.pool: Pool | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(self, live: LiveRelease) -> None:
        """Read what is known of the arms of a release, and make the policies of it; the edition before serves on where
        the online store does not answer."""
        try:
            owed = await arms.run_async(
                self._store, arms.under_exposed(live.catalogue.ids[live.newest[:NEWEST]].tolist(), self._guarantee)
            )
            rows = _arms(live, owed)
            hour = time.time() // FADES_EVERY * FADES_EVERY
            known = await arms.run_async(self._store, arms.counts(live.catalogue.ids[rows].tolist(), hour))
            learnt = await arms.run_async(self._store, arms.statistics(contexts.NAME, hour))
        except Retryable as error:
            self._metrics.falls.labels("arms", "down").inc()
            log.warning("exploration goes on with what it knew: %s", error)
            return
        self.pool = await asyncio.to_thread(_pool, live, rows, frozenset(owed), known, learnt, self.pool)

    async def refresh(self, live: LiveRelease | None) -> None:
        """Follow the release that serves, if one does."""
        if live is not None:
            await self.follow(live)

    def arms(self, live: LiveRelease) -> Pool | None:
        """What pages of a release explore with; None while there is nothing."""
        return self.pool if self.pool and self.pool.live.release_id == live.release_id else None

    def mixed(
        self, request: str, order: Sequence[int], found: Candidates, before: Sequence[int], visit: Visit
    ) -> list[Slot]:
        """A page: the order, with arms in its exploration slots.

        Arms are items that no page so far shows and that break no rule where they stand, so what the order alone
        decides is certain, and only the exploration slots have a propensity below one. What an arm displaces is offered
        again on the next page.

        Args:
            request: id of the page; chance comes from it alone.
            order: positions into the pool of the request, best first, for the whole page.
            found: that pool.
            before: catalogue rows on the pages before; -1 for an item that has left the catalogue.
            visit: the request.
        """
        explore, arms, page = visit.surface.explore, self.arms(visit.live), visit.ask.count
        upcoming = [Slot(position, row) for position, row in zip(order, found.rows[order].tolist(), strict=True)]
        if explore is None or arms is None or len(before) >= EXPLORED or not upcoming:
            return upcoming
        pool = arms.within(visit.live)
        places = bandits.slots(page, bandits.rate(visit.shopper.interactions, explore.share, explore.newcomer))
        # On a short last page arms would stand behind its end, one beside the other.
        places = places[places - np.arange(len(places)) < len(upcoming)]
        if not len(places):
            return upcoming
        allowed = _allowed(pool, {*before, *(slot.row for slot in upcoming)}, visit)
        fits = allowed & _fitting(pool, before, upcoming, places, visit)
        if not fits.any():
            return upcoming
        features = contexts.of(visit, pool.rows, found.query)
        chosen = pool.policy(explore, features).choose(request, fits, len(places))
        return _page(upcoming, chosen, places, page, pool, features)

    def shown(self, request_id: str, explored: Mapping[str, Sequence[float]], visitor: str) -> None:
        """Count a visitor for the items of a page that are owed exposure, and keep what their outcomes will teach
        with; nobody waits for it.

        Args:
            request_id: that events of the page will name.
            explored: context by item id of the page's exploration slots.
            visitor: user or session; "" is not counted.
        """
        if not explored:
            return
        self._later(self._outbox.put(contexts.key(request_id), contexts.encode(explored), contexts.SECONDS))
        owed = [item for item in explored if self.pool and item in self.pool.owed]
        if owed and visitor:
            self._later(arms.run_async(self._store, arms.expose(owed, visitor, self._guarantee)))

    def learn(self, lines: Sequence[Line]) -> None:
        """Count new events that name the response they came from: an impression is a trial of its item, what a shopper
        did with it a success, and a no counts off as much as it says. It is no trial of its own: the impression is, and
        is a failure already. Nobody waits for it."""
        seen: dict[str, list[float]] = {}
        for line in lines:
            if not line.sent.get("request_id") or not line.sent.get("item_id"):
                continue
            counted = seen.setdefault(line.sent["item_id"], [0.0, 0.0])
            if line.sent["event"] == EventType.IMPRESSION:
                counted[0] += 1
            counted[1] += REWARD.get(line.sent["event"], 0.0)
        if seen:
            batch = hashlib.blake2b("\n".join(line.event_id for line in lines).encode(), digest_size=16).hexdigest()
            pairs = {item: (trials, won) for item, (trials, won) in seen.items()}
            newest = max(line.sent["event_time"] for line in lines)
            self._later(arms.run_async(self._store, arms.add_counts(batch, pairs, newest, HALF_LIFE)))
            self._later(self._teach(batch, lines, newest))

    async def flush(self) -> None:
        """Wait for the counts that are under way."""
        await asyncio.gather(*self._tasks)

    async def _teach(self, batch: str, lines: Sequence[Line], at: float) -> None:
        """Add the outcomes of exploration slots to what the linear policy knows: an impression is a row of features,
        and what the shopper did with the item its reward, below 0 for a no."""
        told = [line.sent for line in lines if line.sent.get("request_id") and line.sent.get("item_id")]
        requests = list(dict.fromkeys(sent["request_id"] for sent in told))
        values = await self._store.mget([contexts.key(request) for request in requests])
        known = {request: contexts.decode(value) for request, value in zip(requests, values, strict=True)}
        outcomes = [(known[sent["request_id"]].get(sent["item_id"]), sent["event"]) for sent in told]
        tried = [row for row, event in outcomes if row and event == EventType.IMPRESSION]
        said = [(row, REWARD[event]) for row, event in outcomes if row and event in REWARD]
        if tried or said:
            width = len(contexts.FEATURES)
            trials = np.array(tried, np.float64).reshape(-1, width)
            answered = np.array([row for row, _ in said], np.float64).reshape(-1, width)
            gram, moment = trials.T @ trials, np.array([reward for _, reward in said]) @ answered
            added = arms.add_statistics(contexts.NAME, batch, gram, moment, at, HALF_LIFE)
            await arms.run_async(self._store, added)

    def _later(self, call: Awaitable[Any]) -> None:
        """Make a call beside the requests; one that fails is counted."""
        task = asyncio.create_task(self._made(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _made(self, call: Awaitable[Any]) -> None:
        try:
            await call
        except (Retryable, redis.RedisError, OSError):
            self._metrics.falls.labels("arms", "down").inc()


def as_before(order: Sequence[int], found: Candidates, before: Mapping[int, Slot], page: int) -> list[Slot]:
    """A page whose exploration slots are those of an earlier one, for arms that are not known any more.

    Args:
        order: positions into the pool of the request, best first.
        found: that pool.
        before: the slots by their place on the page.
        page: its places.
    """
    taken = {slot.row for slot in before.values()}
    rows = ((position, int(found.rows[position])) for position in order)
    upcoming = iter([Slot(position, row) for position, row in rows if row not in taken])
    slots = (before.get(place) or next(upcoming, None) for place in range(page))
    return [slot for slot in slots if slot is not None]


def _arms(live: LiveRelease, owed: Mapping[str, int]) -> Rows:
    """[n] new items that are owed exposure, the newest first, then those of the seldom shown half of the catalogue
    that were liked best."""
    new = live.catalogue.rows(list(owed))
    others = live.seldom_shown[~np.isin(live.seldom_shown, new)]
    rows: Rows = np.concatenate([new, others])
    there: Rows = rows[live.available[rows]]
    return there[:ARMS]


def _pool(
    live: LiveRelease,
    rows: Rows,
    owed: frozenset[str],
    known: arms.Counts,
    learnt: arms.Statistics | None,
    before: Pool | None = None,
) -> Pool:
    """The edition of what is known; the one before where nothing more is, since its particles take 80 ms to draw."""
    trials, won = float((known.successes + known.failures).sum()), float(known.successes.sum())
    overall = (won + RATE * TRIALS) / (trials + TRIALS)
    clicks, views = live.brand_record
    prior = bandits.brand_prior(clicks[rows], np.maximum(views[rows] - clicks[rows], 0), min(overall, 0.99))
    posterior = bandits.decayed(known.successes, known.failures, known.age, HALF_LIFE, prior)
    digest = hashlib.blake2b(digest_size=8)
    for part in (live.release_id.encode(), rows.tobytes(), posterior.alpha.tobytes(), posterior.beta.tobytes()):
        digest.update(part)
    width = len(contexts.FEATURES)
    regression = Regression(np.zeros((width, width)), np.zeros(width))
    if learnt is not None:
        regression = Regression(learnt.gram, learnt.moment).decayed(learnt.age, HALF_LIFE)
    digest.update(regression.gram.tobytes() + regression.moment.tobytes())
    edition = digest.hexdigest()
    if before is not None and before.live is live and before.edition == edition:
        return before if before.owed == owed else replace(before, owed=owed)
    linear = bandits.linear(regression, SPREAD, f"{VERSION}-{contexts.NAME}", edition)
    return Pool(
        live,
        live.catalogue.ids[rows],
        rows,
        owed,
        edition,
        posterior,
        bandits.thompson(posterior, VERSION, edition),
        linear,
    )


def _allowed(pool: Pool, shown: Set[int], visit: Visit) -> NDArray[np.bool_]:
    """[arms] what this visitor may be shown and is not shown anyway; `shown` are catalogue rows."""
    live, rows = visit.live, pool.rows
    allowed = (rows >= 0) & live.available[rows] & live.shown_in(visit.region)[rows]
    allowed &= filters.inside(visit.ask, live, rows)
    if visit.shopper.dismissed:
        allowed &= ~filters.hidden(visit.shopper.dismissed, live, rows)
    known = visit.seen.union(visit.anchors)
    each = zip(rows.tolist(), pool.item_ids.tolist(), strict=True)
    allowed &= np.fromiter((row not in shown and item_id not in known for row, item_id in each), bool, len(rows))
    return np.asarray(allowed)


def _fitting(
    pool: Pool, before: Sequence[int], upcoming: Sequence[Slot], places: Rows, visit: Visit
) -> NDArray[np.bool_]:
    """[arms] those that keep the category rules in any exploration slot of the page.

    Nobody knows yet which arm a slot gets, so an arm fits if it would in every slot, and beside as many of its own
    general category as there are slots.
    """
    live, rules, page = visit.live, visit.surface.rules, visit.ask.count
    if visit.ask.category:
        return np.ones(len(pool.rows), bool)
    before = [row for row in before[-rules.max_run :] if row >= 0] if rules.max_run else []
    ahead = [slot.row for slot in upcoming[: page - len(places) + rules.max_run]]
    fits, categories = np.ones(len(pool.rows), bool), live.categories[pool.rows]
    if rules.max_share < 1:
        cap = max(1, int(rules.max_share * page + 1e-9))
        held = np.bincount(live.tops[ahead[: page - len(places)]], minlength=int(live.tops.max()) + 1)
        fits &= held[live.tops[pool.rows]] + len(places) <= cap
    if rules.max_run:
        line = live.categories[[*before, *ahead]].tolist()
        for number, place in enumerate(places.tolist()):
            at = len(before) + place - number
            near = line[max(at - rules.max_run, 0) : at + rules.max_run]
            for crowded in {c for c in near if near.count(c) + len(places) > rules.max_run}:
                fits &= categories != crowded
    return fits


def _page(upcoming: list[Slot], chosen: Choice, places: Rows, page: int, pool: Pool, features: Floats) -> list[Slot]:
    """The arms in their places, the order in the others."""
    policy = {"name": chosen.policy, "version": chosen.version, "edition": chosen.edition}
    found = zip(places.tolist(), chosen.rows.tolist(), chosen.propensities.tolist(), strict=False)
    explored = {
        place: Slot(-1, int(pool.rows[arm]), chance, policy, features[arm].tolist()) for place, arm, chance in found
    }
    slots = []
    for place in range(page):
        if place in explored:
            slots.append(explored[place])
        elif upcoming:
            slots.append(upcoming.pop(0))
    return slots
