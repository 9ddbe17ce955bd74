"""Experiments in the request path: what a variant changes, what is said of it, and that it stays with its unit."""

import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from models.release import Releases
from recsys import bus
from recsys.errors import Permanent
from recsys.settings import REPOSITORY, Settings
from serving.api import decisions, experiments, followed, surfaces

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
RULES = """
home:
  models:
    surfaces: [home]
    traffic: [0, 100]
    variants: {rules: {weight: 1e9, surface: home_rules}, ranked: {}}
"""
RELEASE = RULES.replace("rules: {weight: 1e9, surface: home_rules}", "rules: {weight: 1e9, release: r2}")
SHIPPED = surfaces.read(surfaces.DEFAULTS.read_bytes())


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of a file is seen by the next request."""
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)


def write(settings: Settings, text: str, path: Path | None = None) -> Path:
    path = path or experiments.own_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(path.stat().st_atime_ns, time.time_ns()))  # a clock may tick slowly
    return path


def logged(world: Any) -> list[dict[str, Any]]:
    """What the decision log says of experiments, by response."""
    world.app.state.parts.decisions.close()
    root = Path(world.settings.storage.root)
    return [record["experiments"] for segment in bus.closed(root, decisions.TOPIC) for record in bus.read(segment)]


def ids(page: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in page["items"]]


def test_none_are_shipped(settings: Settings) -> None:
    assert experiments.follow(settings).value == experiments.Book((), {})


def test_a_file_says_who_is_in_what_and_until_when(settings: Settings) -> None:
    write(
        settings,
        """
ranking:
  purchases:
    surfaces: [home, because_you_viewed]
    regions: [Germany]
    traffic: [10, 12.5]
    start: 2026-11-01T00:00:00Z
    end: 2026-12-01T00:00:00+01:00
    variants: {now: {}, more: {weight: 2, objectives: {purchase: 2}}, newer: {release: r2}}
""",
    )
    book = experiments.follow(settings).value
    [layer] = book.layers
    [found] = layer.experiments
    assert (layer.name, found.name, found.traffic) == ("ranking", "purchases", range(1000, 1250))
    assert (found.conditions["surface"], found.conditions["region"]) == ({"home", "because_you_viewed"}, {"Germany"})
    states = [found.state(NOW + timedelta(days=days)) for days in (-30, 0, 5, 6)]
    assert states == ["waiting", "running", "running", "over"]
    assert book.releases(NOW) == {"r2"}
    assert book.releases(NOW + timedelta(days=30)) == frozenset()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("home: [", "no YAML"),
        ("l: {}\nm: {}\nl: {}", "no YAML: 'l' is there twice"),
        ("l: {E: {}}", "l.E"),
        ("l: {e: {traffic: [0, 9], variants: {a: {}, b: {}}}}", "l.e.surfaces: Field required"),
        (
            "l: {e: {surfaces: [moon], traffic: [0, 9], variants: {a: {}, b: {}}}}",
            "l.e.surfaces: no surface 'moon'; it",
        ),
        ("l: {e: {surfaces: [home], traffic: [0, 9], variants: {a: {}}}}", "l.e.variants: Dictionary should have at"),
        (
            "l: {e: {surfaces: [home], traffic: [0, 101], variants: {a: {}, b: {}}}}",
            "l.e.traffic.1: Input should be les",
        ),
        ("l: {e: {surfaces: [home], traffic: [9, 0], variants: {a: {}, b: {}}}}", "traffic goes up from 9 to 0 %; ex"),
        ("l: {e: {surfaces: [home], traffic: [0, 0.001], variants: {a: {}, b: {}}}}", "l.e.traffic.1: Input should be"),
        (
            "l: {e: {surfaces: [home], traffic: [0, 9], start: 2026-11-01T00:00:00, variants: {a: {}, b: {}}}}",
            "l.e.start: Input should have timezone info",
        ),
        (
            "l: {e: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {surface: moon}}}}",
            "l.e.variants.b.surface: no surface 'moon'; it is one of home,",
        ),
        (
            "l: {e: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {surface: cart}}}}",
            "l.e.variants.b.surface: cart is about cart, the asked one about shopper; take another (for the surface",
        ),
        (
            "l: {e: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {objectives: {joy: 1}}}}}",
            "l.e.variants.b.objectives: Value error, objectives has 'joy'; the ranker's heads are click",
        ),
        (
            "l: {e: {surfaces: [trending], traffic: [0, 9], variants: {a: {}, b: {objectives: {click: 1}}}}}",
            "l.e.variants.b.objectives: no model ranks this surface, so they change nothing; leave them out",
        ),
        ("l: {e: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {weight: 0}}}}", "l.e.variants.b.weight"),
        (
            """l: {e: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {}}},
                   f: {surfaces: [cart], traffic: [8, 20], variants: {a: {}, b: {}}}}""",
            "e and f both want 8..9 % of the layer l; give each a range of its own",
        ),
        (
            """l: {e: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {}}}}
m: {e: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {}}}}""",
            "m.e: another layer has an experiment of this name",
        ),
        (
            """l: {e: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {objectives: {click: 1}}}}}
m: {f: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {surface: home_rules}}}}""",
            "e and f are in different layers, but both change the surface of pages of home; put them into one layer",
        ),
    ],
)
def test_a_wrong_file_names_the_place_and_the_remedy(settings: Settings, text: str, words: str) -> None:
    path = write(settings, text)
    with pytest.raises(Permanent) as caught:
        experiments.follow(settings)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_the_example_of_the_docs_can_be_used() -> None:
    page = (REPOSITORY / "docs" / "experiments.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    [layer] = experiments.read(example.encode(), SHIPPED).layers
    assert [variant.name for variant in layer.experiments[0].variants] == ["rules", "models"]


def test_layers_may_change_different_things_of_one_page() -> None:
    said = b"""
l: {e: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {release: r2}}}}
m: {f: {surfaces: [home], traffic: [0, 9], variants: {a: {}, b: {surface: home_rules}}}}
"""
    assert set(experiments.read(said, SHIPPED).changes) == {"e", "f"}


@pytest.mark.services
async def test_a_variant_serves_another_surface_and_all_are_told(world: Any) -> None:
    write(world.settings, RULES)
    page = await world.page(user_id="ann", count=3)
    assert page["variants"] == {"models": "rules"}
    assert (page["surface"], page["rung"], page["degraded"], page["notes"]) == ("home", "trending", False, [])
    assert world.retrieval.asked == world.ranking.asked == []
    assert await world.metric('recsys_api_exposures_total{experiment="models",variant="rules"}') == 1
    assert logged(world) == [[{"experiment": "models", "variant": "rules", "unit": "user", "missed": ""}]]


@pytest.mark.services
async def test_nobody_is_exposed_to_an_experiment_that_does_not_concern_the_request(world: Any) -> None:
    write(world.settings, RULES)
    assert (await world.page(user_id="ann", surface="trending"))["variants"] == {}
    assert (await world.page())["variants"] == {}  # neither a user nor a session
    write(world.settings, RULES.replace("traffic", "regions: [Norway]\n    traffic"))
    assert (await world.page(user_id="ann"))["variants"] == {}
    assert (await world.page(user_id="ann", region="Norway"))["variants"] == {"models": "rules"}
    write(world.settings, RULES.replace("traffic", "enabled: false\n    traffic"))
    assert (await world.page(user_id="ann"))["variants"] == {}
    assert [len(found) for found in logged(world)] == [0, 0, 0, 1, 0]


@pytest.mark.services
async def test_a_visitor_without_a_name_is_assigned_by_the_session_until_they_log_in(world: Any) -> None:
    write(world.settings, RULES)
    assert (await world.page(session_id="s1"))["variants"] == {"models": "rules"}
    await world.page(session_id="s1", user_id="ann")
    assert [found["unit"] for [found] in logged(world)] == ["session", "user"]


@pytest.mark.services
async def test_a_variant_weighs_objectives(world: Any) -> None:
    write(world.settings, RULES.replace("surface: home_rules", "objectives: {purchase: 1, revenue: 2}"))
    assert (await world.page(user_id="ann"))["rung"] == "ranked"
    assert world.ranking.asked[-1].blend == {"purchase": 1.0, "revenue": 2.0}


@pytest.mark.services
async def test_variants_that_change_nothing_serve_the_same_page(world: Any) -> None:
    before = await world.page(user_id="ann")
    arms = set()
    for name in ("one", "two", "three", "four", "five"):  # another name deals anew
        write(world.settings, f"l: {{{name}: {{surfaces: [home], traffic: [0, 100], variants: {{a: {{}}, b: {{}}}}}}}}")
        page = await world.page(user_id="ann")
        arms.add(page["variants"][name])
        unlike = {key for key in page if page[key] != before[key]}
        assert unlike == {"variants", "request_id", "cursor"}
    assert arms == {"a", "b"}


@pytest.mark.services
async def test_later_pages_keep_the_variant_of_the_first(world: Any) -> None:
    write(world.settings, RULES)
    ask = {"user_id": "ann", "count": 5}
    whole = ids(await world.page(**ask | {"count": 10}))
    first = await world.page(**ask)
    experiments.own_file(world.settings).unlink()
    await world.app.state.parts.outbox.flush()  # now it comes from Redis
    second = await world.page(**ask, cursor=first["cursor"])
    assert second["variants"] == {"models": "rules"}
    assert ids(first) + ids(second) == whole
    assert (await world.page(**ask))["variants"] == {}


@pytest.mark.services
async def test_a_lost_page_is_made_anew_by_the_experiments_of_its_first_page(world: Any) -> None:
    end = datetime.now(UTC) + timedelta(seconds=1)
    write(world.settings, RULES.replace("traffic", f"end: {end.isoformat()}\n    traffic"))
    first = await world.page(user_id="ann", count=5)
    await world.app.state.parts.outbox.flush()
    with redis.Redis.from_url(world.settings.redis_url) as store:
        store.delete(*store.keys("page:*"))
    time.sleep(max(0.0, end.timestamp() - time.time()))
    assert (await world.page(user_id="ann", count=5))["variants"] == {}
    second = await world.page(user_id="ann", count=5, cursor=first["cursor"])
    assert (second["variants"], second["rung"]) == ({"models": "rules"}, "trending")


@pytest.mark.services
async def test_another_process_gives_everybody_the_same_variant(world: Any, shop: Any) -> None:
    write(world.settings, RULES.replace("weight: 1e9", "weight: 1"))
    users = [f"u{n}" for n in range(20)]
    before = [(await world.page(user_id=user, count=1))["variants"]["models"] for user in users]
    assert set(before) == {"rules", "ranked"}
    async with shop.running(world.settings, predictors=False) as other:
        assert [(await other.page(user_id=user, count=1))["variants"]["models"] for user in users] == before


@pytest.mark.services
async def test_a_surface_that_has_gone_leaves_the_asked_one_and_says_so(world: Any) -> None:
    write(world.settings, "mine: {about: shopper, phase: 1, sources: {popular: 50}}", surfaces.own_file(world.settings))
    write(world.settings, RULES.replace("home_rules", "mine"))
    assert (await world.page(user_id="ann"))["variants"] == {"models": "rules"}
    surfaces.own_file(world.settings).unlink()
    page = await world.page(user_id="ann")
    assert (page["variants"], page["rung"]) == ({}, "ranked")
    assert page["notes"] == ["the variant rules of models could not serve: its surface is there no more"]
    missed = 'recsys_api_missed_variants_total{experiment="models",variant="rules",why="surface"}'
    assert await world.metric(missed) == 1
    assert [found["missed"] for [found] in logged(world)] == ["", "surface"]


@pytest.fixture
async def green(world: Any, shop: Any) -> AsyncIterator[Any]:
    """Predictors of release r2 beside those of r1, which is live; r2 has the first 30 items only."""
    releases = Releases(Path(world.settings.storage.root))
    live = releases.live_file.read_text()
    other = replace(shop.publish(world.settings, "r2", count=30), colour="green")
    releases.live_file.write_text(live)
    releases.candidate_file("green").write_text(other.to_json())
    releases.history_file.write_text(other.to_json() + "\n")  # it served before r1
    made = [
        replace(
            predictor,
            address=world.settings.predictor_address(predictor.role, "green"),
            release="r2",
            asked=[],
            _server=None,
        )
        for predictor in (world.retrieval, world.ranking)
    ]
    for predictor in made:
        await predictor.start()
    write(world.settings, RELEASE)
    await world.app.state.parts.watcher.refresh()
    await world.app.state.parts.watcher.stand()
    yield made
    for predictor in made:
        await predictor.stop()


@pytest.mark.services
async def test_a_variant_is_served_by_the_colour_that_holds_its_release(world: Any, green: Any) -> None:
    page = await world.page(user_id="ann", count=10)
    assert (page["variants"], page["release_id"], page["rung"]) == ({"models": "rules"}, "r2", "ranked")
    assert [len(predictor.asked) for predictor in (*green, world.retrieval, world.ranking)] == [1, 1, 0, 0]
    assert all(int(item["item_id"][1:]) < 30 for item in page["items"])
    second = await world.page(user_id="ann", count=10, cursor=page["cursor"])
    assert (second["release_id"], second["notes"], len(second["items"])) == ("r2", [], 10)
    assert await world.metric('recsys_api_release{release="r2"}') == 0


@pytest.mark.services
async def test_the_catalogue_of_a_variant_changes_as_that_of_the_live_release(world: Any, green: Any) -> None:
    first, *_ = (await world.page(user_id="ann", count=10))["items"]
    await world.http.delete(f"/api/v1/items/{first['item_id']}")
    parts = world.app.state.parts
    await parts.changed.poll(parts.watcher)
    await parts.watcher.stand()
    page = await world.page(user_id="ann", count=30)
    assert page["release_id"] == "r2"
    assert first["item_id"] not in [item["item_id"] for item in page["items"]]


@pytest.mark.services
async def test_an_item_that_the_release_of_a_variant_lacks_costs_candidates_and_no_answer(
    world: Any, green: Any
) -> None:
    write(world.settings, RELEASE.replace("[home]", "[similar]"))
    page = await world.page(surface="similar", item_id="i59", user_id="ann", count=5)
    assert (page["release_id"], page["rung"], len(page["items"])) == ("r2", "static", 5)


@pytest.mark.services
@pytest.mark.parametrize("away", ["stopped", "another"])
async def test_the_live_release_serves_where_that_of_the_variant_is_away(world: Any, green: Any, away: str) -> None:
    for predictor in green:
        if away == "stopped":
            await predictor.stop()
        else:
            predictor.release = "r3"  # the colour has been given to the next deployment
    pages = [await world.page(user_id="ann", count=3) for _ in range(8)]  # more than a circuit breaker lets fail
    for page in pages:
        assert (page["release_id"], page["rung"], page["degraded"], page["variants"]) == ("r1", "ranked", False, {})
        assert page["notes"] == ["the variant rules of models could not serve: no predictors hold its release"]
    missed = 'recsys_api_missed_variants_total{experiment="models",variant="rules",why="release"}'
    assert await world.metric(missed) == 8
    assert await world.metric("recsys_api_exposures_total") == 0


@pytest.mark.services
async def test_a_release_is_held_only_while_a_variant_names_it_and_a_colour_has_it(world: Any, green: Any) -> None:
    watcher = world.app.state.parts.watcher
    held = watcher.standing
    await watcher.stand()
    assert watcher.standing is held is not None, "it is not read again"
    write(world.settings, RELEASE.replace("r2", "r9"))
    await watcher.stand()
    assert watcher.standing is None
    page = await world.page(user_id="ann", count=3)
    assert (page["release_id"], page["variants"]) == ("r1", {})
    write(world.settings, RELEASE.replace("r2", "r1"))
    page = await world.page(user_id="ann", count=3)
    assert (page["release_id"], page["variants"]) == ("r1", {"models": "rules"})  # it is the live one
    write(world.settings, RULES)
    await watcher.stand()
    assert watcher.standing is None


@pytest.mark.services
async def test_a_candidate_that_was_never_live_is_not_held(world: Any, green: Any) -> None:
    watcher = world.app.state.parts.watcher
    Releases(watcher.root).history_file.unlink()
    watcher.standing = None  # as in a process that starts
    await watcher.stand()
    assert watcher.standing is None


@pytest.mark.services
async def test_a_release_that_cannot_be_read_is_not_held(world: Any, green: Any) -> None:
    watcher, root = world.app.state.parts.watcher, Path(world.settings.storage.root)
    (root / watcher.standing.release.artifacts["catalogue"].path / "popular.json").write_text("{}")
    watcher.standing = None  # as in a process that starts
    await watcher.stand()
    assert watcher.standing is None
    assert (await world.page(user_id="ann", count=3))["release_id"] == "r1"
