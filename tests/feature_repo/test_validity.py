"""One declaration of what is valid, for the API and for the quality gate."""

import pytest

from feature_repo import events, validity


@pytest.mark.parametrize("text", ["u1", "17850", "a/b", "Zoë Müller", "a" * 200, "0"])
def test_ids(text: str) -> None:
    assert validity.is_id(text)


@pytest.mark.parametrize("text", ["", " ", "\t", " u1", "u1 ", "u1\n", "a\tb", "a\x00b", "a" * 201])
def test_no_ids(text: str) -> None:
    assert not validity.is_id(text)


@pytest.mark.parametrize(
    ("event", "column"),
    [
        ({"event": "view", "item_id": "mug"}, ""),
        ({"event": "view"}, "item_id"),
        ({"event": "view", "item_id": " ", "category": "Home"}, "item_id"),
        ({"event": "search", "query": "mugs"}, ""),
        ({"event": "search", "item_id": "mug"}, "query"),
        ({"event": "unsubscribe", "category": "Home"}, ""),
        ({"event": "undo", "brand": "Acme"}, ""),
        ({"event": "undo", "item_id": "mug"}, ""),
        ({"event": "unsubscribe", "category": " "}, "item_id"),
    ],
)
def test_what_an_event_must_say(event: dict[str, str], column: str) -> None:
    lacking = validity.missing(event)
    assert (lacking[0] if lacking else "") == column


def test_a_price_is_judged_in_its_currency() -> None:
    phone = 12_990_000
    assert phone <= validity.max_price("VND")
    assert phone > validity.max_price("EUR") == validity.max_price(None)
    assert validity.max_price("VND") <= validity.MAX_VALUE


def test_a_misspelt_type_is_told_its_nearest() -> None:
    told = events.unknown_type("puchase")
    assert "did you mean 'purchase'?" in told
    assert "EventType" not in told
