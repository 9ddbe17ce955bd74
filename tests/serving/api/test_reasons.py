"""A reason says what is true, and nothing where nothing is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.release import Releases
from recsys.inference import strings
from recsys.settings import Settings
from serving.api import live, reasons, watcher
from serving.api.contract import Rung
from serving.api.sources import candidates
from serving.api.sources.candidates import Candidates

DAY = 86_400.0


@pytest.fixture
def release(settings: Settings, shop: Any) -> live.LiveRelease:
    return live.load(Releases(Path(settings.storage.root)), shop.publish(settings))


def personal(evidence: str, event: str) -> Candidates:
    """i8, a Toy, because of the evidence."""
    one = np.ones(1, np.float32)
    because = np.zeros(1, np.int32)
    return Candidates("personal", Rung.RETRIEVAL, strings(["i8"]), one, "", "", because, [evidence], [event])


@pytest.mark.parametrize(
    ("evidence", "event", "reason"),
    [
        ("i4", "purchase", "Because you bought Thing 4"),
        ("i4", "add_to_cart", "Because you put Thing 4 in your cart"),
        ("i4", "complete", "Because you watched Thing 4 to the end"),
        ("i4", "view", "Because you viewed Thing 4"),
        ("i4", "skip", "Picked for you"),  # a skip is no taste
        ("i5", "purchase", "Because you bought Thing 5"),  # of another general category: tested all the same
        ("i8", "purchase", "You bought this before"),
        ("i8", "add_to_cart", "You put this in your cart before"),
        ("gone", "purchase", "Picked for you"),  # not in this catalogue: it has no title to name
        ("", "", "Picked for you"),
    ],
)
def test_a_personal_reason_needs_its_evidence(
    release: live.LiveRelease, evidence: str, event: str, reason: str
) -> None:
    assert reasons.of(personal(evidence, event), 0, release.catalogue.row_of["i8"], release, release.as_of) == reason


@pytest.mark.parametrize(
    ("scope", "key", "reason", "later"),
    [
        ("global", "", "Popular right now", "Popular overall"),
        ("region", "Germany", "Popular in Germany", "Popular in Germany"),
        ("age_region", "25-34|Germany", "Popular with ages 25-34 in Germany", "Popular with ages 25-34 in Germany"),
        ("category", "Toys > big", "Trending in big", "Popular in big"),
        ("top_category", "Toys", "Trending in Toys", "Popular in Toys"),
    ],
)
def test_a_list_is_called_by_its_name_and_an_old_one_claims_no_present(
    release: live.LiveRelease, scope: str, key: str, reason: str, later: str
) -> None:
    listed = candidates.listed("popular", Rung.TRENDING, [("i8", 1.0)], scope, key)
    assert reasons.of(listed, 0, 8, release, release.as_of + DAY) == reason
    assert reasons.of(listed, 0, 8, release, release.as_of + 8 * DAY) == later


def test_newness_is_judged_by_the_clock_of_the_request(release: live.LiveRelease) -> None:
    release.created[8] = release.as_of - 5 * DAY
    new = candidates.ordered("new", Rung.TRENDING, strings(["i8"]))
    months = release.as_of + 270 * DAY
    assert reasons.of(new, 0, 8, release, release.as_of + DAY) == "New in the catalogue"
    assert reasons.of(new, 0, 8, release, months) == "Among the latest in the catalogue"
    assert reasons.explored(8, release, release.as_of + DAY) == "New in the catalogue"
    assert reasons.explored(8, release, months) == "Exploring"
    release.created[8] = months - DAY  # told of since
    assert reasons.of(new, 0, 8, release, months) == "New in the catalogue"
    assert reasons.explored(9, release, release.as_of) == "Exploring", "of unknown age"


def test_a_long_title_is_cut(settings: Settings, release: live.LiveRelease) -> None:
    release.titles[4] = "word " * 30
    reason = reasons.of(personal("i4", "purchase"), 0, 8, release, release.as_of)
    assert len(reason) < 100
    assert reason.startswith("Because you bought word word")
    assert reason.endswith("…")


def test_a_merged_pool_keeps_the_first_source_of_an_item_and_drops_the_unknown(release: live.LiveRelease) -> None:
    parts = [
        candidates.listed("popular", Rung.TRENDING, [("i3", 0.9), ("gone", 0.8)], "region", "Germany"),
        candidates.listed("bought_with", Rung.COVISITATION, [("i5", 0.7), ("i3", 0.6)], key="i1"),
    ]
    pool = candidates.merged(parts, release)
    assert (pool.rung, pool.tags([0, 1])) == (Rung.TRENDING, [["popular", "bought_with"], ["bought_with"]])
    assert pool.rows.tolist() == [3, 5]
    assert (pool.part.tolist(), pool.place.tolist()) == ([0, 1], [0, 0])
    again = pool.scored(np.array([0.1], np.float32))
    assert again.rows.tolist() == [3, 5]
    np.testing.assert_allclose(again.scores, [0.1, 0.7], rtol=1e-6)


def test_an_empty_pool_is_empty(release: live.LiveRelease) -> None:
    assert len(candidates.merged([], release)) == 0


def test_the_rows_below_a_category_are_its_own_and_those_of_its_children(release: live.LiveRelease) -> None:
    assert release.below("Toys").tolist()[:4] == [0, 4, 8, 12]
    assert release.below("Toys > big").tolist()[:3] == [0, 8, 16]
    assert release.below("Toy").tolist() == []
    assert {"Toys", "Toys > big"} <= release.known


def test_a_record_that_is_no_release_is_an_error_that_the_watcher_survives(settings: Settings, shop: Any) -> None:
    import asyncio

    shop.publish(settings)
    watching = watcher.Watcher(Path(settings.storage.root))
    assert asyncio.run(watching.refresh()) is True
    Releases(Path(settings.storage.root)).live_file.write_text(json.dumps({"release_id": "x"}))
    assert asyncio.run(watching.refresh()) is False
    assert watching.current is not None
    assert watching.current.release_id == "r1"
