"""`python -m serving.api`: the API on the loopback interface, one worker."""

import gc
import logging
import sys

import uvicorn

from feature_repo import events
from recsys import settings as configuration
from recsys.errors import RecsysError
from serving.api import app

GRACE_SECONDS = 10
KEEP_ALIVE_SECONDS = 75  # longer than the pause of a usual client or proxy, so that it is the one who closes


def main() -> int:
    """Serve until SIGTERM or SIGINT; requests in flight are finished and the logs flushed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = configuration.load()
        events.configure(settings.events.custom)
        served = app.create(settings)
    except RecsysError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    # A full collection would walk through all that was imported while requests wait: 70 ms.
    gc.collect()
    gc.freeze()
    # No access log: it would hold user ids, and the metrics say the rest. No websockets: uvicorn logs the whole address
    # of each handshake, and there is nothing here to shake hands with.
    uvicorn.run(
        served,
        host=settings.network.host,
        port=settings.network.api,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
