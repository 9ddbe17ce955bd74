"""THE format of a model or an index on disk: a directory and its manifest.json.

The manifest lists every file with its size and SHA-256. `draft()` writes into a hidden folder and renames it
into place as the last step, so that a path either holds a whole artifact or nothing, and never changes after;
`load()` refuses anything that does not match its manifest. No pickle, ever.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from recsys.errors import Permanent

Kind = Literal["retrieval", "index", "catalogue", "ranker"]
MANIFEST = "manifest.json"
FORMAT = 1


class ArtifactError(Permanent):
    """The directory is not the artifact that its manifest describes."""


@dataclass(frozen=True)
class Manifest:
    """What an artifact says about itself.

    Attributes:
        kind: what it is; `load()` refuses another kind.
        version: the run that made it and a digest of its content; unique.
        as_of: ISO time up to which data were used (exclusive, UTC).
        parents: versions of the artifacts that it was made from, by kind; an index names its retrieval model.
        meta: what a reader needs to use it: dimensions, input names, vocabulary sizes, metrics.
        files: relative path to size in bytes and SHA-256.
    """

    kind: Kind
    version: str
    as_of: str
    parents: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Artifact:
    """A directory whose content was found to match its manifest."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which covers every file."""
        return sha256(self.path / MANIFEST)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass
class Draft:
    """An artifact being written: put files under `path`, and facts into `meta`; `artifact` is set at the end."""

    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
    artifact: Artifact | None = None

    @property
    def finished(self) -> Artifact:
        """The artifact; only after the `draft()` block has ended."""
        if self.artifact is None:
            raise RuntimeError("the artifact is still being written; ask after the `with` block")
        return self.artifact


@contextmanager
def draft(
    folder: Path, *, kind: Kind, run: str, as_of: str, parents: Mapping[str, str] | None = None
) -> Iterator[Draft]:
    """Write an artifact to `folder/kind/version`; it appears there only if the block ends well.

    The version is the run and a digest of the content, so that an artifact is never overwritten: a second run
    with the same result is the same artifact, one with another result stands beside it, and what is being
    served stays as it was validated.
    """
    work = folder / kind / f".{run}.draft"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    draft_ = Draft(work)
    try:
        yield draft_
        files = {
            str(path.relative_to(work)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
        content = json.dumps([as_of, dict(parents or {}), draft_.meta, files], sort_keys=True)
        version = f"{run}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
        made = Manifest(kind, version, as_of, dict(parents or {}), draft_.meta, files)
        (work / MANIFEST).write_text(json.dumps(asdict(made), indent=1, sort_keys=True))
        target = work.with_name(version)
        if not target.exists():
            work.rename(target)
        draft_.artifact = Artifact(target, made)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def manifest(path: Path) -> Manifest:
    """Read a manifest without checking the files.

    Raises:
        ArtifactError: there is none, or it is not of this format.
    """
    try:
        raw = json.loads((path / MANIFEST).read_text())
        found = Manifest(**raw)
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} holds no readable {MANIFEST}: {error}; build it again") from error
    if found.format != FORMAT:
        raise ArtifactError(f"{path} has artifact format {found.format}, this code reads {FORMAT}; build it again")
    return found


def load(path: Path, *, kind: Kind, parents: Mapping[str, str] | None = None) -> Artifact:
    """Open an artifact after checking every byte of it.

    Args:
        path: directory of the artifact.
        kind: what it must be.
        parents: versions it must have been made from, by kind.

    Raises:
        ArtifactError: wrong kind, wrong parent, or a file that is missing, unlisted, truncated or changed.
    """
    found = manifest(path)
    if found.kind != kind:
        raise ArtifactError(f"{path} is a {found.kind!r} artifact, expected {kind!r}")
    for parent, version in (parents or {}).items():
        if found.parents.get(parent) != version:
            raise ArtifactError(
                f"{path} was made from {parent} {found.parents.get(parent)!r}, expected {version!r}; "
                "rebuild it from the model it is to be served with"
            )
    present = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} - {MANIFEST}
    if present != set(found.files):
        raise ArtifactError(
            f"{path} lacks {sorted(set(found.files) - present)} and has unlisted {sorted(present - set(found.files))}"
        )
    for name, entry in found.files.items():
        size = (path / name).stat().st_size
        if size != entry["bytes"] or sha256(path / name) != entry["sha256"]:
            raise ArtifactError(f"{path / name} does not match its manifest ({size} bytes); restore or rebuild it")
    return Artifact(path, found)
