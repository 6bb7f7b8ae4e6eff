"""``python -m aios``: see ``python -m aios worker --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from ._worker import supervise


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m aios", description="Durable AI agents.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser(
        "worker",
        help="run several processes of one runtime",
        description=(
            "Runs several processes of one runtime, which share its tasks through the broker. "
            "Restarts processes that die, and stops all of them on SIGTERM or Ctrl-C."
        ),
    )
    worker.add_argument(
        "app",
        metavar="module:app",
        help="an aios.Runtime that is not open, or a function that returns one",
    )
    worker.add_argument(
        "--processes", type=int, default=1, metavar="N", help="number of processes (default: 1)"
    )
    options = parser.parse_args(arguments)
    if options.processes < 1:
        parser.error("--processes must be at least 1")
    return supervise(options.app, options.processes)


if __name__ == "__main__":
    sys.exit(main())
