"""The supervisor as a program of its own; `melo up` starts it."""

import argparse
import sys
from pathlib import Path

from embedded.supervisor import Supervisor
from registry.base.settings import Settings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m embedded", description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--no-worker", action="store_true")
    parser.add_argument("--no-api", action="store_true")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--port", type=int)
    parser.add_argument("--tied", action="store_true", help="end when the starting process ends")
    options = parser.parse_args()
    return Supervisor(
        home=options.home,
        settings=Settings(),
        with_worker=not options.no_worker,
        with_api=not options.no_api,
        with_serve=options.serve,
        port=options.port,
        tied=options.tied,
    ).run()


sys.exit(main())
