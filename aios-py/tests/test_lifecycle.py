from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aios.sync
import pytest
from conftest import finish

Start = Callable[..., subprocess.Popen[str]]

AGENT = """
import asyncio, os, signal, sys, time
import aios

@aios.agent("echo")
async def echo(context: aios.TaskContext, parameters: object) -> object:
    return parameters

@aios.agent("plain")
def plain(context: aios.TaskContext, parameters: object) -> object:
    return parameters

@aios.workflow("wait")
async def wait(context: aios.WorkflowContext) -> None:
    await context.signal("never")
"""


def test_should_exit_when_a_runtime_was_never_closed(script: Start) -> None:
    status, output, errors = finish(
        script(
            AGENT
            + """
async def main():
    global runtime
    runtime = aios.Runtime(agents=[echo, plain], workflows=[wait])
    await runtime.open()
    await runtime.start(wait)
    print(await runtime.call("echo", 1), await runtime.call("plain", 2))

asyncio.run(main())
"""
        )
    )
    assert (status, output, errors) == (0, "1 2\n", "")


def test_should_exit_while_a_thread_is_busy(script: Start) -> None:
    status, output, errors = finish(
        script(
            AGENT
            + """
@aios.agent("stubborn")
def stubborn(context: aios.TaskContext) -> None:
    print("busy", flush=True)
    while True:
        time.sleep(0.01)

async def main():
    async with aios.Runtime(agents=[stubborn], shutdown_timeout=0.1) as runtime:
        try:
            await runtime.call("stubborn", timeout=0.3)
        except aios.TaskTimeoutError:
            print("timeout", flush=True)

asyncio.run(main())
"""
        )
    )
    assert (status, output) == (0, "busy\ntimeout\n")
    assert errors.count("\n") == 1 and "is still running after its attempt ended" in errors, errors


def test_should_exit_on_an_interrupt(script: Start) -> None:
    process = script(
        AGENT
        + """
async def main():
    async with aios.Runtime(agents=[echo], workflows=[wait]) as runtime:
        run = await runtime.start(wait)
        print("ready", flush=True)
        try:
            await run.result()
        finally:
            print("cleaned", flush=True)

asyncio.run(main())
"""
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    status, output, errors = finish(process)
    assert output == "cleaned\n"
    assert status == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_should_handle_a_signal_that_does_not_interrupt_the_wait(script: Start) -> None:
    # Sent to another thread, like a signal that arrives just before the loop waits.
    process = script(
        AGENT
        + """
import threading

def interrupt():
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

async def main():
    async with aios.Runtime(agents=[echo], workflows=[wait]) as runtime:
        run = await runtime.start(wait)
        threading.Thread(target=interrupt).start()
        try:
            await run.result()
        finally:
            print("cleaned", flush=True)

asyncio.run(main())
"""
    )
    status, output, errors = finish(process)
    assert output == "cleaned\n"
    assert status == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_should_raise_after_a_fork_and_let_the_child_exit(script: Start) -> None:
    status, output, errors = finish(
        script(
            AGENT
            + """
import aios.sync

with aios.sync.Runtime(agents=[echo, plain]) as runtime:
    pid = os.fork()
    if pid == 0:
        try:
            runtime.call("plain", 1)
        except aios.ForkedError as error:
            print(error.code, flush=True)
        with aios.sync.Runtime(agents=[plain]) as other:
            print(other.call("plain", "child"), flush=True)
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    print(status, runtime.call("plain", "parent"))
"""
        )
    )
    assert output.splitlines() == ["FORKED", "child", "0 parent"], errors
    assert (status, errors) == (0, "")


def test_should_not_keep_a_database_locked_in_a_forked_child(script: Start, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'forked.db'}"
    process = script(
        AGENT
        + f"""
import aios.sync, signal

runtime = aios.sync.Runtime({url!r}, agents=[plain])
runtime.open()
child = os.fork()
if child == 0:
    # The test waits until all have closed them.
    os.close(1)
    os.close(2)
    time.sleep(60)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    status, output, errors = finish(process)
    assert status == -signal.SIGKILL, errors
    try:
        with aios.sync.Runtime(url) as runtime:
            assert runtime.runs().rows == []
    finally:
        os.kill(int(output), signal.SIGKILL)


def test_should_forward_native_logs_in_a_forked_child(script: Start) -> None:
    status, output, errors = finish(
        script(
            AGENT
            + """
import logging, threading
import aios.sync

class Handler(logging.Handler):
    def emit(self, record):
        if record.name.startswith("aios.agents"):
            seen.set()

logging.getLogger("aios").addHandler(Handler())
logging.getLogger("aios").setLevel(logging.INFO)

def forwards():
    global seen
    seen = threading.Event()
    with aios.sync.Runtime(workflows=[wait]):
        return seen.wait(20)

print("parent", forwards(), flush=True)
for generation in ["child", "grandchild"]:
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        sys.exit(status)
    print(generation, forwards(), flush=True)
"""
        )
    )
    assert output.splitlines() == ["parent True", "child True", "grandchild True"], errors
    assert status == 0, errors


def test_should_raise_in_a_child_that_was_forked_from_a_running_loop(
    script: Start,
) -> None:
    status, output, errors = finish(
        script(
            AGENT
            + """
async def main():
    async with aios.Runtime(agents=[plain]) as runtime:
        pid = os.fork()
        if pid == 0:
            try:
                await runtime.call("plain", 1)
            except aios.ForkedError as error:
                print(error.code, flush=True)
            await runtime.close()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(status, await runtime.call("plain", "parent"))

asyncio.run(main())
"""
        )
    )
    assert output.splitlines() == ["FORKED", "0 parent"], errors
    assert (status, errors) == (0, "")


def test_should_close_in_a_forked_child_whatever_the_threads_had_locked(script: Start) -> None:
    # The threads of the parent are busy when the process forks, and hold locks that nothing in the
    # child ever releases.
    status, output, errors = finish(
        script(
            AGENT
            + """
async def fork():
    async with aios.Runtime(agents=[plain]) as runtime:
        pid = os.fork()
        if pid == 0:
            await runtime.close()
            del runtime
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        return status

async def main():
    print({await fork() for _ in range(200)})

asyncio.run(main())
"""
        )
    )
    assert (status, output, errors) == (0, "{0}\n", "")


def test_should_forward_logs_to_logging(script: Start) -> None:
    program = """
import asyncio, logging, sys
import aios

logging.basicConfig(level=sys.argv[1], stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")

@aios.workflow("stubborn")
async def stubborn(context: aios.WorkflowContext) -> None:
    try:
        await context.signal("never")
    finally:
        raise ValueError("I stay")

async def main():
    async with aios.Runtime(workflows=[stubborn]) as runtime:
        run = await runtime.start(stubborn)
        while (await run.status()).status != "running" or len(await run.journal()) < 1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)

asyncio.run(main())
"""

    known = (
        "aios.workflow.coroutine WARNING failed to close the coroutine of a workflow "
        'error="ValueError: I stay"'
    )
    status, output, errors = finish(script(program, "WARNING"))
    # The run may be loaded again before the engine has stopped.
    assert (status, set(output.splitlines()), errors) == (0, {known}, "")
    status, output, errors = finish(script(program, "ERROR"))
    assert (status, output, errors) == (0, "", "")


def test_should_forward_logs_after_a_filter_has_raised(script: Start) -> None:
    program = """
import asyncio, logging, sys
import aios

logging.basicConfig(level="WARNING", stream=sys.stdout, format="%(message)s")

class Raising(logging.Filter):
    seen = 0

    def filter(self, record: logging.LogRecord) -> bool:
        Raising.seen += 1
        return Raising.seen > 1 or bool(record.request_id)

logging.getLogger("aios.workflow.coroutine").addFilter(Raising())

@aios.workflow("stubborn")
async def stubborn(context: aios.WorkflowContext) -> None:
    try:
        await context.signal("never")
    finally:
        raise ValueError("I stay")

async def main():
    for number in range(2):
        async with aios.Runtime(workflows=[stubborn]) as runtime:
            run = await runtime.start(stubborn)
            while (await run.status()).status != "running" or len(await run.journal()) < 1:
                await asyncio.sleep(0.01)
            await run.cancel()
            while Raising.seen <= number:
                await asyncio.sleep(0.01)

asyncio.run(main())
"""
    status, output, errors = finish(script(program))
    assert status == 0, errors
    assert "I stay" in output
    assert "has no attribute 'request_id'" in errors


def test_should_import_quickly_and_without_dependencies(script: Start) -> None:
    status, output, errors = finish(
        script(
            """
import sys
before = set(sys.modules)
import aios
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(loaded - set(sys.stdlib_module_names) - {"aios"}), "asyncio" in sys.modules)
"""
        )
    )
    assert (status, output, errors) == (0, "[] False\n", "")


APP = """
import os
import aios

@aios.agent("pid")
async def pid(context: aios.TaskContext) -> int:
    return os.getpid()

def app():
    open(f"started-{os.getpid()}", "w").close()
    return aios.Runtime(None, agents=[pid])
"""


def started(folder: Path, count: int) -> set[int]:
    """Waits until ``count`` processes, including the supervisor, have created their runtime."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = {int(path.name.split("-")[1]) for path in folder.glob("started-*")}
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError("the processes do not start")


def test_should_restart_workers_that_die_and_stop_them_on_sigterm(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    command = [sys.executable, "-m", "aios", "worker", "app:app", "--processes", "2"]
    supervisor = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    workers = started(tmp_path, 3) - {supervisor.pid}
    victim = workers.pop()
    os.kill(victim, signal.SIGKILL)
    replaced = started(tmp_path, 4) - {supervisor.pid, victim}
    assert len(replaced) == 2
    supervisor.send_signal(signal.SIGTERM)
    status, _, errors = finish(supervisor)
    assert status == 0, errors
    for worker in replaced:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_should_pass_options_of_the_interpreter_to_workers(tmp_path: Path) -> None:
    flags = "-{sys.flags.optimize}-{sys.flags.utf8_mode}"
    (tmp_path / "app.py").write_text(
        "import sys\n" + APP.replace("started-{os.getpid()}", "started-{os.getpid()}" + flags)
    )
    options = ["-O", "-X", "utf8=1"]
    command = [sys.executable, *options, "-m", "aios", "worker", "app:app"]
    supervisor = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    started(tmp_path, 2)
    supervisor.send_signal(signal.SIGTERM)
    status, _, errors = finish(supervisor)
    assert status == 0, errors
    found = {path.name.split("-", 2)[2] for path in tmp_path.glob("started-*")}
    assert found == {"1-1"}


#: A supervisor in which the second start of a process fails.
FAULTY = """
import subprocess, sys
from aios._service.worker import supervise

original, calls = subprocess.Popen, []

def start(*args, **kwargs):
    calls.append(args)
    if len(calls) == 2:
        raise {error}
    return original(*args, **kwargs)

subprocess.Popen = start
sys.exit(supervise("app:app", 2))
"""


def test_should_try_again_if_a_process_cannot_be_started(script: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    supervisor = script(FAULTY.format(error="BlockingIOError(11, 'no more processes')"))
    workers = started(tmp_path, 3) - {supervisor.pid}
    supervisor.send_signal(signal.SIGTERM)
    status, _, errors = finish(supervisor)
    assert status == 0, errors
    assert (
        "failed to start a process: [Errno 11] no more processes; trying again in 0.2 s" in errors
    )
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_should_stop_the_workers_if_the_supervisor_fails(script: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    supervisor = script(FAULTY.format(error="RuntimeError('a defect')"))
    status, _, errors = finish(supervisor)
    assert status == 1 and "a defect" in errors
    (worker,) = re.findall(r"started process (\d+)", errors)
    with pytest.raises(ProcessLookupError):
        os.kill(int(worker), 0)


def test_should_explain_an_invalid_app(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("app = 1")
    for app in ("app", "app:app", "app:missing"):
        command = [sys.executable, "-m", "aios", "worker", app]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert ended.returncode != 0
        assert "ConfigurationError" in ended.stderr
