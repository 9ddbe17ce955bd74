"""The category rule and the titles of Online Retail, read by eye."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources import gift_ware


@pytest.mark.parametrize(
    ("description", "path"),
    [
        ("WHITE HANGING HEART T-LIGHT HOLDER", "Home Decor > Candle Holders"),
        ("CHOCOLATE 3 WICK MORRIS BOX CANDLE", "Home Decor > Candles"),
        ("REGENCY CAKESTAND 3 TIER", "Kitchen & Dining > Cake Stands & Baking"),
        ("PACK OF 60 MUSHROOM CAKE CASES", "Kitchen & Dining > Cake Stands & Baking"),
        ("ASSORTED COLOUR BIRD ORNAMENT", "Home Decor > Decorations"),
        ("JUMBO BAG RED RETROSPOT", "Bags > Shopping Bags"),
        ("LUNCH BAG SPACEBOY DESIGN", "Bags > Lunch Bags"),
        ("STRAWBERRY CERAMIC TRINKET BOX", "Home Decor > Boxes & Storage"),
        ("HOT WATER BOTTLE TEA AND SYMPATHY", "Home Comforts > Hot Water Bottles"),
        ("RED TOADSTOOL LED NIGHT LIGHT", "Home Decor > Candles"),
        ("HOME BUILDING BLOCK WORD", "Home Decor > Signs & Wall Art"),
        ("SET OF 6 CHRISTMAS MUGS", "Seasonal > Christmas"),
        ("EDWARDIAN PARASOL NATURAL", "Accessories > Scarves, Hats & Umbrellas"),
        ("SILVER AMETHYST DROP EARRINGS LEAF", "Accessories > Earrings"),
        ("VINTAGE RED MUG", "Kitchen & Dining > Mugs & Cups"),
        ("SET/5 RED SPOTTY LID GLASS BOWLS", "Kitchen & Dining > Plates & Bowls"),
        ("BLACK TEA TOWEL CLASSIC DESIGN", "Kitchen & Dining > Table & Kitchen Linen"),
        ("VINTAGE SNAP CARDS", "Toys & Games > Games & Puzzles"),
        ("OOH LA LA DOGS COLLAR", "Home Comforts > Pets"),
        ('LETTER "I" BLING KEY RING', "Accessories > Keyrings & Phone Charms"),
        ("6 RIBBONS EMPIRE", "Party & Gift Wrap > Gift Wrap & Bags"),
        ("FLORAL PINK WIDGET LARGE", "Other > Widget"),
        ("SET OF 3 SMALL GIZMOS", "Other > Gizmo"),
        ("60 CM", "Other > Item"),
    ],
)
def test_the_rule_finds_what_a_shopper_would_say(description: str, path: str) -> None:
    assert gift_ware.category(description) == path


@pytest.mark.parametrize(
    ("description", "title"),
    [
        ("WHITE HANGING HEART T-LIGHT HOLDER ", "White Hanging Heart T-Light Holder"),
        ("DAD'S  CAB ELECTRONIC METER.", "Dad's Cab Electronic Meter"),
        ("POLYESTER FILLER PAD 40x40cm", "POLYESTER FILLER PAD 40x40cm"),
    ],
)
def test_titles_are_pleasant_to_read(description: str, title: str) -> None:
    assert gift_ware.title(description) == title


@given(st.text(max_size=60))
def test_every_description_has_a_category_of_two_levels(description: str) -> None:
    assert gift_ware.category(description).count(" > ") == 1
    gift_ware.title(description)
