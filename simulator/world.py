"""The latent truth of a simulated shop: its items, its shoppers, and how one likes the other."""

import zlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from simulator import catalogue, shoppers, vocabulary

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DIM = 16
SLOTS = 24  # longest page
BASE = -3.1  # click logit of an average item that has been looked at
TASTE = 4.6  # weight of taste in it: enough that personal lists clearly win, little enough that life stays noisy
QUALITY = 0.45


class Plan(BaseModel):
    """How big the shop is, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: int = Field(20_000, ge=50, description="people who sign up, bots included")
    items: int = Field(5_000, ge=50, description="products by the last day; a fifth of them arrive during the days")
    events: int = Field(1_000_000, ge=1_000, description="events to aim at, impressions included (within some percent)")
    days: int = Field(60, ge=1, description="length")
    start: date = Field(date(2026, 1, 5), description="first day, UTC")
    seed: int = Field(20240229, ge=0, description="same seed, same shop, byte for byte")

    @property
    def start_us(self) -> int:
        """First moment, microseconds since the epoch."""
        return int(datetime.combine(self.start, datetime.min.time(), tzinfo=UTC).timestamp()) * 1_000_000

    def day(self, index: int) -> date:
        return self.start + timedelta(days=index)


@dataclass(frozen=True)
class World:
    """Everything that is true, whether anybody observes it or not."""

    plan: Plan
    space: catalogue.Space
    items: catalogue.Items
    shoppers: shoppers.Shoppers

    def rng(self, purpose: str, day: int = 0) -> np.random.Generator:
        """A stream of chance of its own for each purpose and day, so that days can be made in any order."""
        return np.random.default_rng([self.plan.seed, zlib.crc32(purpose.encode()), day])

    def click_logit(self, tastes: Floats, users: Ints, items: Ints, day: int) -> Floats:
        """[n] log-odds that a person clicks on an item that they look at.

        Args:
            tastes: `shoppers.taste_at` of the day.
            users, items: [n] rows.
            day: index of the day, for the season.
        """
        affinity = np.einsum("nd,nd->n", tastes[users], self.items.vector[items])
        dearness = self.dearness[items] * self.shoppers.price_sensitivity[users]
        season = self.season(day)[self.items.leaf[items]]
        logit: Floats = BASE + TASTE * affinity + QUALITY * self.items.quality[items] - dearness + season
        return logit

    @property
    def dearness(self) -> Floats:
        """[items] log of price over the category's median, cut at ±1.5."""
        medians = np.array([leaf.price for leaf in vocabulary.LEAVES])[self.items.leaf]
        ratio: Floats = self.items.price / medians
        return np.log(np.clip(ratio, np.exp(-1.5), np.exp(1.5)))

    def season(self, day: int) -> Floats:
        """[leaves] log demand of the season: a cosine over the year around the leaf's peak month."""
        month = self.plan.day(day).timetuple().tm_yday / 30.44
        peaks = np.array([leaf.peak for leaf in vocabulary.LEAVES])
        return np.where(peaks > 0, 0.4 * np.cos(2 * np.pi * (month - peaks + 0.5) / 12), 0.0)

    def demand(self, day: int) -> Floats:
        """[items] popularity of a day; 0 for items that arrive later."""
        items = self.items
        wave = np.exp(0.6 * np.sin(2 * np.pi * (day / 45 + items.phase)))
        there = items.created < self.plan.start_us + day * catalogue.DAY_US
        return items.weight * wave * np.exp(self.season(day)[items.leaf]) * there


def attention() -> Floats:
    """[SLOTS] probability that a shopper looks at a position, 0 first; falls as rank^-0.45."""
    shape: Floats = 0.95 * np.power(np.arange(1.0, SLOTS + 1), -0.45)
    return shape


def build(plan: Plan) -> World:
    """The world of a plan; the same plan gives the same world."""
    streams = np.random.SeedSequence(plan.seed).spawn(3)
    space = catalogue.space(DIM, np.random.default_rng(streams[0]))
    items = catalogue.build(plan.items, plan.start_us, plan.days, space, np.random.default_rng(streams[1]))
    people = shoppers.build(plan.users, plan.start_us, plan.days, space, np.random.default_rng(streams[2]))
    return World(plan, space, items, people)
