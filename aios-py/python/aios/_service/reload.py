"""New values of settings while a process runs, as services in Rust apply them."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .._errors import ConfigurationError
from .log_format import LEVELS, set_levels

if TYPE_CHECKING:
    from .asgi import Asgi
    from .settings import Settings

_log = logging.getLogger("aios.reload")

#: Keys, and those of mappings, whose new values are taken.
_RELOADED = ("log.level", "log.targets")
#: The same in a process that serves an API with the limits of the settings.
_RELOADED_BY_API = ("http.request_timeout", "http.max_body_bytes", "http.rate_limit")


@contextlib.contextmanager
def hangup_blocked() -> Iterator[None]:
    """Blocks SIGHUP in processes that are started within it, until they handle it."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Reload:
    """Reads all layers again at SIGHUP, and takes the values that may change while a process runs.

    If one of the layers is invalid, all old values stay. Every other change is logged and needs a
    restart.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        #: The API that takes the limits of ``http``, if this process serves one with them.
        self.api: Asgi | None = None
        self._count = 0

    def at_hangup(self) -> None:
        """Handles SIGHUP from now on, on the main thread, and the one that came while it was blocked."""
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._begin)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def take_count(self) -> int:
        """How many signals have come since the last call."""
        count, self._count = self._count, 0
        return count

    def _begin(self, *_: Any) -> None:
        self._count += 1
        # A file system that does not answer delays this thread and nothing else.
        threading.Thread(target=self._reload, name="aios-reload", daemon=True).start()

    def _reload(self) -> None:
        with self._lock:
            old = self._settings
            try:
                new = old.reload()
                if self.api is not None:
                    self.api._set_limits(new.http)
            except ConfigurationError as error:
                text = "the configuration cannot be reloaded; the old values stay: %s"
                _log.error(text, error, extra={"code": error.code})
                return
            self._settings = new
            # Logged at the level that shows more.
            verbose = min(old.log, new.log, key=lambda log: LEVELS[log.level])
            set_levels(verbose, old.log)
            _report(old, new, has_api=self.api is not None)
            set_levels(new.log, verbose)


def _report(old: Settings, new: Settings, *, has_api: bool) -> None:
    """Logs each change. Values of secrets are hidden, and compared by their fingerprints."""
    hidden, hidden_now = old._fingerprints, new._fingerprints
    before = {entry.key: entry for entry in old.entries}
    after = {entry.key: entry for entry in new.entries}
    reloaded = (*_RELOADED, *_RELOADED_BY_API) if has_api else _RELOADED
    changes = 0
    for key in sorted({*before, *after}):
        was, now = before.get(key), after.get(key)
        is_equal = was is not None and now is not None and was.value == now.value
        if is_equal and hidden.get(key) == hidden_now.get(key):
            continue
        changes += 1
        fields = {
            "key": key,
            "before": None if was is None else was.value,
            "after": None if now is None else now.value,
            "origin": None if now is None else now.origin,
        }
        if any(key == it or key.startswith(f"{it}.") for it in reloaded):
            _log.info("a setting has changed", extra=fields)
        else:
            _log.warning("a setting has changed; restart to use it", extra=fields)
    _log.info("the configuration was reloaded", extra={"changes": changes})
