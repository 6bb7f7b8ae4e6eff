"""``python -m aios``: see ``python -m aios --help``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from . import __version__
from ._errors import ConfigurationError
from ._serve import API_PREFIX, serve
from ._worker import load_app, supervise


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
    server = commands.add_parser(
        "serve",
        help="run a runtime and serve its HTTP API",
        description=(
            "Runs a runtime in this process and serves its HTTP API until SIGTERM or Ctrl-C. The "
            "health of the process is at /health/live, /health/ready and /health/startup."
        ),
    )
    server.add_argument(
        "app",
        metavar="module:app",
        help="an aios.Runtime that is not open, what aios.asgi returned for one, or a function that "
        "returns one of them",
    )
    server.add_argument(
        "--listen",
        default="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="where to listen (default: %(default)s)",
    )
    server.add_argument(
        "--prefix",
        default=API_PREFIX,
        metavar="PATH",
        help="path of the API (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.command == "serve":
        return _serve(options.app, options.listen, options.prefix)
    if options.processes < 1:
        parser.error("--processes must be at least 1")
    return supervise(options.app, options.processes)


def _serve(app: str, listen: str, prefix: str) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        serve(load_app(app), listen=listen, prefix=prefix)
    except ConfigurationError as error:
        print(f"aios: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
