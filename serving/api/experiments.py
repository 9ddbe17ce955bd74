"""The experiments of a shop: who is in which (`models.experiments`), and what a variant changes. They are data that is
checked and may change at any time; docs/experiments.md explains the fields."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, TypeAdapter, model_validator

from models import experiments
from recsys.settings import Settings
from serving.api import followed, surfaces
from serving.api.surfaces import Name, Objectives, Part, Surface

PER_PERCENT = experiments.BUCKETS // 100
Percent = Annotated[float, Field(ge=0, le=100, multiple_of=1 / PER_PERCENT)]


class Variant(Part):
    """What a variant changes; one that changes nothing is a control."""

    weight: float = Field(1, gt=0, allow_inf_nan=False)
    surface: Name | None = None
    objectives: Objectives = Field({})
    release: str = Field("", max_length=200)

    def of(self, asked: Surface, known: Mapping[str, Surface]) -> Surface:
        """The surface that serves in place of the asked one.

        Raises:
            ValueError: it is not known, is about something else, or has no order that objectives could change.
        """
        made = asked
        if self.surface is not None:
            if self.surface not in known:
                raise ValueError(f"surface: {_unknown(self.surface, known)}")
            made = known[self.surface]
            if made.about is not asked.about:
                there, here = made.about.value, asked.about.value
                raise ValueError(f"surface: {self.surface} is about {there}, the asked one about {here}; take another")
        if not self.objectives:
            return made
        if not made.ranked:
            raise ValueError("objectives: no model ranks this surface, so they change nothing; leave them out")
        return made.model_copy(update={"objectives": self.objectives})


class Experiment(Part):
    """One experiment."""

    surfaces: list[Name] = Field(min_length=1)
    regions: list[str] = Field([])
    traffic: tuple[Percent, Percent]
    enabled: bool = True
    start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    variants: dict[Name, Variant] = Field(min_length=2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.traffic[0] > self.traffic[1]:
            raise ValueError(f"traffic goes up from {self.traffic[0]:g} to {self.traffic[1]:g} %; exchange them")
        return self

    @property
    def changes(self) -> frozenset[str]:
        """What it decides about a page. Objectives are part of a surface."""
        variants = self.variants.values()
        page = any(variant.surface or variant.objectives for variant in variants)
        release = any(variant.release for variant in variants)
        return frozenset(["surface"] * page + ["release"] * release)

    def named(self, name: str) -> experiments.Experiment:
        """Who is in it."""
        first, end = (round(PER_PERCENT * percent) for percent in self.traffic)
        asked = {"surface": self.surfaces, "region": self.regions}
        return experiments.Experiment(
            name,
            range(first, end),
            [experiments.Variant(arm, variant.weight) for arm, variant in self.variants.items()],
            enabled=self.enabled,
            start=self.start,
            end=self.end,
            conditions={fact: frozenset(values) for fact, values in asked.items() if values},
        )


@dataclass(frozen=True)
class Place:
    """Where a unit falls in a layer; None where it is in no experiment."""

    layer: str
    bucket: int
    experiment: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class Book:
    """All experiments.

    Attributes:
        layers: who is in which.
        changes: what their variants do, by name.
    """

    layers: tuple[experiments.Layer, ...]
    changes: Mapping[str, Experiment]

    def places(self, unit: str, now: datetime) -> list[Place]:
        """Where a unit falls in each layer, at an aware time, whatever it asks for."""
        found = ((layer, experiments.assign(unit, [layer], now)) for layer in self.layers)
        return [Place(layer.name, layer.bucket(unit), *next(iter(variants.items()), ())) for layer, variants in found]

    def releases(self, now: datetime) -> frozenset[str]:
        """Ids of the releases that serve variants at an aware time."""
        found = (experiment for layer in self.layers for experiment in layer.experiments)
        running = [self.changes[one.name] for one in found if one.state(now) is experiments.State.RUNNING]
        return frozenset(arm.release for experiment in running for arm in experiment.variants.values() if arm.release)


_FILE: TypeAdapter[dict[str, dict[str, Experiment]]] = TypeAdapter(dict[Name, dict[Name, Experiment]])


def read(data: bytes, known: Mapping[str, Surface]) -> Book:
    """The experiments of a file.

    Args:
        data: of the file.
        known: surfaces by name.

    Raises:
        ValueError: it is wrong; the words name the place and the remedy.
    """
    said = followed.checked(_FILE, data)
    changes: dict[str, Experiment] = {}
    for layer, found in said.items():
        for name, experiment in found.items():
            if name in changes:
                raise ValueError(f"{layer}.{name}: another layer has an experiment of this name; take another name")
            _fits(experiment, f"{layer}.{name}", known)
            changes[name] = experiment
    layers = tuple(
        experiments.Layer(layer, [experiment.named(name) for name, experiment in found.items()])
        for layer, found in said.items()
    )
    for one, other in _of_different_layers(layers):
        _apart(one, other, changes)
    return Book(layers, changes)


def own_file(settings: Settings) -> Path:
    """The installation's experiments; it need not exist."""
    return Path(settings.storage.root) / "config" / "experiments.yaml"


def follow(settings: Settings) -> followed.File[Book]:
    """The experiments of the installation, as its file changes.

    Raises:
        Permanent: the file is wrong at start.
    """
    # The surfaces are read anew, because those in memory may be a second older than an experiment on a new one.
    return followed.File(own_file(settings), lambda data: read(data, surfaces.follow(settings).value), absent=b"")


def _fits(experiment: Experiment, place: str, known: Mapping[str, Surface]) -> None:
    """Raises ValueError if a variant cannot serve a surface of the experiment."""
    for asked in experiment.surfaces:
        if asked not in known:
            raise ValueError(f"{place}.surfaces: {_unknown(asked, known)}")
        for arm, variant in experiment.variants.items():
            try:
                variant.of(known[asked], known)
            except ValueError as error:
                raise ValueError(f"{place}.variants.{arm}.{error} (for the surface {asked})") from None


def _apart(one: experiments.Experiment, other: experiments.Experiment, changes: Mapping[str, Experiment]) -> None:
    """Raises ValueError if a page would have to follow two layers at once."""
    mine, theirs = changes[one.name], changes[other.name]
    where, what = set(mine.surfaces) & set(theirs.surfaces), mine.changes & theirs.changes
    if where and what and one.overlaps(other):
        raise ValueError(
            f"{one.name} and {other.name} are in different layers, but both change the {min(what)} of pages of "
            f"{min(where)}; put them into one layer"
        )


def _of_different_layers(
    layers: tuple[experiments.Layer, ...],
) -> Iterator[tuple[experiments.Experiment, experiments.Experiment]]:
    for first, second in combinations(layers, 2):
        yield from ((one, other) for one in first.experiments for other in second.experiments)


def _unknown(name: str, known: Mapping[str, Surface]) -> str:
    return f"no surface {name!r}; it is one of {', '.join(known)}"
