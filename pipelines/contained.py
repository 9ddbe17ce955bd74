"""Changes of the catalogue that every release which may serve contains leave the online store.

A rollback brings an earlier release back, and with it the catalogue of that day; so the live release alone does not
decide. A release contains a change where its catalogue says what the change says: nobody has to know when its run read
the bus. The bus keeps every change for good, so releases to come contain it too.
"""

import logging
import time

from feature_repo import arms, changes, online
from feature_repo.changes import Overlay
from models import catalogue
from models.catalogue import Catalogue
from models.release import Release
from pipelines.ledger import Ledger
from recsys.errors import RecsysError
from recsys.settings import Settings

log = logging.getLogger(__name__)


def forget(settings: Settings, book: Ledger, keep: int) -> int:
    """Take out the changes that the last `keep` releases contain, and vectors of releases before them; gives how many
    changes. A store that is away is logged: the next deployment does it."""
    kept = book.kept(keep)
    try:
        with online.connect(settings.redis_url, online.WRITE_TIMEOUT) as client:
            changes.forget_vectors(client, {release.release_id for release in kept})
            old = _settled(changes.newer(client, Overlay()))
            for release in _distinct(kept) if old else []:
                shop = _catalogue(book, release)
                old = {item_id: change for item_id, change in old.items() if shop.contains(item_id, change.item)}
            versions = ((item_id, change.version) for item_id, change in old.items())
            return sum(arms.run(client, changes.forget(dict(block))) for block in online.blocks(versions))
    except RecsysError as error:
        log.warning("changes that the releases contain stay in the online store: %s", error)
        return 0


def _settled(overlay: Overlay) -> dict[str, changes.Change]:
    latest = (time.time() - changes.KEPT_SECONDS) * changes.MICRO
    return {item_id: change for item_id, change in overlay.changes.items() if change.version < latest}


def _distinct(kept: list[Release]) -> list[Release]:
    """One release per catalogue: a record that serves again has the one it had."""
    return list({release.artifacts["catalogue"]: release for release in kept}.values())


def _catalogue(book: Ledger, release: Release) -> Catalogue:
    opened = book.releases.open(release, "catalogue")
    return catalogue.read(opened.path, opened.manifest.meta)
