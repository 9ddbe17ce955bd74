"""What a shopper does not want: each no to an item, a category or a brand, and what takes it back.

    dismissed:u:<user_id>        sorted set of marks, written by the API as events arrive
    dismissed:s:<session_id>     the same for a visit

A mark is the latest word of one kind on one target: member JSON [kind, scope, user_id, name], score
2 * (its time + how long it is kept) + whether it is a no, in milliseconds. So Redis itself keeps the later of two marks
(ZADD GT) and merges user and visit (ZUNION MAX): the order in which events arrive does not matter, and one that comes
twice counts once. The full set drops what would be forgotten first, so that skips push no dislike out.

`fold` is the rule; the marks are how Redis holds what it needs. What a shopper wants after all (LIFTS) is marked only
where there is a no already: whoever says no to nothing costs nothing. A no that arrives later than that is lifted by
the shopper's `recent` events, for the two days that these last.

The member names who spoke, so that of two users of one visit each has their own no's; an anonymous visitor sees all.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from feature_repo import online
from feature_repo.events import DISLIKE_WEIGHT, NEGATIVE, EventType
from recsys.inference import Deed
from recsys.settings import Dismissals

ITEM, CATEGORY, BRAND = "item", "category", "brand"
COLUMNS = {ITEM: "item_id", CATEGORY: "category", BRAND: "brand"}

# What a later event of the same shopper lifts. Only what says "I want it" does: who looks at an item again may look at
# what they have refused. A category or a brand comes back by `undo` alone.
LIFTS: Mapping[str, tuple[str, ...]] = {
    EventType.PURCHASE: (
        EventType.SKIP,
        EventType.REMOVE_FROM_CART,
        EventType.DISLIKE,
        EventType.RETURN,
        EventType.REFUND,
    ),
    EventType.ADD_TO_CART: (EventType.SKIP, EventType.REMOVE_FROM_CART),
    EventType.BEGIN_CHECKOUT: (EventType.SKIP, EventType.REMOVE_FROM_CART),
    EventType.LIKE: (EventType.SKIP, EventType.DISLIKE),
    EventType.ADD_TO_WISHLIST: (EventType.SKIP,),
}
# What each kind says, as a share of the strongest.
SAYS: Mapping[str, float] = {kind: said / max(DISLIKE_WEIGHT.values()) for kind, said in DISLIKE_WEIGHT.items()}
# Days that a mark is kept; `settings.Dismissals` cannot ask for longer. Four half-lives of what a no says of items
# like it (models.factors.HALF_LIFE_DAYS) for the weak ones. An undo outlasts all that it takes back.
KEPT_DAYS: Mapping[str, int] = dict.fromkeys([*NEGATIVE, EventType.UNDO], 365) | {
    EventType.SKIP: 28,
    EventType.REMOVE_FROM_CART: 28,
}
MOST = 200  # marks of a shopper or a visit, 20 kB; more than a page can be made by
MS = 1_000
MS_PER_DAY = MS * online.SECONDS_PER_DAY

Target = tuple[str, str, str]  # kind, scope, name
Mark = tuple[int, bool]  # epoch milliseconds, and whether it is a no; of equal times the no is the later


class Said(NamedTuple):
    """What one event says for or against one target.

    Attributes:
        time: epoch milliseconds.
        event: its type.
        scope: item, category or brand.
        name: item id, category path or brand.
    """

    time: int
    event: str
    scope: str
    name: str


class Dismissal(NamedTuple):
    """A no that stands.

    Attributes:
        time, event, scope, name: of what was said.
        hides: whether it still keeps its target away; if not, it dampens what is like it.
    """

    time: int
    event: str
    scope: str
    name: str
    hides: bool = True


def statements(sent: Mapping[str, Any]) -> list[Said]:
    """What an event says; nothing for most.

    One unsubscribes from the category and the brand that the event names, or else from the item. An undo takes back
    what was said of everything that it names.

    Args:
        sent: fields of the event; `event_time` is epoch seconds.
    """
    event = sent["event"]
    if event not in KEPT_DAYS and event not in LIFTS:
        return []
    scopes = COLUMNS if event in (EventType.UNSUBSCRIBE, EventType.UNDO) else (ITEM,)
    named = {scope: name for scope in scopes if (name := sent.get(COLUMNS[scope]))}
    if event == EventType.UNSUBSCRIBE and len(named) > 1:
        named.pop(ITEM, None)
    return [Said(int(MS * sent["event_time"]), event, scope, name) for scope, name in named.items()]


def fold(said: Iterable[Said]) -> tuple[Said, ...]:
    """The no's that stand after all that was said, in any order, oldest first.

    Of each kind, the latest no to a target stands, unless it was undone at that time or later, or a later event lifts
    it.
    """
    return _standing(_latest(mark for one in said for mark in _marks(one)))


def keys(user_id: str, session_id: str) -> list[str]:
    """Where the marks of a visitor lie: under the user, the visit, or both."""
    return [f"dismissed:{kind}:{name}" for kind, name in (("u", user_id), ("s", session_id)) if name]


def remember(pipe: Any, user_id: str, session_id: str, said: Said) -> None:
    """Add commands to a pipeline that put what was said before the shopper's next request."""
    lifts, marks = said.event in LIFTS, _marks(said)
    # A visitor who has logged in lifts what they said before as well.
    speakers = {"", user_id} if lifts else {user_id}
    scores = {_member(target, who): _score(target, mark) for target, mark in marks for who in speakers}
    for key in keys(user_id, session_id):
        pipe.zadd(key, scores, xx=lifts, gt=True)
        if not lifts:
            seconds = KEPT_DAYS[said.event] * online.SECONDS_PER_DAY
            pipe.zremrangebyrank(key, 0, -MOST - 1)
            # NX sets it on a new key, GT only prolongs: a skip shortens the life of no dislike.
            pipe.expire(key, seconds, nx=True)
            pipe.expire(key, seconds, gt=True)


def question(user_id: str, session_id: str) -> online.Command:
    """The command that reads the marks of a visitor; `answer` reads its reply."""
    found = keys(user_id, session_id)
    return ("ZUNION", len(found), *found, "AGGREGATE", "MAX", "WITHSCORES")


def answer(
    reply: Sequence[bytes], user_id: str, recent: Iterable[Deed], now: float, held: Dismissals
) -> tuple[Dismissal, ...]:
    """The no's that stand for a visitor, oldest first.

    Args:
        reply: to `question`.
        user_id: who asks; "" for an anonymous visitor.
        recent: what the visitor did lately.
        now: epoch seconds of the request.
        held: how long each kind keeps its target away.
    """
    if not reply:
        return ()
    marks = []
    for member, score in zip(reply[::2], reply[1::2], strict=True):
        kind, scope, speaker, name = orjson.loads(member)
        until, no = divmod(int(float(score)), 2)
        if speaker in ("", user_id or speaker) and until > MS * now:
            marks.append(((kind, scope, name), (until - KEPT_DAYS[kind] * MS_PER_DAY, bool(no))))
    lately = [Said(MS * deed.time, deed.event, ITEM, deed.item_id) for deed in recent if deed.event in LIFTS]
    marks += [mark for said in lately for mark in _marks(said)]
    hiding = _hiding(held)
    return tuple(
        Dismissal(*said, hides=max(MS * now - said.time, 0) < hiding[said.event]) for said in _standing(_latest(marks))
    )


def _marks(said: Said) -> list[tuple[Target, Mark]]:
    _, event, scope, name = said
    if event in LIFTS:
        return [((kind, scope, name), (said.time, False)) for kind in LIFTS[event]]
    return [((event, scope, name), (said.time, True))]


def _latest(marks: Iterable[tuple[Target, Mark]]) -> dict[Target, Mark]:
    latest: dict[Target, Mark] = {}
    for target, mark in marks:
        latest[target] = max(mark, latest.get(target, mark))
    return latest


def _standing(latest: Mapping[Target, Mark]) -> tuple[Said, ...]:
    found = []
    for (kind, scope, name), (time, no) in latest.items():
        undone = latest.get((EventType.UNDO, scope, name))
        if no and kind != EventType.UNDO and not (undone and undone[0] >= time):
            found.append(Said(time, kind, scope, name))
    return tuple(sorted(found))


def _member(target: Target, who: str) -> bytes:
    kind, scope, name = target
    return orjson.dumps([kind, scope, who, name])


def _score(target: Target, mark: Mark) -> int:
    time, no = mark
    return 2 * (time + KEPT_DAYS[target[0]] * MS_PER_DAY) + no


def _hiding(held: Dismissals) -> dict[str, float]:
    """Milliseconds that a no of each kind keeps its target away."""
    days = {
        EventType.SKIP: held.skip_days,
        EventType.REMOVE_FROM_CART: held.remove_from_cart_days,
        EventType.DISLIKE: held.dislike_days,
        EventType.RETURN: held.return_days,
        EventType.REFUND: held.return_days,
        EventType.UNSUBSCRIBE: held.unsubscribe_days,
    }
    return {kind: MS_PER_DAY * value for kind, value in days.items()}
