"""The name and the meaning of every ranking feature, in the order of the ranker's `numeric` input.

Counts, prices and times are log1p-scaled by `feature_repo.blocks`, so that a tower sees a bounded range; means and
quantiles belong to the SavedModel. Add a feature at the end of its block, and its arithmetic in the block's
function; a released ranker names the features it was trained with and refuses others.

The history is `names.HISTORY`: positive events only, their types and times. A visit is a chain of events no more than
half an hour apart; the last visit is the newest, whether it still goes on or not.
"""

import math
from collections.abc import Mapping

from feature_repo import events, names
from feature_repo.events import EventType

HALF_LIVES_DAYS = (1.0, 7.0, 30.0)
HALF_LIVES_EVENTS: Mapping[str, float] = {"1e": 1.0, "4e": 4.0, "20e": 20.0, "ever": math.inf}
RELATIONS: Mapping[str, str] = {
    "together": "the same visitors have both",
    "next": "the other comes soon after",
}
SCOPES = ("item", "category", "top_category", "brand", "price_band")
PRICE_BANDS = 10  # of equally many items of the catalogue
KINDS: Mapping[str, tuple[str, ...]] = {
    "viewed": (EventType.VIEW, EventType.CLICK),
    "carted": (EventType.ADD_TO_CART,),
    "liked": (EventType.LIKE, EventType.COMPLETE, EventType.RATE, EventType.ADD_TO_WISHLIST, EventType.SHARE),
    "bought": (EventType.PURCHASE,),
}
KIND_SCOPES = ("item", "category", "brand")
REPEAT_SCOPES = ("item", "category")
RUN_SCOPES = ("category", "top_category", "brand")
# Scopes that the user's profile weighs, and the columns of the labels and their weights.
WEIGHED: Mapping[str, tuple[str, str]] = {
    "category": ("categories", "category_weights"),
    "top_category": ("top_categories", "top_category_weights"),
    "brand": ("brands", "brand_weights"),
}
LIFT_FLOOR = 0.01  # of a share: what is rarer is not a preference
# An event that weighs as much says that the item was wanted, not merely looked at.
WANTED_WEIGHT = events.SIGNAL_WEIGHT[EventType.ADD_TO_CART]
TRENDS: Mapping[str, tuple[str, ...]] = {"interest": ("view", "click"), "purchase": ("purchase",)}
RATES: Mapping[str, str] = {"cart": "add_to_cart", "purchase": "purchase"}

ITEM: Mapping[str, str] = {
    **{f"item_{name}": f"log1p of {says}" for name, says in names.ITEM_STATS.items()},
    "item_trend": "log ratio of fast (2 days) to slow (14 days) popularity: above its mean, the item is rising",
    "item_popularity_rank": "share of the catalogue that is less popular, 0..1; comparable between days",
    "item_price": "log1p of the unit price, 0 where unknown",
    "item_has_price": "1 where the price is known",
    "item_price_in_category": "log price minus the mean of its category: cheap or dear for its kind",
    **{
        name: doc
        for trend, kinds in TRENDS.items()
        for name, doc in {
            f"item_{trend}_1d_to_7d": f"log of the last day's events ({', '.join(kinds)}) over the week's daily mean, "
            "1 added to both",
            f"item_{trend}_7d_to_30d": "log of the last week's over the month's weekly mean, 1 added to both",
        }.items()
    },
    **{
        name: doc
        for rate, kind in RATES.items()
        for name, doc in {
            f"category_{rate}_rate": f"{kind} per view or click in its category, 30 days, at most 1; 0 without views",
            f"item_{rate}_rate_lead": "log of the item's rate, smoothed towards its category's, over its category's",
        }.items()
    },
    "item_category_rank": "share of its category that is less popular, 0..1; 0 without a category",
    "item_category_share": "its share of its category's popularity",
    "item_price_rank": "share of the priced catalogue that is cheaper, 0..1; 0 where the price is unknown",
    "item_price_category_rank": "share of its category's priced items that are cheaper",
    "category_size": "log1p of the items in its category that have statistics",
    "category_popularity": "log1p of their mean popularity",
    "category_trend": "log ratio of their fast (2 days) to their slow (14 days) popularity",
}
FRESHNESS: Mapping[str, str] = {
    "item_age": "log1p of days since the item entered the catalogue",
    "item_under_48h": "1 in the first 48 hours",
    "item_idle": "log1p of days since anybody's last event with the item",
    "item_stats_age": "days since the item's windows were computed, at most 30: says how stale they are",
}
USER: Mapping[str, str] = {
    **{f"user_{name}": f"log1p of {says}" for name, says in names.USER_ACTIVITY.items()},
    "user_history_length": f"log1p of the events in the history, at most {names.HISTORY_LENGTH}",
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
    "is_weekend": "1 on Saturday and Sunday, UTC",
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
        f"{scope}_last_visit": "log1p of those in the last visit",
        f"{scope}_share": f"their share of the history's signal weight, half-life {int(HALF_LIVES_DAYS[-1])} days",
        f"{scope}_visit_share": "share of the history's visits that have one",
        f"{scope}_recency": "1 / (1 + days since the last of them), 0 if none",
        f"{scope}_events_ago": "1 / (1 + events of the user since the last of them): 1 for the last, 0 if none",
    }.items()
}
DEEDS: Mapping[str, str] = {
    f"{scope}_{kind}": f"log1p of the user's past events with this {scope} of type {' or '.join(kinds)}"
    for scope in KIND_SCOPES
    for kind, kinds in KINDS.items()
}
RHYTHM: Mapping[str, str] = {
    "category_same_hours": "of the history's events within 3 hours of this time of day, the share in this category",
    "category_same_weekday": "of the history's events on this day of the week, the share in this category",
}
REPEAT: Mapping[str, str] = {
    **{
        name: doc
        for scope in REPEAT_SCOPES
        for name, doc in {
            f"{scope}_bought_recency": f"1 / (1 + days since the user's last purchase of this {scope}), 0 if none",
            f"{scope}_bought_due": "those days over the mean gap between such purchases, at most 4; 0 under two",
            f"{scope}_bought_gap": "log1p of that mean gap, days; 0 under two purchases",
            f"{scope}_bought_gap_spread": "standard deviation of the gaps over their mean, at most 4; 0 under three "
            "purchases, and where they are regular",
        }.items()
    },
    "item_visits_ago": "1 / (1 + visits since the last with this item): 1 in this visit, 1/2 in the last one, 0 never",
    "item_visits_due": "those visits over the mean number from one with the item to the next, at most 4; 0 under two",
    "item_cart_open": "1 where the user put the item in the cart after buying it last, or never bought it",
    "category_since_bought": "log1p of the user's events in this category since buying in it; all, if never",
}
VISIT: Mapping[str, str] = {
    "visit_is_open": "1 where the last visit is still going on",
    "visit_events": "log1p of the events of the last visit",
    "visit_minutes": "log1p of minutes from its first to its last event",
    "visit_categories": "distinct categories per event of it",
    "visit_wanted": "share of its events that say wanted (cart, purchase, completion, like)",
    "visit_count": "log1p of visits in the history",
    "visit_gap": "log1p of the mean days from the begin of one to the next; 0 under two",
    "visit_due": "days since the last event over that mean (at least a day), at most 4; 0 under two visits",
    **{
        f"{scope}_run": f"log1p of the latest events in a row with this {scope}; 0 where the last had another"
        for scope in RUN_SCOPES
    },
}
AFFINITY: Mapping[str, str] = {
    "category_affinity": "the user's weight of this category (view user_categories)",
    "top_category_affinity": "the user's weight of this top category",
    "brand_affinity": "the user's weight of this brand",
    "preference_match": "stated preferences that are a category or tag of the item",
    "region_match": "1 where the item may be shown in the region of the request",
    "region_named": "1 where the item names that region itself, instead of being for everywhere",
    "region_away": "1 where the request comes from another region than the profile's",
    **{
        f"{scope}_lift": f"log of the user's weight of this {scope} over its share of everybody's popularity, "
        f"{LIFT_FLOOR} added to both; 0 where nothing is known of the user or the item"
        for scope in WEIGHED
    },
}
PRICE: Mapping[str, str] = {
    "price_gap": "log price minus log of the user's mean price; 0, as all gaps are, where either is unknown",
    "price_gap_size": "its absolute value",
    "price_gap_history": "log price minus the mean log price of the history's items",
    "price_gap_wanted": "the same over what the user wanted (cart, purchase, completion, like)",
    "price_gap_visit": "the same over the last visit",
    "price_gap_category": "the same over the history's items in this category",
    "price_gap_last": "log price minus that of the last event's item",
    "price_gap_deviations": "price_gap_history in standard deviations of those log prices (at least 0.25), "
    "at most 8 either way",
    "price_history_rank": "share of the history's priced items that are cheaper; 0.5 where either is unknown",
    "price_history_spread": "standard deviation of the history's log prices; 0 where none is known",
}
NEIGHBOURS: Mapping[str, str] = {
    name: doc
    for relation, meaning in RELATIONS.items()
    for name, doc in {
        **{
            f"{relation}_{since}": f"sum of the history's weights that have the item as a neighbour ({meaning}), "
            f"halved by every {half_life:g} events since"
            for since, half_life in HALF_LIVES_EVENTS.items()
        },
        f"{relation}_7d": "the same, halved by every 7 days since",
        f"{relation}_wanted": "the same over events that say wanted, all alike",
        f"{relation}_last": "the weight of the last event's item",
        f"{relation}_best": "the largest of the history's weights",
        f"{relation}_best_visit": "the largest of the last visit's",
        f"{relation}_count": "log1p of the history's events whose item has this one as a neighbour",
    }.items()
}
BLOCKS: Mapping[str, Mapping[str, str]] = {
    "item": ITEM,
    "freshness": FRESHNESS,
    "user": USER,
    "context": CONTEXT,
    "retrieval": RETRIEVAL,
    "touch": TOUCH,
    "deeds": DEEDS,
    "rhythm": RHYTHM,
    "repeat": REPEAT,
    "visit": VISIT,
    "affinity": AFFINITY,
    "price": PRICE,
    "neighbours": NEIGHBOURS,
}
RANKING_DOCS: Mapping[str, str] = {name: doc for block in BLOCKS.values() for name, doc in block.items()}
RANKING_FEATURES: tuple[str, ...] = tuple(RANKING_DOCS)
