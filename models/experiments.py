"""Who is in which experiment: a pure function of a unit's id and the names in the configuration. Nothing is stored.

Layers and traffic ranges are those of Tang et al., Overlapping Experiment Infrastructure (KDD 2010). A layer deals its
units into 10,000 buckets, by a hash that is salted with the layer's name, so that layers are independent of each
other. Its experiments own ranges of buckets that do not overlap, so that a unit is in one of them at most. A range is
written down, not derived from a list of percentages: extending the range of one experiment then moves nobody in
another, which no derivation can promise to three experiments that all may grow. Inside an experiment, a second hash,
salted with the experiment's name, picks the variant. It does not look at the traffic, so ramping up never moves a unit
from one variant to another; and a range that is used again deals its units anew.

The hash is BLAKE2b of `<purpose> NUL <name> NUL <unit>`, 8 bytes, little-endian: the same in every process, on every
machine, in every version of Python.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate, combinations

BUCKETS = 10_000  # a range is as fine as 0.01 %


class State(StrEnum):
    """What an experiment is doing; only one that runs assigns anybody."""

    OFF = "off"
    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"


@dataclass(frozen=True)
class Variant:
    """One arm of an experiment; `weight` is its part of the traffic, relative to those of the others."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Experiment:
    """What is tried on whom.

    Attributes:
        name: unique over all layers; another name deals the variants anew.
        traffic: buckets of its layer; empty: nobody yet.
        variants: in any order; other weights move units between them, so a running experiment keeps its own.
        enabled: False stops it at once; its buckets stay its own.
        start, end: aware times, from and until when it runs; None: no bound.
        conditions: facts of a request, and the values with which it concerns the experiment; a fact that is not
            named may be anything.

    Raises:
        ValueError: the buckets, weights or times make no sense.
    """

    name: str
    traffic: range
    variants: Sequence[Variant]
    enabled: bool = True
    start: datetime | None = None
    end: datetime | None = None
    conditions: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.traffic.step != 1 or not 0 <= self.traffic.start <= self.traffic.stop <= BUCKETS:
            raise ValueError(f"{self.name}: traffic must be a range within 0..{BUCKETS} buckets, got {self.traffic}")
        if len({variant.name for variant in self.variants}) < max(1, len(self.variants)):
            raise ValueError(f"{self.name}: an experiment needs variants, each with a name of its own")
        for variant in self.variants:
            if not 0 < variant.weight < math.inf:
                raise ValueError(f"{self.name}.{variant.name}: weight must be above 0, got {variant.weight}")
        if self.start and self.end and self.start >= self.end:
            raise ValueError(f"{self.name}: it ends at {self.end}, before it starts at {self.start}; exchange them")

    def state(self, now: datetime) -> State:
        """At an aware time."""
        if not self.enabled:
            return State.OFF
        if self.start is not None and now < self.start:
            return State.WAITING
        return State.OVER if self.end is not None and self.end <= now else State.RUNNING

    def concerns(self, facts: Mapping[str, str]) -> bool:
        """Whether a request with these facts is one of those that it is about."""
        return all(facts.get(name) in allowed for name, allowed in self.conditions.items())

    def variant(self, unit: str) -> str:
        """Which variant a unit gets, once it is in."""
        names, bounds = self._shares
        return names[bisect_right(bounds, _hash(f"variant\0{self.name}", unit) / 2**64)]

    def overlaps(self, other: "Experiment") -> bool:
        """Whether there is a time at which both may run; it may be far away."""
        return not (_before(self.end, other.start) or _before(other.end, self.start))

    @cached_property
    def _shares(self) -> tuple[list[str], list[float]]:
        """Names in order, and where in [0, 1) each but the first begins."""
        ordered = sorted(self.variants, key=lambda variant: variant.name)
        *bounds, total = accumulate(variant.weight for variant in ordered)
        return [variant.name for variant in ordered], [bound / total for bound in bounds]


@dataclass(frozen=True)
class Layer:
    """Experiments of which a unit is in one at most at a time.

    Raises:
        ValueError: two of them want the same buckets at the same time.
    """

    name: str
    experiments: Sequence[Experiment]

    def __post_init__(self) -> None:
        for one, other in combinations(self.experiments, 2):
            shared = range(max(one.traffic.start, other.traffic.start), min(one.traffic.stop, other.traffic.stop))
            if shared and one.overlaps(other):
                percent = f"{shared.start / 100:g}..{shared.stop / 100:g} %"
                raise ValueError(
                    f"{one.name} and {other.name} both want {percent} of the layer {self.name}; "
                    "give each a range of its own, or take one to another layer"
                )

    def bucket(self, unit: str) -> int:
        """0..9999; the same for ever under this layer's name."""
        return _hash(f"layer\0{self.name}", unit) % BUCKETS


def assign(unit: str, layers: Sequence[Layer], now: datetime, facts: Mapping[str, str] | None = None) -> dict[str, str]:
    """The experiments that a unit is in, and its variant in each.

    Args:
        unit: whose experience must not change between requests; without one there is no assignment.
        layers: in any order, as are the experiments in them.
        now: aware time.
        facts: of the request, such as its surface; None: wherever the unit may go.
    """
    found: dict[str, str] = {}
    for layer in layers if unit else ():
        bucket = layer.bucket(unit)
        for experiment in layer.experiments:
            if (
                bucket in experiment.traffic
                and experiment.state(now) is State.RUNNING
                and (facts is None or experiment.concerns(facts))
            ):
                found[experiment.name] = experiment.variant(unit)
                break
    return found


def _hash(salt: str, unit: str) -> int:
    """Uniform in 0..2**64 - 1."""
    return int.from_bytes(blake2b(f"{salt}\0{unit}".encode(), digest_size=8).digest(), "little")


def _before(end: datetime | None, start: datetime | None) -> bool:
    return end is not None and start is not None and end <= start
