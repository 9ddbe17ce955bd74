"""A catalogue with changes: three items that a reader can hold in mind."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from feature_repo.events import ITEMS
from models.catalogue import Catalogue

THEN = datetime(2024, 1, 1, tzinfo=UTC)


def item(item_id: str, **said: Any) -> dict[str, Any]:
    empty = dict.fromkeys(ITEMS.names)
    return empty | {"item_id": item_id, "title": item_id.title(), "category": "Home", "created_at": THEN} | said


def shop() -> Catalogue:
    rows = [item(name, available=True, price=9.0) | {"popularity": 5.0} for name in ("mug", "lamp", "poster")]
    schema = pa.schema([*ITEMS.arrow(), pa.field("popularity", pa.float32())])
    return Catalogue(pa.Table.from_pylist(rows, schema), {}, {"allow_repeats": True})


def told(catalogue: Catalogue) -> list[tuple[Any, ...]]:
    columns = ("item_id", "price", "available", "popularity")
    return list(zip(*(catalogue.items.column(name).to_pylist() for name in columns), strict=True))


def test_nothing_told_changes_nothing() -> None:
    held = shop()
    unknown = {"vase": None, "rug": item("rug", available=False)}
    assert held.changed({}) is held
    assert held.changed(unknown) is held, "what is not sold is left out, as a build would"


def test_each_change_is_in_its_row_and_new_items_stand_behind() -> None:
    held = shop()
    found = held.changed(
        {
            "vase": item("vase", available=True, price=3.0),
            "poster": None,
            "lamp": item("lamp", available=True, price=7.5),
            "rug": item("rug", available=True),
        }
    )
    assert told(found) == [
        ("mug", 9.0, True, 5.0),
        ("lamp", 7.5, True, 5.0),
        ("poster", 9.0, False, 5.0),
        ("vase", 3.0, True, 0.0),
        ("rug", None, True, 0.0),
    ]
    assert found.rows(["rug", "mug"]).tolist() == [4, 0]
    assert found.meta == held.meta
    assert told(held) == told(shop())


def test_a_change_is_contained_where_it_would_change_nothing() -> None:
    held = shop()
    same = item("mug", available=True, price=9.0)
    assert held.contains("mug", same | {"tags": [], "regions": []}), "an empty list and none are one"
    assert not held.contains("mug", same | {"price": 8.0})
    assert not held.contains("mug", None)
    assert held.contains("vase", None)
    assert held.contains("vase", item("vase", available=False))
    assert not held.contains("vase", item("vase", available=True))
