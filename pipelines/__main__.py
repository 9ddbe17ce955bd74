"""`python -m pipelines STAGE [--option value …]`"""

import logging
import sys

from pipelines import stage
from recsys.errors import Exit

USAGE = "usage: python -m pipelines STAGE --day YYYY-MM-DD --run NAME [options]; STAGE --help lists them\n\nstages:\n"


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE + "".join(f"  {name:20} {text}\n" for name, text in stage.STAGES.items()))
        return Exit.OK if arguments else Exit.USAGE
    return stage.run(arguments[0], arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
