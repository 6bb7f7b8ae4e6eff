"""A private PostgreSQL server, started from the installed programs on a free port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from rabbitmq import free_port

#: Debian's folder of server programs, with one folder per version.
FOLDER = Path("/usr/lib/postgresql")


class Postgres:
    """A private server."""

    def __init__(self, *, encrypted: bool = False) -> None:
        versions = sorted(FOLDER.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
        if not versions:
            if os.environ.get("AIOS_REQUIRE_SERVICES") == "1":
                pytest.fail("PostgreSQL is not installed")
            pytest.skip("PostgreSQL is not installed")
        self._programs = versions[-1].parent
        self.folder = Path(tempfile.mkdtemp(prefix="aios-postgres-"))
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres")
        self.port = free_port()
        self.url = f"postgres://aios@127.0.0.1:{self.port}/postgres?sslmode=disable"
        subprocess.run(
            [
                *self._program("initdb"),
                "--username=aios",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
                str(self.folder / "data"),
            ],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )
        plain = self.url
        self.encrypted_url = plain.replace("sslmode=disable", "sslmode=require")
        self.socket_url = f"{plain}&host={self.folder}"
        settings = self._certificate() if encrypted else []
        self._log = (self.folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                *self._program("postgres"),
                *("-D", str(self.folder / "data"), "-k", str(self.folder)),
                *("-p", str(self.port), "-c", "listen_addresses=127.0.0.1"),
                *settings,
            ],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._wait()

    def _program(self, name: str) -> list[str]:
        """A command that runs as the server's user, because PostgreSQL does not run as root."""
        return self._as_server(str(self._programs / name))

    @staticmethod
    def _as_server(program: str) -> list[str]:
        if os.getuid() != 0:
            return [program]
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", program]

    def _certificate(self) -> list[str]:
        """Creates a self-signed certificate. Returns the settings that enable it."""
        key, certificate = self.folder / "server.key", self.folder / "server.pem"
        openssl = self._as_server("openssl")
        make = [*openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        subprocess.run(
            [*make, "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)],
            check=True,
            cwd="/",
            stderr=subprocess.DEVNULL,
        )
        files = {"ssl_key_file": key, "ssl_cert_file": certificate}
        settings = [part for name, file in files.items() for part in ("-c", f"{name}={file}")]
        return ["-c", "ssl=on", *settings]

    def _wait(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            log = (self.folder / "log").read_text()
            if "ready to accept connections" in log:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        log = (self.folder / "log").read_text()
        self.stop()
        raise AssertionError(f"PostgreSQL does not start\n{log}")

    def stop(self) -> None:
        """Stops the server immediately and removes its files."""
        # An immediate shutdown: the server ends its child processes first.
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
