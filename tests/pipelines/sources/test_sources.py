"""Naming a source, and describing it."""

from pathlib import Path

import pytest

from pipelines import sources
from recsys.errors import BadData, UsageError
from recsys.settings import Settings


def test_a_name_and_a_path(settings: Settings) -> None:
    assert sources.parse("online_retail:/x/y.parquet", settings) == sources.Spec("online_retail", Path("/x/y.parquet"))
    assert sources.parse("canonical:/a:b", settings).path == Path("/a:b")
    assert sources.parse("bus", settings).path == Path(settings.storage.root).resolve()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amazon:/x", "no source 'amazon'.*the sources are canonical, online_retail"),
        ("movielens", "names no path; write movielens:PATH"),
        ("movielens:", "names no path"),
        ("", "no source ''"),
        ("simulator", r"make one with `python -m simulator --out .*/sources/simulator`"),
    ],
)
def test_a_wrong_name_says_what_to_write(settings: Settings, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sources.parse(text, settings)


@pytest.mark.parametrize("name", ["online_retail", "movielens", "retailrocket", "canonical"])
def test_a_missing_input_is_named(settings: Settings, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadData, match="nowhere"):
        sources.describe(f"{name}:{tmp_path / 'nowhere'}", settings)


def test_the_simulated_shop_is_described(settings: Settings, tiny_shop: Path) -> None:
    place = Path(settings.storage.root) / "sources" / "simulator"
    place.parent.mkdir(parents=True)
    place.symlink_to(tiny_shop)
    facts = sources.describe("simulator", settings)
    assert (facts["users"], facts["items"]) == (300, 200)
    assert (facts["first_day"], facts["last_day"]) == ("2026-01-05", "2026-01-16")
    assert facts["rows"] == sum(facts["event_types"].values())
    assert 0.1 < facts["anonymous_share"] < 0.3
    assert sources.last_day("simulator", settings).isoformat() == "2026-01-16"


def test_ids_that_stand_for_nobody_are_anonymous(settings: Settings, tmp_path: Path) -> None:
    header = "event_id,user_id,session_id,item_id,event,event_time"
    lines = [f"e{k},{user},s{k},1,view,2026-03-01T10:00:00Z" for k, user in enumerate(["0", "guest", "u1", ""])]
    (tmp_path / "events.csv").write_text("\n".join([header, *lines]) + "\n")
    (tmp_path / "items.csv").write_text("item_id,title,category,created_at,available\n1,A,Home,2026-01-01,true\n")
    (tmp_path / "users.csv").write_text("user_id,region\n0,DE\nu1,DE\n")
    text = sources.absolute(f"canonical:{tmp_path}?nobody=0, guest")
    source = sources.open_source(text, settings)
    events = [row for batch in source.events(sources.BEGINNING, sources.END) for row in batch.to_pylist()]
    assert [row["user_id"] for row in events] == [None, None, "u1", None]
    assert [row["user_id"] for batch in source.users(sources.END) for row in batch.to_pylist()] == ["u1"]
    assert sources.describe(text, settings)["anonymous_share"] == 0.75
    plain = sources.open_source(f"canonical:{tmp_path}", settings)
    events = [row for batch in plain.events(sources.BEGINNING, sources.END) for row in batch.to_pylist()]
    assert [row["user_id"] for row in events] == ["0", "guest", "u1", None]
