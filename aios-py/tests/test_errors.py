from __future__ import annotations

import asyncio
import contextlib
import decimal
import pickle
import sqlite3
from pathlib import Path

import aios
import pytest
from aios._aios import loads
from aios._errors import build, describe


async def test_should_raise_task_cancelled_error() -> None:
    began = asyncio.Event()
    tasks: list[str] = []

    @aios.agent("slow")
    async def slow(context: aios.TaskContext) -> None:
        tasks.append(context.task_id)
        began.set()
        await asyncio.sleep(3600)

    async with aios.Runtime(agents=[slow]) as runtime:
        calling = asyncio.create_task(runtime.call("slow"))
        await began.wait()
        await runtime.publish("agents.slow.task_cancelled", {"task_id": tasks[0]})
        with pytest.raises(aios.TaskCancelledError) as raised:
            await calling
    assert not raised.value.retryable


async def test_should_raise_task_interrupted_error() -> None:
    @aios.agent("leaving")
    async def leaving(context: aios.TaskContext) -> None:
        raise asyncio.CancelledError

    async with aios.Runtime(agents=[leaving]) as runtime:
        with pytest.raises(aios.TaskInterruptedError) as raised:
            await runtime.call("leaving")
    assert raised.value.retryable


async def test_should_raise_broker_error_if_the_broker_is_unreachable() -> None:
    # Connecting is retried for half a minute, because the broker may be starting.
    with pytest.raises(aios.BrokerError) as raised:
        await aios.Client(None, "amqp://127.0.0.1:1").open()
    assert type(raised.value) is aios.BrokerError
    assert raised.value.retryable


def test_should_build_the_class_of_a_code_with_all_attributes() -> None:
    known = [
        value
        for value in vars(aios).values()
        if isinstance(value, type) and issubclass(value, aios.AiosError)
    ]
    assert len(known) > 25
    for kind in known:
        if kind in (aios.ContinueAsNew, aios.RunError, aios.RunFailedError):
            continue
        error = build("runtime", kind.default_code, "what", {"a": 1}, True, None)
        assert type(error) is kind
        assert (error.code, error.message, error.details) == (kind.default_code, "what", {"a": 1})
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.code, again.details) == (kind, error.code, error.details)


def test_should_raise_unknown_codes_as_the_error_class_of_their_origin() -> None:
    for kind, expected in [
        ("task", aios.TaskError),
        ("store", aios.StoreError),
        ("broker", aios.BrokerError),
        ("event", aios.InvalidDataError),
        ("runtime", aios.AiosError),
    ]:
        error = build(kind, "SOMETHING_NEW", "what", None, False, None)
        assert type(error) is expected
        assert error.code == "SOMETHING_NEW"


def test_should_chain_the_failure_of_a_run() -> None:
    cause = ("TASK_TIMEOUT", "too long", None)
    error = build("run_failed", "TASK_TIMEOUT", "run x failed", None, False, cause)
    assert type(error) is aios.RunFailedError
    assert type(error.__cause__) is aios.TaskTimeoutError


def test_should_raise_workflow_code_error_for_an_operation_outside_of_its_workflow() -> None:
    error = build("workflow_code", "OPERATION_OUTSIDE_WORKFLOW", "what", None, False, None)
    assert type(error) is aios.WorkflowCodeError
    error = aios.WorkflowCodeError("race needs at least one awaitable")
    assert describe(error, "TASK_FAILED")[0] == "OPERATION_OUTSIDE_WORKFLOW"
    assert describe(error, "WORKFLOW_FAILED")[0] == "WORKFLOW_CODE"


class Declined(aios.TaskError):
    default_code = "DECLINED"

    def __init__(self, order: int) -> None:
        self.order = order


def test_should_describe_an_error_whose_class_does_not_call_the_constructor_of_its_base() -> None:
    assert describe(Declined(7), "TASK_FAILED") == ("DECLINED", "7", None, True, None)


class Odd(Exception):
    def __str__(self) -> str:
        raise OSError("no text")


def test_should_describe_a_group_by_the_error_that_must_not_be_tried_again() -> None:
    refused = aios.TaskError.terminal("card refused", code="REFUSED")
    for group in (
        ExceptionGroup("group", [refused]),
        ExceptionGroup("group", [ValueError(), ExceptionGroup("inner", [OSError(), refused])]),
    ):
        assert describe(group, "TASK_FAILED") == ("REFUSED", "card refused", None, False, None)
    (code, message, _, retryable, _) = describe(
        ExceptionGroup("group", [ValueError("no")]), "FAILED"
    )
    assert (code, message, retryable) == ("FAILED", "ValueError: no", True)
    group = ExceptionGroup("group", [ValueError("no"), aios.TaskError("again", code="AGAIN")])
    (code, message, _, retryable, _) = describe(group, "FAILED")
    assert (code, message, retryable) == (
        "FAILED",
        "ExceptionGroup: group (2 sub-exceptions)",
        True,
    )


async def test_should_not_retry_a_terminal_error_of_a_task_group() -> None:
    attempts: list[int] = []

    @aios.agent("pays")
    async def pay(context: aios.TaskContext) -> None:
        async def refuse() -> None:
            raise aios.TaskError.terminal("card refused", code="REFUSED")

        attempts.append(context.attempt)
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())

    async with aios.Runtime(agents=[pay]) as runtime:
        with pytest.raises(aios.TaskError) as raised:
            await runtime.call("pays")
    assert (raised.value.code, attempts) == ("REFUSED", [1])


async def test_should_record_exceptions_whose_text_can_not_be_read() -> None:
    @aios.agent("odd")
    async def odd(context: aios.TaskContext, kind: str) -> None:
        if kind == "surrogate":
            raise ValueError("half a \ud800 pair")
        if kind == "no text":
            raise Odd
        raise aios.TaskError.terminal("no", code="REFUSED", details={"x": object()})

    async with aios.Runtime(None, agents=[odd]) as runtime:
        with pytest.raises(aios.TaskError) as raised:
            await runtime.call("odd", "surrogate")
        assert raised.value.message == "ValueError: half a \\ud800 pair"
        assert "in odd" in raised.value.details["traceback"]
        with pytest.raises(aios.TaskError) as raised:
            await runtime.call("odd", "no text")
        assert raised.value.message.endswith("Odd: <str() raised OSError>")
        with pytest.raises(aios.TaskError) as raised:
            await runtime.call("odd", "details")
        error = raised.value
        assert (error.code, error.message, error.retryable) == ("REFUSED", "no", False)
        assert "object is not JSON-serialisable" in error.details["invalid_details"]


async def test_should_record_the_items_of_an_iterator_in_details() -> None:
    @aios.agent("refusing")
    async def refuse(context: aios.TaskContext) -> None:
        raise aios.TaskError.terminal("no", code="REFUSED", details={"items": map(str, [1])})

    async with aios.Runtime(agents=[refuse]) as runtime:
        with pytest.raises(aios.TaskError) as raised:
            await runtime.call("refusing")
    assert raised.value.details == {"items": ["1"]}


#: Numbers that no Python type represents, and the ways to write others.
DETAILS = (
    '{"order":12345678901234567890123,"far":1e400,"near":0.1000000000000000055,"one":1.00,"z":-0}'
)


async def test_should_pass_the_details_of_a_failure_on_character_by_character(
    tmp_path: Path,
) -> None:
    @aios.workflow("fails")
    async def fails(context: aios.WorkflowContext) -> None:
        raise build("task", "SOLD_OUT", "no tea", loads(DETAILS), False, None, None, DETAILS)

    @aios.workflow("asks")
    async def asks(context: aios.WorkflowContext, how: str) -> None:
        try:
            await context.child(fails)
        except aios.TaskError as error:
            if how == "changes":
                error.details["near"] = 1
            if how == "step":
                await context.step("again", again, error)
            raise

    def again(error: aios.TaskError) -> None:
        raise error

    path = tmp_path / "details.db"
    async with aios.Runtime(f"sqlite:{path}", workflows=[fails, asks]) as runtime:
        for how in ["passes", "step", "changes"]:
            run = await runtime.start(asks, how, id=how)
            with pytest.raises(aios.RunFailedError) as raised:
                await run.result()
            assert raised.value.details["order"] == 12345678901234567890123
            # A `Decimal` that Python code writes is a string.
            far = "1E+400" if how == "changes" else decimal.Decimal("1e400")
            assert raised.value.details["far"] == far
    with contextlib.closing(sqlite3.connect(path)) as database:
        cells = [cell for row in database.execute("SELECT * FROM workflow_runs") for cell in row]
    failures = [cell for cell in cells if isinstance(cell, str) and "SOLD_OUT" in cell]
    # One of each run, and that of its child.
    assert len(failures) == 6
    assert sum(DETAILS in failure for failure in failures) == 5
