"""The items: their latent truth, and the text that a shopper reads."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator import vocabulary

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_US = 86_400_000_000
ZIPF = 0.8  # exponent of popularity by rank, as shops show it
BRANDS = 160
OLD_SHARE = 0.8  # of the items are older than the first day; the others arrive daily
RESTRICTED_SHARE = 0.06  # of the items may be shown in some regions only


@dataclass(frozen=True)
class Space:
    """The latent space of taste: unit vectors of leaf categories and styles, [n, dim] float64."""

    leaves: Floats
    styles: Floats

    @property
    def dim(self) -> int:
        return int(self.leaves.shape[1])


@dataclass(frozen=True)
class Items:
    """All items that ever exist, by row; ids are given by arrival.

    Attributes:
        leaf, style, brand: [n] rows of the vocabulary's leaves and styles, and of `brands`.
        price: [n] in the shop's currency.
        vector: [n, dim] unit norm, the point in the space of taste.
        quality: [n] standard normal, what everybody likes about it; leads popularity.
        weight: [n] base popularity, Zipf by rank.
        phase: [n] in 0..1, where the item is in its wave of fashion.
        created: [n] microseconds since the epoch.
        regions: [n, regions] bool, where it may be shown.
        titles, descriptions, brands: text.
    """

    leaf: Ints
    style: Ints
    brand: Ints
    price: Floats
    vector: Floats
    quality: Floats
    weight: Floats
    phase: Floats
    created: Ints
    regions: NDArray[np.bool_]
    titles: list[str]
    descriptions: list[str]
    brands: list[str]

    def __len__(self) -> int:
        return len(self.leaf)


def unit(vectors: Floats) -> Floats:
    """Rows scaled to length 1."""
    scaled: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def space(dim: int, rng: np.random.Generator) -> Space:
    """Leaves of one top category lie near one another; styles are independent of leaves."""
    tops = unit(rng.normal(size=(len(vocabulary.TOPS), dim)))
    own = unit(rng.normal(size=(len(vocabulary.LEAVES), dim)))
    leaves = unit(0.75 * tops[list(vocabulary.TOP_OF_LEAF)] + 0.75 * own)
    return Space(leaves, unit(rng.normal(size=(len(vocabulary.STYLES), dim))))


def build(count: int, start: int, days: int, taste: Space, rng: np.random.Generator) -> Items:
    """Invent a catalogue.

    Args:
        count: items that exist by the last day.
        start: first day, microseconds since the epoch.
        days: length of the simulation.
        taste: where categories and styles lie.
        rng: the source of chance.
    """
    leaf = rng.permutation(np.arange(count) % len(vocabulary.LEAVES))
    style = rng.integers(len(vocabulary.STYLES), size=count)
    brands, brand, premium = _brands(style, rng)
    direction = taste.leaves[leaf] + 0.8 * taste.styles[style] + 0.3 * unit(rng.normal(size=(count, taste.dim)))
    quality = rng.normal(size=count)
    ranks = np.empty(count)
    ranks[np.argsort(-(quality + 0.7 * rng.normal(size=count)))] = np.arange(1, count + 1)
    titles, descriptions = _text(leaf, style, brand, brands, rng)
    return Items(
        leaf=leaf,
        style=style,
        brand=brand,
        price=_prices(leaf, style, premium, rng),
        vector=unit(direction),
        quality=quality,
        weight=ranks**-ZIPF,
        phase=rng.random(count),
        created=_arrivals(count, start, days, rng),
        regions=_regions(count, rng),
        titles=titles,
        descriptions=descriptions,
        brands=brands,
    )


def _brands(style: Ints, rng: np.random.Generator) -> tuple[list[str], Ints, Floats]:
    """Names of brands, the brand of each item, and each item's premium: four brands in five keep to one style."""
    names = [f"{first} {second}" for second in vocabulary.BRAND_SECOND for first in vocabulary.BRAND_FIRST]
    chosen = [names[k] for k in rng.permutation(len(names))[:BRANDS]]
    per_style = BRANDS // len(vocabulary.STYLES)
    own = style * per_style + np.floor(per_style * rng.random(len(style)) ** 2).astype(np.int64)
    brand = np.where(rng.random(len(style)) < 0.8, own, rng.integers(BRANDS, size=len(style)))
    return chosen, brand, np.exp(0.25 * rng.normal(size=BRANDS))[brand]


def _prices(leaf: Ints, style: Ints, premium: Floats, rng: np.random.Generator) -> Floats:
    """Median of the leaf × style × brand × chance, ending in .49 or .99 as prices do."""
    median = np.array([entry.price for entry in vocabulary.LEAVES])[leaf]
    factor = np.array([entry.price for entry in vocabulary.STYLES])[style]
    raw = median * factor * premium * np.exp(0.3 * rng.normal(size=len(leaf)))
    prices: Floats = np.maximum(np.round(raw * 2) / 2 - 0.01, 0.99).round(2)
    return prices


def _arrivals(count: int, start: int, days: int, rng: np.random.Generator) -> Ints:
    """Sorted arrival times: most before the start, the others evenly over the days, at least one on each while
    there are as many items as days."""
    new = round(count * (1 - OLD_SHARE))
    old = start - 1 - (365 * DAY_US * rng.random(count - new) ** 1.5).astype(np.int64)
    day = np.sort(np.arange(new) % days)
    arrival = start + day * DAY_US + (rng.random(new) * DAY_US).astype(np.int64)
    return np.sort(np.concatenate([old, arrival])) // 1_000_000 * 1_000_000


def _regions(count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    open_to = rng.random((count, len(vocabulary.REGIONS))) < 0.5
    open_to[np.arange(count), rng.integers(len(vocabulary.REGIONS), size=count)] = True
    return open_to | (rng.random(count) >= RESTRICTED_SHARE)[:, None]


def _text(
    leaf: Ints, style: Ints, brand: Ints, brands: list[str], rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    titles, descriptions = [], []
    picks = rng.random((len(leaf), 3))
    for row in range(len(leaf)):
        place, look = vocabulary.LEAVES[leaf[row]], vocabulary.STYLES[style[row]]
        adjective = look.adjectives[int(picks[row, 0] * len(look.adjectives))]
        noun = place.nouns[int(picks[row, 1] * len(place.nouns))]
        material = place.materials[int(picks[row, 2] * len(place.materials))]
        maker = brands[brand[row]]
        titles.append(f"{maker} {adjective} {material} {noun}")
        special = place.path.rsplit(" > ", 1)[1].lower()
        descriptions.append(
            f"{adjective} {noun.lower()} in {material.lower()} by {maker}. {look.sentence} From our {special} range."
        )
    return titles, descriptions
