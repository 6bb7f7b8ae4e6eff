"""``python -m aios``: see ``python -m aios --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from ._errors import BrokerError, ConfigurationError, StoreError
from ._service.asgi import Asgi, asgi_of
from ._service.log_format import configure
from ._service.reload import Reload
from ._service.serve import API_PREFIX, Server, run, runtime_of
from ._service.worker import load_app, load_settings, report_similar_names, supervise


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m aios",
        description="Durable AI agents. The settings AIOS_… and the files in the folder config apply.",
    )
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
            "health of the process is at /health/live, /health/ready and /health/startup, and its "
            "metrics are at /metrics unless AIOS_METRICS_ENABLED is false. Without the role `api` in "
            "AIOS_PROCESS_ROLES, and without a store, only health and metrics are served."
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
        metavar="HOST:PORT",
        help="where to listen (default: AIOS_HTTP_LISTEN, or 127.0.0.1:8080)",
    )
    server.add_argument(
        "--prefix",
        default=API_PREFIX,
        metavar="PATH",
        help="path of the API (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.command == "worker" and options.processes < 1:
        parser.error("--processes must be at least 1")
    try:
        if options.command == "worker":
            return supervise(options.app, options.processes)
        _serve(options.app, options.listen, options.prefix)
    except ConfigurationError as error:
        # The kind of the error tells a wrong `app` from a program that fails by itself.
        kind = f"{type(error).__name__}: " if options.command == "worker" else ""
        print(f"aios: {kind}{error}", file=sys.stderr)
        return 2
    except (BrokerError, StoreError) as error:
        # What the process needs is in use or does not answer: its code is not at fault.
        print(f"aios: {error} ({error.code})", file=sys.stderr)
        return 1
    return 0


def _serve(app: str, listen: str | None, prefix: str) -> None:
    settings = load_settings()
    configure(settings.log)
    report_similar_names(settings)
    reload = Reload(settings)
    reload.at_hangup()
    loaded = load_app(app, settings)
    runtime = runtime_of(loaded)
    api = None
    if settings.process.has("api") and runtime._store is not None:
        if isinstance(loaded, Asgi):
            api = loaded
        else:
            api = reload.api = asgi_of(runtime, settings.http)
    address = listen or settings.http.listen
    delay = settings.shutdown.accept_delay
    run(runtime, Server(address, api, prefix, delay, settings.metrics.enabled))


if __name__ == "__main__":
    sys.exit(main())
