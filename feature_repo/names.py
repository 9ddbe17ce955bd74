"""Names and sizes of features, without Feast, so that numpy code and Spark code can share them."""

USER_EVENTS = ("view", "click", "add_to_cart", "purchase", "complete", "like", "skip")
ITEM_EVENTS = ("impression", *USER_EVENTS)
WINDOWS_DAYS = (1, 7, 30)
HISTORY_LENGTH = 100
HISTORY = ("history_items", "history_events", "history_times")
TOP_CATEGORIES = 10
EMBEDDING_DIM = 128

USER_ACTIVITY = (
    *(f"{event}_{days}d" for event in USER_EVENTS for days in WINDOWS_DAYS),
    "spend_30d",  # sum of value * quantity of purchases
    "mean_price_30d",  # mean unit price of positive events; 0 where unknown
    "distinct_items_30d",
    "distinct_categories_30d",
    "sessions_30d",
    "active_days_30d",
    "orders_total",  # purchases since the beginning
    "events_total",  # positive events since the beginning
)
ITEM_STATS = (
    *(f"{event}_{days}d" for event in ITEM_EVENTS for days in WINDOWS_DAYS),
    "users_30d",  # distinct visitors with a positive event
    "ctr_30d",  # clicks per impression, smoothed towards the mean of all items
    "cart_rate_30d",  # carts per click or view, smoothed
    "purchase_rate_30d",  # purchases per click or view, smoothed
    "completion_rate_30d",  # completions per view, smoothed
    "like_rate_30d",  # likes per view, smoothed
    "mean_rating",  # 0 where nobody rated
    "popularity",  # signal-weighted count, half-life 14 days
    "popularity_fast",  # the same, half-life 2 days
    "popularity_share",  # share of its top category's popularity
    "brand_popularity",  # mean popularity of the brand's items
    "repeat_rate",  # share of buyers who bought it again
    "mean_position_30d",  # mean slot of its impressions; 0 where none
)

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
