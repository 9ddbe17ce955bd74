"""The surfaces of the shop: their sources, rules and phase, as data that is checked and may change at any time."""

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from models import rerank
from recsys.inference import HEADS, MAX_CANDIDATES
from recsys.settings import Settings
from serving.api import followed

DEFAULTS = Path(__file__).with_name("surfaces.yaml")

Quota = Annotated[int, Field(ge=1, le=MAX_CANDIDATES)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class About(StrEnum):
    """What a surface starts from."""

    SHOPPER = "shopper"
    ITEM = "item"
    LAST_ITEM = "last_item"
    CART = "cart"
    CATEGORY = "category"


class SourceName(StrEnum):
    """Where candidates come from; one module of `serving.api.sources` each."""

    PERSONAL = "personal"
    RELATED = "related"
    TOGETHER = "together"
    FEED = "feed"
    AGAIN = "again"
    TASTES = "tastes"
    POPULAR = "popular"
    CATEGORY = "category"
    NEWEST = "newest"
    CATALOGUE = "catalogue"


MODELS = frozenset({SourceName.PERSONAL, SourceName.RELATED})  # sources that ask a model


def _weighing(objectives: dict[str, float]) -> dict[str, float]:
    if unknown := sorted(set(objectives) - set(HEADS)):
        raise ValueError(f"objectives has {unknown[0]!r}; the ranker's heads are {', '.join(HEADS)}")
    if objectives and not sum(objectives.values()):
        raise ValueError("objectives weigh nothing; give one a weight, or leave them out")
    return objectives


Objectives = Annotated[dict[str, Weight], AfterValidator(_weighing)]


class Part(BaseModel):
    """A part of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rules(Part):
    """Rules of the arrangement; see `models.rerank.Rules`."""

    max_run: int = Field(3, ge=0)
    max_share: float = Field(0.4, gt=0, le=1)
    diversity: rerank.Method = "none"
    strength: float = Field(0.3, ge=0, le=1)

    @cached_property
    def of_page(self) -> rerank.Rules:
        return rerank.Rules(self.max_run, self.max_share, self.diversity, self.strength)


class Business(Part):
    """A factor that the shop decides on, above 1 to boost and below to bury, for what it names."""

    factor: float = Field(gt=0, le=100)
    category: str = ""
    brand: str = ""
    items: list[str] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.category or self.brand or self.items):
            raise ValueError("a business rule holds for a category, a brand or items; name at least one")
        return self


class Scores(Part):
    """Factors on the scores; see `models.factors`."""

    fresh: float = Field(1.0, ge=1, le=100)
    session: float = Field(0.0, ge=0, le=100)
    dampen: float = Field(0.6, ge=0, lt=1)
    business: list[Business] = []


class Explore(Part):
    """Slots that show under-exposed items; see `models.bandits`."""

    policy: Literal["epsilon_greedy", "thompson", "linear"]
    share: float = Field(0.1, ge=0, le=0.5)
    newcomer: float = Field(0.3, ge=0, le=0.5)
    epsilon: float = Field(0.1, ge=0, le=1)


class Surface(Part):
    """One surface; the fields are explained at the top of surfaces.yaml."""

    about: About
    phase: Literal[1, 2, 3]
    sources: dict[SourceName, Quota] = Field(min_length=1)
    newcomer: dict[SourceName, Quota] = {}
    backfill: list[SourceName] = []
    rank: bool | None = Field(None, validate_default=True)
    objectives: Objectives = {}
    scores: Scores = Scores()
    rules: Rules = Rules()
    explore: Explore | None = None
    seen: bool = True

    @property
    def ranked(self) -> bool:
        """Whether a model orders the candidates; left open, it does from phase 2 on."""
        return self.phase > 1 if self.rank is None else self.rank

    @model_validator(mode="after")
    def _check(self) -> Self:
        asked = sorted(MODELS & {*self.sources, *self.newcomer, *self.backfill})
        if self.phase == 1 and (asked or self.ranked):
            what = f"the source {asked[0].value}" if asked else "rank: true"
            raise ValueError(f"phase 1 is rules alone, but {what} asks a model; take phase 2, or leave it out")
        if self.phase == 1 and self.explore:
            raise ValueError("phase 1 is rules alone; take phase 2 to explore, or leave explore out")
        if self.phase == 2 and self.explore and self.explore.policy != "epsilon_greedy":
            raise ValueError(f"explore.policy {self.explore.policy} is of phase 3; phase 2 explores by epsilon_greedy")
        if (total := sum(self.sources.values())) > MAX_CANDIDATES:
            raise ValueError(f"the quotas sum to {total}; at most {MAX_CANDIDATES} candidates can be ranked in time")
        if SourceName.RELATED in self.sources and self.about in (About.SHOPPER, About.CATEGORY):
            raise ValueError(f"the source related needs an item, and about: {self.about.value} has none")
        return self


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
_FILE: TypeAdapter[dict[str, Surface]] = TypeAdapter(dict[Name, Surface])


def read(data: bytes) -> dict[str, Surface]:
    """The surfaces of a file. Raises ValueError that names the place."""
    return followed.checked(_FILE, data)


def own_file(settings: Settings) -> Path:
    """The installation's own surfaces; it need not exist."""
    return Path(settings.api.surfaces_file or Path(settings.storage.root) / "config" / "surfaces.yaml")


def follow(settings: Settings) -> followed.File[Mapping[str, Surface]]:
    """The surfaces by name: those that are shipped, and over them those of the installation, as its file changes.

    Raises:
        Permanent: the file is wrong at start.
    """
    shipped = read(DEFAULTS.read_bytes())
    return followed.File(own_file(settings), lambda data: shipped | read(data), absent=b"")
