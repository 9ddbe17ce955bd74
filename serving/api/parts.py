"""The parts of one API process, made at its start and closed at its end."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_repo import online
from recsys import bus, inference
from recsys.settings import Settings
from serving.api import events, items, surfaces
from serving.api.calls import Calls
from serving.api.changed import Changed
from serving.api.decisions import Decisions
from serving.api.followed import File
from serving.api.funnel import Funnel
from serving.api.intake import Receiver
from serving.api.limits import Limits
from serving.api.live import Watcher
from serving.api.metrics import Metrics
from serving.api.pages import Pages
from serving.api.surfaces import Surface


@dataclass(frozen=True)
class Parts:
    """What the routes work with."""

    settings: Settings
    metrics: Metrics
    limits: Limits
    watcher: Watcher
    changed: Changed
    client: inference.Client
    store: online.AsyncClient
    surfaces: File[Mapping[str, Surface]]
    funnel: Funnel
    pages: Pages
    decisions: Decisions
    receiver: Receiver
    event_log: bus.Log
    items: items.Taker
    item_log: bus.Log

    async def close(self) -> None:
        """Flush what waits, then let go; first the logs that hold what was promised."""
        self.event_log.close()
        self.item_log.close()
        self.decisions.close()
        await self.pages.flush()
        await self.client.close()
        await self.store.aclose()  # type: ignore[attr-defined]  # the stubs are older than the client


def build(settings: Settings, metrics: Metrics) -> Parts:
    """Make the parts; needs a running event loop."""
    root = Path(settings.storage.root)
    client = inference.Client()
    store = online.connect_async(settings.redis_url)
    event_log, item_log = bus.Log(root, events.TOPIC), bus.Log(root, items.TOPIC)
    changed = Changed(store, settings.changes.poll, metrics)
    calls = Calls(settings, client, store, metrics)
    return Parts(
        settings=settings,
        metrics=metrics,
        limits=Limits(store, settings.api.burst_seconds, metrics),
        watcher=Watcher(root, calls.warm, changed.lay),
        changed=changed,
        client=client,
        store=store,
        surfaces=surfaces.follow(settings),
        funnel=Funnel(settings, calls),
        pages=Pages(settings, store),
        decisions=Decisions(settings, metrics),
        receiver=Receiver(settings, event_log, store, metrics),
        event_log=event_log,
        items=items.Taker(settings, item_log, store),
        item_log=item_log,
    )
