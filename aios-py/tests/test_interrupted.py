"""Exceptions that end the process, raised in the code of a workflow."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import finish

Start = Callable[..., subprocess.Popen[str]]

PROGRAM = """
import asyncio, contextlib, dataclasses, functools, signal, sys
import aios

def note(text: str) -> str:
    with open("steps", "a") as file:
        file.write(text + "\\n")
    return text

def stop(*_: object) -> None:
    sys.exit(7)

def stop_once(signum: int, frame: object) -> None:
    signal.signal(signum, signal.SIG_DFL)
    sys.exit(7)

class Stopper:
    def __call__(self, *_: object) -> None:
        stop()

    def method(self, *_: object) -> None:
        stop()

#: The handlers of signals by how they are written.
HANDLERS = {
    "signal": stop,
    "object": Stopper(),
    "method": Stopper().method,
    "partial": functools.partial(stop, None),
    "once": stop_once,
}

#: The end of the process, if there is one.
how = sys.argv[1] if len(sys.argv) > 1 else "nothing"
signal.signal(signal.SIGTERM, HANDLERS.get(how, stop))

def end() -> None:
    if how in HANDLERS:
        signal.raise_signal(signal.SIGTERM)
    if how == "interrupt":
        signal.raise_signal(signal.SIGINT)
    if how == "exit":
        sys.exit(7)
    if how == "raise":
        raise KeyboardInterrupt

@dataclasses.dataclass
class Spec:
    text: str

    def __post_init__(self) -> None:
        end()

class Items:
    def __iter__(self) -> object:
        end()
        return iter(["item"])

    def __next__(self) -> str:
        raise StopIteration

@aios.workflow("read")
async def read(context: aios.WorkflowContext, spec: Spec) -> str:
    return await context.step("read", note, spec.text)

@aios.workflow("converted")
async def converted(context: aios.WorkflowContext) -> object:
    await context.step("converted", note, "converted")
    return Items()

@aios.workflow("plain")
async def plain(context: aios.WorkflowContext) -> object:
    first = await context.step("first", note, "first")
    end()
    return [first, await context.step("last", note, "last")]

@aios.workflow("branches")
async def branches(context: aios.WorkflowContext) -> object:
    \"\"\"The exception passes through operations that have begun, which it drops.\"\"\"
    async def branch() -> str:
        await context.sleep(0.1)
        end()
        return await context.step("branch", note, "branch")

    async with contextlib.AsyncExitStack() as stack:
        stack.callback(context.emit, "shop.order.left", None)
        _, (value, _) = await context.race(
            context.sleep(60), context.gather(branch(), context.step("other", note, "other"))
        )
    return [value, "other"]

@aios.workflow("undone")
async def undone(context: aios.WorkflowContext) -> object:
    async def undo(context: aios.WorkflowContext) -> None:
        end()
        await context.step("undo", note, "undo")

    context.compensate("undo", undo)
    raise aios.TaskError.terminal("no", code="REFUSED")

workflows = [plain, branches, undone, read, converted]

async def main(workflow: str) -> None:
    # Instead of the handler of asyncio.run, which cancels this function.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    async with aios.Runtime("sqlite://runs.db", workflows=workflows) as runtime:
        known = {it.name: it for it in workflows}
        input = {"text": "text"} if workflow == "read" else None
        run = await runtime.start(known[workflow], input, id="run")
        try:
            print(await run.result())
        except aios.RunFailedError as error:
            print(error.code, error.details)
        print([it.event.type.rpartition(".")[2] for it in await run.journal()])
"""

MAIN = PROGRAM + "asyncio.run(main(sys.argv[2]))"

#: The output of each workflow in the end, and its steps.
OUTCOMES = {
    "plain": ("['first', 'last']", ["first", "last"]),
    "branches": ("['branch', 'other']", ["other", "branch"]),
    "undone": ("REFUSED", ["undo"]),
    "read": ("text", ["text"]),
    "converted": ("['item']", ["converted"]),
}


@pytest.mark.parametrize("how", ["signal", "interrupt"])
@pytest.mark.parametrize("workflow", list(OUTCOMES))
def test_should_end_the_process_and_not_the_run(
    workflow: str, how: str, script: Start, tmp_path: Path
) -> None:
    for _ in range(2):
        status, output, errors = finish(script(MAIN, how, workflow))
        assert output == ""
        if how == "interrupt":
            assert status == -signal.SIGINT
            assert errors.rstrip().endswith("KeyboardInterrupt")
        else:
            assert (status, "Traceback" in errors) == (7, False), errors
    status, output, errors = finish(script(MAIN, "nothing", workflow))
    result, steps = OUTCOMES[workflow]
    assert status == 0, errors
    assert output.startswith(result), output
    assert sorted((tmp_path / "steps").read_text().split()) == sorted(steps)
    # Nothing of the interrupted executions is in the journal.
    journal = output.splitlines()[1]
    assert "blocked" not in journal
    assert journal.count("timer_started") <= 2
    assert journal.count("left") <= 1


@pytest.mark.parametrize("how", ["object", "method", "partial", "once"])
def test_should_recognise_every_handler(how: str, script: Start) -> None:
    status, output, errors = finish(script(MAIN, how, "plain"))
    assert (status, output, "Traceback" in errors) == (7, "", False), errors
    status, output, errors = finish(script(MAIN, "nothing", "plain"))
    assert output.startswith("['first', 'last']"), (output, errors)


@pytest.mark.parametrize(
    ("workflow", "code"),
    [
        ("plain", "WORKFLOW_FAILED"),
        ("branches", "WORKFLOW_FAILED"),
        ("read", "WORKFLOW_FAILED"),
        ("converted", "INVALID_OUTPUT"),
    ],
)
def test_should_fail_a_run_whose_own_code_exits(workflow: str, code: str, script: Start) -> None:
    status, output, errors = finish(script(MAIN, "exit", workflow))
    assert (status, "Traceback" in errors) == (0, False), errors
    assert output.startswith(code), output
    assert "'failed'" in output


SURVIVES = (
    PROGRAM
    + """
async def open_and_start() -> tuple[object, object]:
    runtime = aios.Runtime(workflows=workflows)
    await runtime.open()
    return runtime, await runtime.start(branches)

def survive(awaitable: object) -> object:
    try:
        return loop.run_until_complete(awaitable)
    except SystemExit as error:
        print("exit", error.code)

loop = asyncio.new_event_loop()
runtime, run = loop.run_until_complete(open_and_start())
survive(asyncio.sleep(60))
how = "nothing"
print(survive(run.result()))
loop.run_until_complete(runtime.close())
"""
)


def test_should_continue_the_run_in_a_process_that_survives(script: Start, tmp_path: Path) -> None:
    status, output, errors = finish(script(SURVIVES, "signal"))
    assert (status, output) == (0, "exit 7\n['branch', 'other']\n"), errors
    assert sorted((tmp_path / "steps").read_text().split()) == ["branch", "other"]


TESTED = (
    PROGRAM
    + """
from aios.testing import WorkflowTest
WorkflowTest(plain).run_sync()
"""
)


def test_should_end_the_process_of_a_test_of_the_workflow(script: Start) -> None:
    status, output, errors = finish(script(TESTED, "signal"))
    assert (status, output) == (7, ""), errors


BLOCKING = (
    PROGRAM
    + """
import aios.sync
with aios.sync.Runtime("sqlite://runs.db", workflows=workflows) as runtime:
    print(runtime.start(plain, id="run").result())
"""
)


def test_should_end_a_process_that_waits_in_a_blocking_call(script: Start, tmp_path: Path) -> None:
    for _ in range(2):
        status, output, errors = finish(script(BLOCKING, "raise"))
        assert (status, output) == (-signal.SIGINT, ""), errors
        assert "KeyboardInterrupt" in errors
    status, output, errors = finish(script(BLOCKING, "nothing"))
    assert (status, output) == (0, "['first', 'last']\n"), errors
    assert (tmp_path / "steps").read_text() == "first\nlast\n"
