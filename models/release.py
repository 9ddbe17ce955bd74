"""THE deployment state: which models serve, as one frozen record.

A release bundles the user tower, the index, the catalogue and the ranker of compatible versions. `live.json`
holds the one that serves and is replaced by an atomic rename; `history.jsonl` is append-only and says what was
live at any past minute, and why. Only `pipelines.deploy` writes either; everybody else reads.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NewType

from models import artifact
from recsys.errors import Permanent
from recsys.settings import Colour, Role

ReleaseId = NewType("ReleaseId", str)
ARTIFACTS_OF_ROLE: Mapping[Role, tuple[artifact.Kind, ...]] = {
    "retrieval": ("retrieval", "index", "catalogue"),
    "ranking": ("catalogue", "ranker"),
}


class ReleaseError(Permanent):
    """There is no such release, or its record cannot be read."""


@dataclass(frozen=True)
class Reference:
    """An artifact by version, place (relative to the storage root) and the digest of its manifest."""

    version: str
    path: str
    digest: str


@dataclass(frozen=True)
class Release:
    """What serves.

    Attributes:
        release_id: the run that made it.
        released_at: ISO time of the switch, UTC.
        as_of: ISO time up to which its data reach, UTC.
        colour: the predictors that hold it.
        artifacts: by kind: retrieval, index, catalogue, ranker.
        feature_service: name of the Feast feature service that the predictors read.
        previous: the release that served before, or None.
        reason: why it went live, in words: "deploy", "rollback: …".
    """

    release_id: ReleaseId
    released_at: str
    as_of: str
    colour: Colour
    artifacts: Mapping[str, Reference]
    feature_service: str
    previous: ReleaseId | None
    reason: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Release":
        """Raises ReleaseError if the text is not a release record."""
        try:
            raw: dict[str, Any] = json.loads(text)
            raw["artifacts"] = {kind: Reference(**ref) for kind, ref in raw["artifacts"].items()}
            return Release(**raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ReleaseError(f"not a release record: {error}") from error


@dataclass(frozen=True)
class Releases:
    """The release files under `<storage root>/releases`, read-only."""

    root: Path

    @property
    def live_file(self) -> Path:
        return self.root / "releases" / "live.json"

    @property
    def history_file(self) -> Path:
        return self.root / "releases" / "history.jsonl"

    def candidate_file(self, colour: Colour) -> Path:
        """The release that the predictors of a colour load when they start."""
        return self.root / "releases" / f"{colour}.json"

    def live(self) -> Release | None:
        """The release that serves, or None before the first deployment."""
        return self._read(self.live_file)

    def candidate(self, colour: Colour) -> Release | None:
        """The release that a colour is asked to hold, or None."""
        return self._read(self.candidate_file(colour))

    def history(self) -> list[Release]:
        """Every switch, oldest first, including one that a crash has kept out of the file (see pipelines.ledger)."""
        text = self.history_file.read_text() if self.history_file.exists() else ""
        whole = [line for line in text.split("\n")[:-1] if line]  # what follows the last line end was torn by a crash
        records = [Release.from_json(line) for line in whole]
        live = self.live()
        return records if live is None or live in records[-1:] else [*records, live]

    def at(self, moment: datetime) -> Release | None:
        """What was live at a moment (aware, UTC)."""
        past = [r for r in self.history() if datetime.fromisoformat(r.released_at) <= moment]
        return past[-1] if past else None

    def open(self, release: Release, kind: artifact.Kind) -> artifact.Artifact:
        """Load and verify one artifact of a release; an index must come from the release's own towers."""
        reference = release.artifacts[kind]
        parents = {"retrieval": release.artifacts["retrieval"].version} if kind == "index" else None
        found = artifact.load(self.root / reference.path, kind=kind, parents=parents)
        if found.digest != reference.digest:
            raise artifact.ArtifactError(
                f"{found.path} is not the {kind} {reference.version} that release {release.release_id} was "
                "validated with; roll back, or deploy again"
            )
        return found

    def _read(self, path: Path) -> Release | None:
        try:
            return Release.from_json(path.read_text())
        except FileNotFoundError:
            return None
