"""The name and the meaning of every ranking feature, in the order of the ranker's `numeric` input.

Counts, prices and times are log1p-scaled by `feature_repo.ranking`, so that a tower sees a bounded range; means
and quantiles belong to the SavedModel. Add a feature at the end of its block, and its arithmetic in the block's
function; a released ranker names the features it was trained with and refuses others.
"""

import math
from collections.abc import Mapping

from feature_repo import names

HALF_LIVES_DAYS = (1.0, 7.0, 30.0)
HALF_LIVES_EVENTS: Mapping[str, float] = {"1e": 1.0, "4e": 4.0, "20e": 20.0, "ever": math.inf}
RELATIONS: Mapping[str, str] = {
    "together": "the same visitors have both",
    "next": "the other comes soon after",
}
SCOPES = ("item", "category", "top_category", "brand")

ITEM: Mapping[str, str] = {
    **{f"item_{name}": f"log1p of the item's {name} (names.ITEM_STATS)" for name in names.ITEM_STATS},
    "item_trend": "log ratio of fast (2 days) to slow (14 days) popularity: above its mean, the item is rising",
    "item_popularity_rank": "share of the catalogue that is less popular, 0..1; comparable between days",
    "item_price": "log1p of the unit price, 0 where unknown",
    "item_has_price": "1 where the price is known",
    "item_price_in_category": "log price minus the mean of its category: cheap or dear for its kind",
}
FRESHNESS: Mapping[str, str] = {
    "item_age": "log1p of days since the item entered the catalogue",
    "item_under_48h": "1 in the first 48 hours",
    "item_idle": "log1p of days since anybody's last event with the item",
    "item_stats_age": "days since the item's windows were computed, at most 30: says how stale they are",
}
USER: Mapping[str, str] = {
    **{f"user_{name}": f"log1p of the user's {name} (names.USER_ACTIVITY)" for name in names.USER_ACTIVITY},
    "user_history_length": "log1p of the events in the history, at most names.HISTORY_LENGTH",
    "user_history_distinct": "distinct items per event of the history: 1 never repeats",
    "user_history_purchases": "share of purchases in the history",
    "user_history_span": "log1p of days from its first to its last event",
    "user_tenure": "log1p of days since sign-up, or else since the first event",
    "user_idle": "log1p of days since the last event of the history",
    "user_activity_age": "days since the user's windows were computed, at most 30: says how stale they are",
    "user_focus": "weight of the heaviest top category: 1 shops in one only",
    "user_preferences": "log1p of stated preferences",
    "user_is_new": "1 where no event of the user is known",
    "user_is_anonymous": "1 where the visitor is known by session only",
}
CONTEXT: Mapping[str, str] = {
    "hour_sin": "sine of the time of day, UTC",
    "hour_cos": "cosine of the time of day, UTC",
    "weekday_sin": "sine of the day of the week, UTC",
    "weekday_cos": "cosine of the day of the week, UTC",
}
RETRIEVAL: Mapping[str, str] = {
    "retrieval_score": "inner product of the towers",
    "retrieval_rank_reciprocal": "1 / (rank + 1); 0 where retrieval did not return the item",
    "retrieval_rank": "log1p of the rank, 0 for the best; 8 where retrieval did not return the item",
    "retrieval_found": "1 where retrieval returned the item",
}
TOUCH: Mapping[str, str] = {
    name: doc
    for scope in SCOPES
    for name, doc in {
        f"{scope}_touches": f"log1p of the user's past events with this {scope}",
        **{
            f"{scope}_decayed_{int(days)}d": f"their signal weight, half-life {int(days)} days, log1p"
            for days in HALF_LIVES_DAYS
        },
        f"{scope}_recency": f"1 / (1 + days since the user's last event with this {scope}), 0 if none",
        f"{scope}_share": f"their share of the history's signal weight, half-life {int(HALF_LIVES_DAYS[-1])} days",
    }.items()
}
REPEAT: Mapping[str, str] = {
    "item_bought": "log1p of the user's past purchases of this item",
    "item_bought_recency": "1 / (1 + days since the last of them), 0 if none",
    "item_bought_due": "days since the last purchase over the user's mean gap between them, at most 4; 0 under two",
    "item_in_cart": "log1p of the user's past add_to_cart events with this item",
    "category_bought": "log1p of the user's past purchases in this category",
}
AFFINITY: Mapping[str, str] = {
    "category_affinity": "the user's weight of this category (view user_categories)",
    "top_category_affinity": "the user's weight of this top category",
    "brand_affinity": "the user's weight of this brand",
    "preference_match": "stated preferences that are a category or tag of the item",
    "price_gap": "log price minus log of the user's mean price; 0 where either is unknown",
    "price_gap_size": "its absolute value",
    "price_gap_history": "log price minus the mean log price of the history's items; 0 where either is unknown",
    "region_match": "1 where the item may be shown in the region of the request",
    "region_named": "1 where the item names that region itself, instead of being for everywhere",
    "region_away": "1 where the request comes from another region than the profile's",
}
NEIGHBOURS: Mapping[str, str] = {
    name: doc
    for relation, meaning in RELATIONS.items()
    for name, doc in {
        **{
            f"{relation}_{since}": f"sum of the history's weights that have the item as a neighbour ({meaning}), "
            f"halved by every {events:g} events since"
            for since, events in HALF_LIVES_EVENTS.items()
        },
        f"{relation}_best": "the largest of these weights",
    }.items()
}
BLOCKS: Mapping[str, Mapping[str, str]] = {
    "item": ITEM,
    "freshness": FRESHNESS,
    "user": USER,
    "context": CONTEXT,
    "retrieval": RETRIEVAL,
    "touch": TOUCH,
    "repeat": REPEAT,
    "affinity": AFFINITY,
    "neighbours": NEIGHBOURS,
}
RANKING_DOCS: Mapping[str, str] = {name: doc for block in BLOCKS.values() for name, doc in block.items()}
RANKING_FEATURES: tuple[str, ...] = tuple(RANKING_DOCS)
