"""The answer to a name that the catalogue does not know: which names there are, the nearest first."""

from collections.abc import Sequence
from difflib import get_close_matches

from serving.api.live import LiveRelease
from serving.api.problems import Problem

COMPARED = 1_000  # names that a wrong one is compared with: 10 ms, in which other requests wait
NAMED = 5


def unknown(what: str, name: str, names: Sequence[str], live: LiveRelease) -> Problem:
    """404 for a category or a brand.

    Args:
        what: "category" or "brand".
        name: as asked.
        names: those of the catalogue, the most general or most popular first.
        live: the release that does not know it.
    """
    spelt = {known.casefold(): known for known in reversed(names[:COMPARED])}
    near = [spelt[match] for match in get_close_matches(name.casefold(), spelt, 3)]
    detail = f"no {what} {name!r} in release {live.release_id}; " + (
        f"it is one of {', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''}"
        if names
        else f"its items name no {what}"
    )
    if near:
        detail += f"; did you mean {' or '.join(map(repr, near))}?"
    return Problem(404, f"unknown-{what}", detail, nearest=near)
