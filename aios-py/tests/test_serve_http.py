"""`python -m aios serve`: a process that serves the HTTP API."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aios.sync
import pytest
from conftest import finish

APP = """
import os
import time

import aios
from service import runtime

KEY = "5e0d1f6a0c5b4a7d8e9f5e0d1f6a0c5b"
@aios.agent("blocking")
async def block(context: aios.TaskContext, path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.1)


app = runtime()
blocked = aios.Runtime(agents=[block], workflows=[], blocked_after=0.5)
guarded = aios.asgi(runtime(), api_keys=[aios.ApiKey(aios.ApiKey.hash_of(KEY), "ada", ["*"])])
nothing = 7
"""


class Service:
    """The process, and where it listens."""

    def __init__(self, folder: Path, app: str, *arguments: str) -> None:
        (folder / "app.py").write_text(APP)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aios", "serve", app, "--listen", "127.0.0.1:0", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.url = self._url()

    def _url(self) -> str:
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if found := re.search(r"listening on (\S+)", line):
                return found[1]
        raise AssertionError("".join(lines))

    def curl(self, path: str, *arguments: str) -> tuple[int, str]:
        """Status and body of an answer."""
        command = ["curl", "-sS", "--max-time", "60", "-w", "\n%{http_code}", *arguments]
        text = subprocess.check_output([*command, self.url + path], text=True)
        body, _, status = text.rpartition("\n")
        return int(status), body

    def stop(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGTERM)
        return finish(self.process)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, "app:app")
    yield service
    if service.process.poll() is None:
        service.process.kill()
        finish(service.process)


def test_should_serve_until_a_signal(service: Service) -> None:
    assert service.url.endswith("/api/v1")
    start = ("-X", "POST", "--json", '{"input": "Ada", "run_id": "r1"}')
    status, body = service.curl("/workflows/welcome/actions/execute", *start)
    assert status == 202, body
    status, body = service.curl("/runs/r1/result?wait=20s")
    assert json.loads(body)["data"]["attributes"]["result"] == "Hello, Ada!"
    assert service.curl("/../../health/ready", "--path-as-is")[0] == 404
    root = service.url.removesuffix("/api/v1")
    service.url = root
    assert service.curl("/health/ready") == (
        200,
        '{"checks":{"broker":"ok","process":"ok","runtime":"ok","store":"ok"},"status":"ok"}',
    )
    status, body = service.curl("/")
    assert (status, json.loads(body)["error"]["details"]) == (404, {"path": "/", "api": "/api/v1"})
    assert service.stop()[0] == 0


def test_should_not_be_alive_while_agents_block_their_loop(tmp_path: Path) -> None:
    service = Service(tmp_path, "app:blocked")
    root = service.url.removesuffix("/api/v1")
    api, service.url = service.url, root
    alive = '{"checks":{"agents":"ok","runs":"ok","runtime":"ok"},"status":"ok"}'
    try:
        assert service.curl("/health/live") == (200, alive)
        free = tmp_path / "free"
        service.url = api
        task = {"agent_type": "blocking", "parameters": str(free)}
        assert service.curl("/tasks", "-X", "POST", "--json", json.dumps(task))[0] == 202
        service.url = root
        while service.curl("/health/live")[0] == 200:
            pass
        status, body = service.curl("/health/live")
        assert (status, json.loads(body)["checks"]["agents"]) == (503, "blocked: blocking")
        assert service.curl("/health/startup")[0] == 200
        free.touch()
        while service.curl("/health/live") != (200, alive):
            pass
    finally:
        assert service.stop()[0] == 0


def test_should_end_streams_and_waiting_requests_at_a_signal(service: Service) -> None:
    start = ("-X", "POST", "--json", '{"run_id": "r1", "input": 0}')
    assert service.curl("/workflows/approval/actions/execute", *start)[0] == 202
    waiting = [
        subprocess.Popen(["curl", "-sSN", service.url + path], stdout=subprocess.PIPE, text=True)
        for path in ("/events/stream", "/runs/r1/result?wait=20s")
    ]
    stream = waiting[0].stdout
    assert stream is not None and stream.readline().startswith("id: ")
    status, _, errors = service.stop()
    assert status == 0, errors
    for request in waiting:
        finish(request)


def test_should_serve_with_the_options_of_asgi(tmp_path: Path) -> None:
    service = Service(tmp_path, "app:guarded", "--prefix", "/v2")
    try:
        assert service.url.endswith("/v2")
        assert service.curl("/runs")[0] == 401
        key = "x-api-key: 5e0d1f6a0c5b4a7d8e9f5e0d1f6a0c5b"
        assert service.curl("/runs", "-H", key)[0] == 200
    finally:
        assert service.stop()[0] == 0


@pytest.mark.parametrize(
    ("app", "arguments", "text"),
    [
        ("app", (), "module:app"),
        ("app:nothing", (), r"neither an aios\.Runtime"),
        ("app:app", ("--listen", "nonsense"), "cannot listen"),
        ("missing:app", (), "there is no module missing in "),
        ("app.missing:app", (), "there is no module app.missing in "),
        ("app:app", ("--listen", "192.0.2.1:80"), "cannot listen"),
        ("app:app", ("--prefix", "v1"), "prefix"),
    ],
)
def test_should_refuse_wrong_arguments(
    app: str, arguments: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    ended = subprocess.run(
        [sys.executable, "-m", "aios", "serve", app, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2, ended.stderr
    assert re.search(text, ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr


def test_should_say_in_one_line_that_the_store_is_in_use(tmp_path: Path) -> None:
    text = "import aios\napp = aios.Runtime('sqlite://held.db')"
    (tmp_path / "held.py").write_text(text)
    with aios.sync.Runtime(f"sqlite://{tmp_path}/held.db"):
        ended = subprocess.run(
            [sys.executable, "-m", "aios", "serve", "held:app", "--listen", "127.0.0.1:0"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ended.returncode == 1, ended.stderr
    assert re.search(r"^aios: .*held\.db is open already.* \(STORE_LOCKED\)$", ended.stderr, re.M)
    assert "Traceback" not in ended.stderr
