"""A private RabbitMQ server, started from the installed programs on a free port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

#: Debian's and Red Hat's folder of server programs; the programs on the `PATH` switch users.
PROGRAMS = Path("/usr/lib/rabbitmq/bin")


class RabbitMq:
    """A private server."""

    def __init__(self, password: str = "guest") -> None:
        if not (PROGRAMS / "rabbitmq-server").exists():
            if os.environ.get("AIOS_REQUIRE_SERVICES") == "1":
                pytest.fail("RabbitMQ is not installed")
            pytest.skip("RabbitMQ is not installed")
        self.folder = Path(tempfile.mkdtemp(prefix="aios-rabbitmq-"))
        self.port = free_port()
        self.url = f"amqp://guest:{password}@127.0.0.1:{self.port}/%2f"
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\n"
            "log.console = true\nlog.file = false\nvm_memory_high_watermark.absolute = 512MB\n"
            f"disk_free_limit.absolute = 1MB\ndefault_pass = {password}\n"
        )
        (self.folder / "plugins").write_text("[].")
        self._variables = self._environment()
        self._start()

    def _start(self) -> None:
        self._log = (self.folder / "log").open("w")
        self._process = subprocess.Popen(
            [str(PROGRAMS / "rabbitmq-server")],
            env={**os.environ, **self._variables},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait()

    def restart(self) -> None:
        """Kills the server and starts it again with its data."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        self._start()

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"aios-{os.getpid()}-{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
        }

    def _wait(self) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            log = (self.folder / "log").read_text()
            if "startup complete" in log or "completed with" in log:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        log = (self.folder / "log").read_text()
        self.stop()
        raise AssertionError(f"RabbitMQ does not start\n{log}")

    def stop(self) -> None:
        """Stops the server and removes its files."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
