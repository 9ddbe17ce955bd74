"""The parts of one API process, made at its start and closed at its end."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from feature_repo import online
from recsys import bus, inference_client
from recsys.settings import Settings
from serving.api import events, experiments, explore, items, surfaces, watcher
from serving.api.calls import Calls
from serving.api.changed import Changed
from serving.api.decisions import Decisions
from serving.api.experiments import Book
from serving.api.explore import Explorer
from serving.api.followed import File
from serving.api.funnel import Funnel
from serving.api.intake import Receiver
from serving.api.limits import Limits
from serving.api.live import LiveRelease
from serving.api.metrics import Metrics
from serving.api.outbox import Outbox
from serving.api.pages import Pages
from serving.api.surfaces import Surface
from serving.api.watcher import Watcher


@dataclass(frozen=True)
class Parts:
    """What the routes work with."""

    settings: Settings
    metrics: Metrics
    limits: Limits
    watcher: Watcher
    changed: Changed
    client: inference_client.Client
    store: online.AsyncClient
    surfaces: File[Mapping[str, Surface]]
    calls: Calls
    explorer: Explorer
    experiments: File[Book]
    funnel: Funnel
    pages: Pages
    outbox: Outbox
    decisions: Decisions
    receiver: Receiver
    event_log: bus.Log
    items: items.Taker
    item_log: bus.Log

    @property
    def background(self) -> list[tuple[float, Callable[[], Awaitable[object]], str]]:
        """What to do beside the requests: every how many seconds, what, and its name."""
        return [
            (watcher.POLL_SECONDS, self.watcher.look, "looking at the live release"),
            (self.settings.changes.poll, lambda: self.changed.poll(self.watcher), "following the catalogue"),
            (explore.REFRESH_SECONDS, lambda: self.explorer.refresh(self.watcher.current), "following the arms"),
        ]

    async def close(self) -> None:
        """Flush what waits, then let go; first the logs that hold what was promised."""
        self.event_log.close()
        self.item_log.close()
        self.decisions.close()
        await asyncio.gather(self.outbox.flush(), self.explorer.flush())
        await self.client.close()
        await self.store.aclose()


def build(settings: Settings, metrics: Metrics) -> Parts:
    """Make the parts; needs a running event loop."""
    root = Path(settings.storage.root)
    client = inference_client.Client()
    store = online.connect_async(settings.redis_url)
    event_log, item_log = bus.Log(root, events.TOPIC), bus.Log(root, items.TOPIC)
    changed = Changed(store, metrics)
    calls = Calls(settings, client, store, metrics)
    book = experiments.follow(settings)
    outbox = Outbox(store)
    explorer = Explorer(store, outbox, metrics, settings.api.guarantee)

    async def loaded(live: LiveRelease) -> None:
        await asyncio.gather(calls.warm(live), explorer.follow(live))

    releases = Watcher(
        root,
        loaded,
        lambda: book.value.releases(datetime.now(UTC)),
        changed.lay,
        remembers=settings.api.page_seconds,
    )

    def strangers(item_ids: Collection[str]) -> set[str]:
        return releases.current.unknown(item_ids) if releases.current else set()

    return Parts(
        settings=settings,
        metrics=metrics,
        limits=Limits(store, settings.api.burst_seconds, metrics),
        watcher=releases,
        changed=changed,
        client=client,
        store=store,
        surfaces=surfaces.follow(settings),
        experiments=book,
        calls=calls,
        explorer=explorer,
        funnel=Funnel(settings, calls, explorer),
        pages=Pages(settings, store, outbox),
        outbox=outbox,
        decisions=Decisions(settings, metrics),
        receiver=Receiver(settings, event_log, store, metrics, explorer.learn, strangers),
        event_log=event_log,
        items=items.Taker(settings, item_log, store),
        item_log=item_log,
    )
