"""`python -m pipelines STAGE [--option value …]`"""

import logging
import sys

from pipelines import stage
from recsys.errors import Exit

# Libraries that tell of every socket, temporary folder, registry write or request (with its user) as if it were news.
TALKATIVE = ("py4j", "feast", "great_expectations", "alembic", "absl", "httpx")
USAGE = "usage: python -m pipelines STAGE --day YYYY-MM-DD --run NAME [options]; STAGE --help lists them\n\nstages:\n"


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE + "".join(f"  {name:20} {text}\n" for name, text in stage.STAGES.items()))
        return Exit.OK if arguments else Exit.USAGE
    return stage.run(arguments[0], arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
