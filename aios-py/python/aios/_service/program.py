"""The operators' program, which the package installs as ``aios``."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Executes the program with the arguments of the process; returns its exit code."""
    from .asgi import _built

    # The program handles this signal itself. Python's handler would raise KeyboardInterrupt after it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    code: int = _built("run_program", "program")(["aios", *sys.argv[1:]])
    return code
