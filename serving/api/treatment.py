"""What a request is served with, once the experiments that concern it have had their say."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from models import experiments
from recsys.settings import ROLES
from serving.api.contract import Ask
from serving.api.live import LiveRelease
from serving.api.parts import Parts
from serving.api.surfaces import Surface
from serving.api.trace import Exposure, Trace

AWAY = ("down", "open", "release")
MISSED = {"release": "no predictors hold its release", "surface": "its surface is there no more"}


@dataclass(frozen=True, eq=False)
class Treatment:
    """The surface that serves, and the release that it is served from."""

    surface: Surface
    live: LiveRelease


def of(
    ask: Ask, asked: Surface, live: LiveRelease, now: datetime, parts: Parts, trace: Trace, *, live_only: bool = False
) -> Treatment:
    """Apply the variants of whoever asks. A variant that cannot serve leaves all as it is.

    Args:
        ask: as sent; the unit is the user, or else the session.
        asked: the surface of that name.
        live: the release that serves where no variant says otherwise.
        now: aware time.
        parts: of the process.
        trace: gets the exposures, in place of those that it had.
        live_only: the predictors of any other release are away.
    """
    book = parts.experiments.value
    unit, kind = (ask.user_id, "user") if ask.user_id else (ask.session_id, "session")
    facts = {"surface": ask.surface, "region": ask.region}
    made, trace.exposures = Treatment(asked, live), []
    for name, arm in experiments.assign(unit, book.layers, now, facts).items():
        variant, missed = book.changes[name].variants[arm], ""
        serving = made.live
        if variant.release and variant.release != live.release_id:
            held = None if live_only else parts.watcher.holding(variant.release)
            serving, missed = (serving, "release") if held is None else (held, "")
        try:
            surface = variant.of(made.surface, parts.surfaces.value)
        except ValueError:  # the surfaces have changed since the experiments were read
            missed = "surface"
        if not missed:
            made = Treatment(surface, serving)
        trace.exposures.append(Exposure(name, arm, kind, missed))
    return made


def is_away(trace: Trace) -> bool:
    """Whether a predictor does not hold the release that it was asked for, or is not there at all. One that is slow is
    part of what an experiment measures."""
    return any(fall.stage in ROLES and fall.why in AWAY for fall in trace.falls)


def notes(exposures: Sequence[Exposure]) -> list[str]:
    """Sentences about variants that could not serve."""
    return [
        f"the variant {met.variant} of {met.experiment} could not serve: {MISSED[met.missed]}"
        for met in exposures
        if met.missed
    ]
