"""Bring a run's models live, blue-green, or bring the release before back.

    bundle → load → smoke → shadow → latency gate → switch → bake

Everything up to the switch happens in the idle colour, and a failure there stops it and changes nothing else. The
switch is one atomic write (`pipelines.ledger`). The colour that served before stays loaded until the next deployment,
so that a rollback is a switch, not a load. Where predictors run is the backend's business alone.
"""

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from models import artifact, catalogue
from models.release import Reference, Release, ReleaseId
from pipelines import contained, datasets, ledger, registry, shadow, smoke, stage, traffic
from pipelines.backend import Backend
from pipelines.ledger import Ledger
from pipelines.local_backend import LocalBackend
from recsys.errors import Permanent, RecsysError, Retryable, UsageError
from recsys.settings import Settings

GATES = ("evaluate_retrieval", "validate_index", "evaluate_ranker")
FEATURE_SERVICE = "ranking_v1"
_POLL = 0.25
_BAKE_POLL = 0.5
_BAKE_STRIKES = 3  # probes in a row that may fail: one slow answer on a busy machine is no reason to go back

log = logging.getLogger(__name__)
Step = Callable[[str], None]


class Params(stage.Params):
    bake: float | None = Field(None, ge=0, description="seconds to watch the new colour; default: the settings'")
    shadow_requests: int | None = Field(None, ge=0, description="requests to replay; default: the settings'")
    max_p99_ms: float | None = Field(None, gt=0, description="latency gate of the predictors; default: the settings'")
    keep: int = Field(5, ge=2, description="releases whose artifacts stay on disk; 2 is what a rollback needs")


class BakeFailure(Permanent):
    """The new release went live, did not hold, and was taken back."""


@dataclass(frozen=True)
class _Plan:
    """Limits of one deployment: the parameters where given, else the settings'."""

    bake: float
    shadow_requests: int
    max_p99_ms: float
    start_timeout: float
    candidates: int


def main(params: Params, settings: Settings) -> stage.Result:
    """Deploy to the predictors of this machine."""
    return deploy(params, settings, LocalBackend(settings))


def deploy(params: Params, settings: Settings, backend: Backend, at: Step = log.info) -> stage.Result:
    """Bring the models of a run live.

    Args:
        at: told the name of each step when it begins.

    Raises:
        BadData: a gate of the run has not passed.
        Permanent: the candidate fails a step; what serves is untouched (or, after a failed bake, serves again).
        Retryable: a predictor, the supervisor, Redis or MLflow is away, or another deployment is at work.
    """
    for gate in GATES:
        stage.require_passed(settings, params.run, gate)
    plan = _plan(params, settings)
    with ledger.held(_root(settings)) as book:
        at("bundle")
        live, candidate = book.releases.live(), bundle(params, settings, book)
        if live is not None and live.artifacts == candidate.artifacts:
            log.info("release %s serves already", live.release_id)
            registry.promote(settings, live, _before(book, live))
            return {"release": asdict(live), "deployed": False}
        tried = _try_out(params, settings, backend, book, candidate, plan, at)
        at("switch")
        made = book.switch(candidate)
        log.info("release %s serves from %s", made.release_id, made.colour)
        at("bake")
        _bake(backend, book, made, live, plan)
        at("registry")
        registry.promote(settings, made, live)
        at("prune")
        forgotten = contained.forget(settings, book, params.keep)
        pruned = [path.name for path in book.prune(params.keep)]
    return {"release": asdict(made), "deployed": True, "pruned": pruned, "forgotten_changes": forgotten, **tried}


def rollback(settings: Settings, reason: str, backend: Backend | None = None) -> Release:
    """Bring the release before the live one back: towers, index and ranker together.

    A switch where the other colour still holds it, which takes well under a second; else it is loaded first. A
    second rollback goes one release further back, never forward to what the first one removed.

    Raises:
        UsageError: nothing served before.
        Permanent: the release before cannot be loaded any more; what serves is untouched.
        Retryable: a deployment is at work, or the supervisor is away.
    """
    backend = backend or LocalBackend(settings)
    with ledger.held(_root(settings)) as book:
        live = book.releases.live()
        if live is None or live.previous is None:
            raise UsageError("there is no release to go back to; `recsys release history` lists what has served")
        colour = book.idle
        before = replace(book.recorded(live.previous), colour=colour, reason=f"rollback: {reason}")
        if not _holds(backend, book, before):
            log.info("%s does not hold release %s; loading it first", colour, before.release_id)
            with _stopping(backend, book, before):
                _load(backend, book, before, settings.deploy.start_timeout)
                smoke.require_answers(backend, before)
        made = book.switch(before)
        log.info("release %s serves again, instead of %s: %s", made.release_id, live.release_id, reason)
        _promote_if_possible(settings, made, _before(book, made))
    return made


def bundle(params: Params, settings: Settings, book: Ledger) -> Release:
    """The candidate release of a run, after checking every byte of its artifacts.

    Raises:
        ArtifactError: one is corrupt, or made from other towers than the ones it would serve with.
    """
    results = {name: stage.result_of(settings, params.run, name) for name in registry.PRODUCERS.values()}
    made: dict[artifact.Kind, dict[str, Any]] = {
        "retrieval": results["train_retrieval"]["artifact"],
        "index": results["build_index"]["artifact"],
        "catalogue": results["build_index"]["catalogue"],
        "ranker": results["train_ranker"]["artifact"],
    }
    references: dict[str, Reference] = {kind: _reference(book.root, found["path"]) for kind, found in made.items()}
    live = book.releases.live()
    release = Release(
        release_id=_release_id(book, params.run, references),
        released_at="",
        as_of=datasets.end_of(params.day).isoformat(),
        colour=book.idle,
        artifacts=references,
        feature_service=FEATURE_SERVICE,
        previous=live.release_id if live else None,
        reason="deploy",
    )
    for kind in made:
        opened = book.releases.open(release, kind)
        towers = opened.manifest.parents.get("retrieval", references["retrieval"].version)
        if towers != references["retrieval"].version:
            raise artifact.ArtifactError(
                f"{opened.path} was made with towers {towers}, the release has others; rebuild it"
            )
    return release


def _try_out(
    params: Params, settings: Settings, backend: Backend, book: Ledger, candidate: Release, plan: _Plan, at: Step
) -> dict[str, Any]:
    """Everything before the switch; on any failure the idle colour is stopped and holds nothing."""
    items = _catalogue(book, candidate)
    live = book.releases.live()
    with _stopping(backend, book, candidate):
        at("load")
        started = time.monotonic()
        _load(backend, book, candidate, plan.start_timeout)
        load_seconds = round(time.monotonic() - started, 2)
        at("smoke")
        known = traffic.known_users(settings, params.day)
        smoked = smoke.test(backend, candidate, items, known)
        at("shadow")
        requests = traffic.recent(settings, plan.shadow_requests, plan.candidates)
        source = "recent requests" if requests else "visitors of the lake"
        requests = requests or traffic.sampled(settings, items, params.day, plan.shadow_requests, plan.candidates)
        report = _shadow(settings, params, backend, candidate, live, requests, plan)
    return {"smoke": smoked, "shadow": report.to_dict() | {"source": source}, "load_seconds": load_seconds}


def _shadow(
    settings: Settings,
    params: Params,
    backend: Backend,
    candidate: Release,
    live: Release | None,
    requests: list[traffic.Request],
    plan: _Plan,
) -> shadow.Report:
    """Compare, and refuse what is too slow; measured twice before it is refused, because machines have hiccups."""
    for attempt in (1, 2):
        report = shadow.compare(backend, candidate, live, requests)
        folder = datasets.run_folder(settings, params.run) / "deploy"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "shadow.json").write_text(json.dumps(report.to_dict(), indent=1))
        reasons = report.verdict(plan.max_p99_ms)
        log.info("shadow of %d requests, attempt %d: %s", len(requests), attempt, report)
        if not reasons:
            return report
    raise Permanent(f"release {candidate.release_id} does not go live: {'; '.join(reasons)}")


@contextmanager
def _stopping(backend: Backend, book: Ledger, candidate: Release) -> Iterator[None]:
    """Stop the candidate's colour, which does not serve, if the block fails."""
    try:
        yield
    except BaseException as error:
        log.error("release %s did not go live: %s", candidate.release_id, error)
        _retire(backend, book, candidate)
        raise


def _retire(backend: Backend, book: Ledger, failed: Release) -> None:
    """Stop the colour of a release that failed; its record goes first, so that nothing can load it again."""
    book.withdraw(failed.colour)
    try:
        backend.stop(failed.colour)
    except RecsysError as second:
        log.warning("%s could not be stopped: %s", failed.colour, second)  # the first error is the one to see


def _load(backend: Backend, book: Ledger, release: Release, timeout: float) -> None:
    """Have a colour load a release, and wait until it is warm."""
    book.offer(release)
    backend.start(release.colour)
    deadline = time.monotonic() + timeout
    while not backend.ready(release.colour):
        if time.monotonic() > deadline:
            raise Retryable(f"{release.colour} is not ready {timeout:.0f} s after its start with {release.release_id}")
        time.sleep(_POLL)


def _bake(backend: Backend, book: Ledger, made: Release, before: Release | None, plan: _Plan) -> None:
    """Watch the new colour; if it does not hold, the colour before serves again.

    Raises:
        BakeFailure: it did not hold.
    """
    end, strikes = time.monotonic() + plan.bake, 0
    while time.monotonic() < end:
        strikes = 0 if smoke.answers(backend, made) else strikes + 1
        if strikes >= _BAKE_STRIKES:
            break
        time.sleep(min(_BAKE_POLL, max(0.0, end - time.monotonic())))
    if strikes < _BAKE_STRIKES:
        return
    problem = f"release {made.release_id} failed {strikes} probes in a row while it was watched"
    if before is None:
        raise BakeFailure(f"{problem}; there is no release before it, so it still serves as far as it can")
    book.switch(replace(before, reason=f"rollback: {problem}"))
    _retire(backend, book, made)
    raise BakeFailure(f"{problem}; {before.release_id} serves again")


def _holds(backend: Backend, book: Ledger, release: Release) -> bool:
    """Whether the idle colour still has a release loaded, so that it can serve at once."""
    held = book.releases.candidate(release.colour)
    if held is None or held.artifacts != release.artifacts:
        return False
    return smoke.answers(backend, release)


def _before(book: Ledger, live: Release) -> Release | None:
    return book.recorded(live.previous) if live.previous else None


def _promote_if_possible(settings: Settings, live: Release, before: Release | None) -> None:
    """In an emergency the aliases of the registry can wait; the next deployment sets them right."""
    try:
        registry.promote(settings, live, before)
    except RecsysError as error:
        log.warning("the aliases in MLflow still name the release that was removed: %s", error)


def _release_id(book: Ledger, run: str, references: Mapping[str, Reference]) -> ReleaseId:
    """The run's name; with a number if the run has already released something else under it."""
    taken = {record.release_id: record.artifacts for record in book.releases.history()}
    names = itertools.chain([run], (f"{run}.{number}" for number in itertools.count(2)))
    return next(ReleaseId(n) for n in names if ReleaseId(n) not in taken or taken[ReleaseId(n)] == references)


def _reference(root: Path, path: str) -> Reference:
    manifest = artifact.manifest(root / path)
    return Reference(manifest.version, path, artifact.sha256(root / path / artifact.MANIFEST))


def _catalogue(book: Ledger, release: Release) -> catalogue.Catalogue:
    opened = book.releases.open(release, "catalogue")
    return catalogue.read(opened.path, opened.manifest.meta)


def _root(settings: Settings) -> Path:
    return Path(settings.storage.root).resolve()


def _plan(params: Params, settings: Settings) -> _Plan:
    limits = settings.deploy
    return _Plan(
        bake=limits.bake if params.bake is None else params.bake,
        shadow_requests=limits.shadow_requests if params.shadow_requests is None else params.shadow_requests,
        max_p99_ms=params.max_p99_ms or limits.max_p99_ms,
        start_timeout=limits.start_timeout,
        candidates=settings.api.candidates,
    )
