"""Names and sizes of features, without Feast, so that numpy code and Spark code can share them."""

from collections.abc import Mapping

USER_EVENTS = ("view", "click", "add_to_cart", "purchase", "complete", "like", "skip")
ITEM_EVENTS = ("impression", *USER_EVENTS)
WINDOWS_DAYS = (1, 7, 30)
HISTORY_LENGTH = 100
HISTORY = ("history_items", "history_events", "history_times")
TOP_CATEGORIES = 10
EMBEDDING_DIM = 128

# By name, what each says.
USER_ACTIVITY: Mapping[str, str] = {
    **{
        f"{event}_{days}d": f"their {event} events, {days}-day window" for event in USER_EVENTS for days in WINDOWS_DAYS
    },
    "spend_30d": "what they spent, 30 days: the sum of value times quantity of purchases",
    "mean_price_30d": "the mean unit price of their positive events, 30 days; 0 where unknown",
    "distinct_items_30d": "the items of their positive events, 30 days",
    "distinct_categories_30d": "the categories of these items",
    "sessions_30d": "their visits, 30 days",
    "active_days_30d": "the days with an event, 30 days",
    "orders_total": "their purchases since the beginning",
    "events_total": "their positive events since the beginning",
}
ITEM_STATS: Mapping[str, str] = {
    **{f"{event}_{days}d": f"its {event} events, {days}-day window" for event in ITEM_EVENTS for days in WINDOWS_DAYS},
    "users_30d": "visitors with a positive event, 30 days",
    "ctr_30d": "clicks per impression, 30 days, smoothed towards the mean of all items",
    "cart_rate_30d": "carts per click or view, 30 days, smoothed",
    "purchase_rate_30d": "purchases per click or view, 30 days, smoothed",
    "completion_rate_30d": "completions per view, 30 days, smoothed",
    "like_rate_30d": "likes per view, 30 days, smoothed",
    "mean_rating": "its mean rating, 0 where nobody rated",
    "popularity": "its signal-weighted events, half-life 14 days",
    "popularity_fast": "its signal-weighted events, half-life 2 days",
    "popularity_share": "its share of its top category's popularity",
    "brand_popularity": "the mean popularity of its brand's items",
    "repeat_rate": "the share of its buyers who bought it again",
    "mean_position_30d": "the mean slot of its impressions, 30 days; 0 where none",
}

USER_VIEWS = ("user_profile", "user_history", "user_activity", "user_categories", "user_embedding")
ITEM_VIEWS = ("item_content", "item_stats", "item_embedding")
SESSION_VIEWS = ("session_history",)
EMBEDDING_VIEWS = ("user_embedding", "item_embedding")  # what a release makes; all other views, the day's data alone
ENTITY_OF_VIEW = {
    **dict.fromkeys(USER_VIEWS, "user_id"),
    **dict.fromkeys(ITEM_VIEWS, "item_id"),
    **dict.fromkeys(SESSION_VIEWS, "session_id"),
}
DATA_VIEWS = tuple(view for view in ENTITY_OF_VIEW if view not in EMBEDDING_VIEWS)
