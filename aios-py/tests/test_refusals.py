"""Rejected arguments: where they are rejected, and the messages."""

from __future__ import annotations

import asyncio
import decimal
import re
import sys
import threading
import types
import warnings
from collections import UserList
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import aios
import aios.sync
import pytest
from aios._errors import _BY_CODE
from aios.testing import WorkflowTest

ROOT = Path(__file__).parents[2]


@aios.agent("echo")
async def echo(context: aios.TaskContext, parameters: Any) -> Any:
    return parameters


@aios.agent("adder")
async def adder(context: aios.TaskContext, parameters: dict[str, int]) -> int:
    return sum(parameters.values())


@aios.workflow("welcome")
async def welcome(context: aios.WorkflowContext, names: list[str]) -> list[str]:
    return names


@aios.workflow("counting")
async def counting(context: aios.WorkflowContext, start: int = 3) -> int:
    return start


def test_should_reject_a_decorator_without_a_name() -> None:
    def plain() -> None: ...

    for decorate in (aios.agent, aios.workflow):
        with pytest.raises(TypeError, match=r"write @aios\.(agent|workflow)\("):
            cast("Any", decorate)(plain)


@pytest.mark.parametrize("values", ["echo", b"echo", 5, None])
def test_should_reject_a_single_object_instead_of_a_list(values: Any) -> None:
    kind = type(values).__name__
    remedy = re.escape(
        "pass [] instead of None" if values is None else f"put the {kind} in brackets"
    )
    for name in ("agents", "workflows"):
        arguments: dict[str, Any] = {name: values}
        with pytest.raises(aios.ConfigurationError, match=f"^{name} is a list: {remedy}$"):
            aios.Runtime(**arguments)


@pytest.mark.filterwarnings("ignore:.*never awaited")
@pytest.mark.parametrize(
    "use", [lambda operation: operation, lambda operation: [operation], list, set]
)
def test_should_fail_a_run_that_uses_an_operation_without_await(use: Callable[..., Any]) -> None:
    @aios.workflow("hasty")
    async def hasty(context: aios.WorkflowContext) -> Any:
        return use(context.step("one", str, 1))

    with pytest.raises(aios.RunFailedError, match="write `await` before it"):
        WorkflowTest(hasty).run_sync(None).result()


@pytest.mark.filterwarnings("ignore:.*never awaited")
@pytest.mark.parametrize("use", [lambda operation: operation + 1, len, int])
def test_should_keep_the_exception_that_drops_an_operation(use: Callable[..., Any]) -> None:
    @aios.workflow("hasty")
    async def hasty(context: aios.WorkflowContext) -> Any:
        return use(context.step("one", str, 1))

    with pytest.raises(aios.RunFailedError, match=r"TypeError: .*Operation"):
        WorkflowTest(hasty).run_sync(None).result()


def test_should_reject_invalid_names_when_decorating() -> None:
    for name in ("", "Bad-Name", "1a", "a.b", "ä", "a" * 101, "a\n"):
        with pytest.raises(aios.ConfigurationError, match="begins with a letter"):
            aios.agent(name)
        with pytest.raises(aios.ConfigurationError, match="begins with a letter"):

            @aios.workflow(name)
            async def named(context: aios.WorkflowContext) -> None: ...

    for concurrency in (0, -1, 65_536):
        with pytest.raises(aios.ConfigurationError, match="concurrency must be 1 to 65,535"):
            aios.agent("a", concurrency=concurrency)
    with pytest.raises(aios.ConfigurationError, match="at least 1"):

        @aios.workflow("a", version=0)
        async def versioned(context: aios.WorkflowContext) -> None: ...


def test_should_reject_a_version_that_no_workflow_can_have() -> None:
    async def versioned(context: aios.WorkflowContext) -> None: ...

    for version in ("2", 1.5, None, True):
        with pytest.raises(TypeError, match="the version of workflow a must be an int"):
            aios.workflow("a", version=cast("Any", version))(versioned)
    with pytest.raises(aios.ConfigurationError, match="must have at most 32 bits"):
        aios.workflow("a", version=2**32)(versioned)
    assert aios.workflow("a", version=2**32 - 1)(versioned).version == 2**32 - 1


def test_should_reject_what_is_no_agent_when_decorating() -> None:
    class Kept:
        def process(self, context: aios.TaskContext) -> None: ...

    for wrong in (Kept().process, len, int, 5):
        with pytest.raises(aios.ConfigurationError, match="decorates a class or a function"):
            aios.agent("a")(cast("Any", wrong))


def test_should_reject_functions_that_yield_their_result() -> None:
    def piece(context: Any) -> Iterator[int]:
        yield 1

    async def pieces(context: Any) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(
        aios.ConfigurationError, match="workflow a must return its result, not yield"
    ):
        aios.workflow("a")(cast("Any", pieces))

    @aios.agent("b")
    class Pieces:
        async def process_task(self, context: aios.TaskContext) -> AsyncIterator[int]:
            yield 1

    for wrong in (aios.agent("b")(pieces), aios.agent("b")(piece), Pieces()):
        with pytest.raises(
            aios.ConfigurationError, match="agent b must return its result, not yield"
        ):
            aios.sync.Runtime(agents=[wrong]).open()


@pytest.mark.parametrize("text", ["list[int", "aios.nothing", "'Later' | None", "nothing", "1/0"])
def test_should_name_an_annotation_that_cannot_be_resolved(text: str) -> None:
    async def annotated(context: Any, value: Any) -> Any: ...

    annotated.__annotations__["value"] = text
    for decorate in (aios.workflow("a"), aios.tool):
        with pytest.raises(aios.ConfigurationError, match=r"annotation of .*annotated can't be"):
            cast("Any", decorate)(annotated)
    with pytest.raises(
        aios.ConfigurationError, match=r"annotation of .*annotated can't be resolved"
    ):
        aios.sync.Runtime(agents=[aios.agent("a")(annotated)]).open()


def test_should_reject_duplicates_and_objects_that_are_not_agents_or_workflows() -> None:
    async def plain(context: aios.WorkflowContext) -> None: ...

    wrong: Any = plain
    for client in (aios.Client, aios.Runtime, aios.sync.Runtime):
        with pytest.raises(aios.ConfigurationError, match=r"decorate it with @aios\.workflow"):
            client(workflows=[wrong])
        with pytest.raises(aios.ConfigurationError, match="two workflows welcome of version 1"):
            client(workflows=[welcome, welcome])
    with pytest.raises(aios.ConfigurationError, match=r"decorate it with @aios\.agent"):
        aios.Runtime(agents=[wrong])
    with pytest.raises(aios.ConfigurationError, match="two agents of the type echo"):
        aios.Runtime(agents=[echo, adder, echo])


def test_should_reject_invalid_urls() -> None:
    for broker in (None, 5, b"memory://"):
        with pytest.raises(aios.ConfigurationError, match="broker must be a URL such as"):
            aios.Client(broker=cast("Any", broker))
    for store in (5, Path("a.db")):
        with pytest.raises(aios.ConfigurationError, match="store must be a URL such as"):
            aios.Client(store=cast("Any", store))


async def test_should_reject_invalid_page_limits_and_statuses() -> None:
    async with aios.Runtime(agents=[echo], workflows=[welcome]) as runtime:
        run = await runtime.start(welcome, ["a"])
        reads: list[Callable[[int], Any]] = [
            lambda limit: runtime.runs(limit=limit),
            lambda limit: runtime.tasks(limit=limit),
            lambda limit: runtime.agents(limit=limit),
            lambda limit: runtime.workflows(limit=limit),
            lambda limit: run.journal(limit=limit),
        ]
        for read in reads:
            for limit in (0, -1, 10_001, 2**70):
                with pytest.raises(aios.ConfigurationError, match="1 to 10,000"):
                    await read(limit)
        for statuses in (["bogus"], ["running", ""], "running", ["Running"]):
            with pytest.raises(aios.ConfigurationError, match="status"):
                await runtime.runs(statuses=cast("Any", statuses))
        await run.result()
        assert len((await runtime.runs(statuses=["completed"])).rows) == 1


async def test_should_reject_invalid_positions_and_times() -> None:
    async def first(events: AsyncIterator[Any]) -> None:
        async for _ in events:
            return

    async with aios.Runtime(agents=[echo], workflows=[welcome]) as runtime:
        run = await runtime.start(welcome, ["a"])
        reads: list[Callable[[Any], Any]] = [
            lambda after: run.journal(after),
            lambda after: first(run.events(after)),
            lambda after: first(run.stream("tokens", after)),
            lambda after: first(runtime.log(after)),
            lambda operation: run.fork(operation, "other"),
        ]
        for read in reads:
            for position in (-1, 2**63):
                with pytest.raises(aios.ConfigurationError, match="positive 63-bit number"):
                    await read(position)
            for wrong in ("1", 1.5, None):
                with pytest.raises(TypeError, match="must be an int"):
                    await read(wrong)
        for time in ("yesterday", 5):
            with pytest.raises(TypeError, match="created_after must be a datetime"):
                await runtime.runs(created_after=cast("Any", time))
        with pytest.raises(TypeError, match="limit must be an int"):
            await run.journal(limit=cast("Any", None))


async def test_should_reject_a_start_without_a_required_input() -> None:
    @aios.workflow("parent")
    async def parent(context: aios.WorkflowContext) -> int:
        try:
            await context.child(welcome)
        except aios.InvalidParametersError:
            return await context.child(counting)
        return 0

    @aios.workflow("optional")
    async def optional(context: aios.WorkflowContext, text: str | None) -> str | None:
        return text

    workflows: list[Any] = [welcome, counting, parent, optional]
    async with aios.Runtime(workflows=workflows) as runtime:
        for workflow in (welcome, "welcome"):
            with pytest.raises(aios.InvalidParametersError, match=r"names: .*list\[str\]"):
                await runtime.start(cast("Any", workflow))
        assert (await runtime.runs()).rows == []
        assert await (await runtime.start(counting)).result() == 3
        assert await (await runtime.start(counting, 4)).result() == 4
        assert await (await runtime.start(optional)).result() is None
        assert await (await runtime.start(parent)).result() == 3


async def test_should_reject_an_unknown_workflow_name() -> None:
    async with aios.Runtime(workflows=[welcome]) as runtime:
        with pytest.raises(
            aios.WorkflowNotFoundError,
            match=r"nothere is registered; registered: welcome; pass `version=`",
        ) as raised:
            await runtime.start("nothere", 1)
        assert raised.value.code == "WORKFLOW_NOT_FOUND"
        with pytest.raises(aios.WorkflowNotFoundError, match=r"did you mean welcome\?"):
            await runtime.start("wellcome", 1)
        assert (await runtime.runs()).rows == []
        with pytest.raises(aios.ConfigurationError):
            await runtime.start("Not A Name", 1, version=1)
        # `version=` means that a process will register it later.
        run = await runtime.start("later", 1, version=2, delay=3600)
        assert (await run.status()).workflow_version == 2


async def test_should_start_the_latest_version_that_a_process_has_registered(
    tmp_path: Path,
) -> None:
    @aios.workflow("welcome", version=7)
    async def later(context: aios.WorkflowContext, names: list[str]) -> list[str]:
        return names[:1]

    url = f"sqlite://{tmp_path / 'a.db'}"
    async with aios.Runtime(url, workflows=[welcome, later]):
        pass
    async with aios.Client(url) as client:
        run = await client.start("welcome", ["a", "b"])
        assert (await run.status()).workflow_version == 7


async def test_should_reject_calls_from_another_loop_before_any_effect() -> None:
    async with aios.Runtime(agents=[echo], workflows=[welcome]) as runtime:
        run = await runtime.start(welcome, ["a"])
        await run.result()
        refused: list[Exception] = []

        async def elsewhere() -> None:
            for call in (
                runtime.start(welcome, ["b"], id="b"),
                runtime.task("echo", 1),
                runtime.call("echo", 1),
                runtime.publish("a.b.c"),
                runtime.runs(),
                run.status(),
                run.cancel(),
            ):
                try:
                    await call
                except aios.WrongLoopError as error:
                    refused.append(error)

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        assert len(refused) == 7
        assert isinstance(refused[0], RuntimeError)
        assert len((await runtime.runs()).rows) == 1


class Opaque: ...


class Array(list[int]):
    """Like an array of numpy."""

    dtype = "int64"

    def tolist(self) -> list[int]:
        return list(self)


class Int64:
    """Like an integer of numpy."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __index__(self) -> int:
        return self._number

    def __int__(self) -> int:
        return self._number


async def test_should_locate_values_that_are_not_json_serialisable() -> None:
    def opaque() -> Any:
        return {"a/b": [1, Opaque()]}

    @aios.workflow("steps")
    async def steps(context: aios.WorkflowContext, kind: str) -> Any:
        once = context.with_retry(aios.RetryPolicy.never())
        if kind == "task":
            return await once.task("echo", {"x": Opaque()})
        return await once.step("build", opaque)

    async with aios.Runtime(agents=[echo], workflows=[steps]) as runtime:
        with pytest.raises(aios.RunFailedError) as raised:
            await (await runtime.start(steps, "step")).result()
        assert raised.value.code == "INVALID_OUTPUT"
        assert """step "build" cannot be serialised to JSON: /a~1b/1: Opaque is not""" in str(
            raised.value
        )
        with pytest.raises(
            aios.RunFailedError, match='agent "echo" cannot be serialised to JSON: /x: Opaque'
        ):
            await (await runtime.start(steps, "task")).result()
        with pytest.raises(
            aios.InvalidDataError, match='input of workflow "steps" cannot be serialised to JSON'
        ):
            await runtime.start(steps, cast("Any", Opaque()))
        with pytest.raises(aios.InvalidDataError, match="/0: object keys must be strings, not int"):
            await runtime.call("echo", [{1: 2}])


async def test_should_serialise_foreign_numbers_and_sets() -> None:
    async with aios.Runtime(agents=[echo]) as runtime:
        for given, expected in [
            (Int64(7), 7),
            ([Int64(2**70)], [2**70]),
            (Array([1, 2]), [1, 2]),
            ({3, 1, 2}, [1, 2, 3]),
            ({"b", 1, None}, ['"b"', "1", "null"]),
            (decimal.Decimal("1.5"), "1.5"),
        ]:
            answer = await runtime.call("echo", given)
            if isinstance(given, set) and None in given:
                assert sorted(map(str, answer)) == sorted(["b", "1", "None"])
            else:
                assert answer == expected
        with pytest.raises(aios.InvalidDataError, match="Opaque is not JSON-serialisable"):
            await runtime.call("echo", {Opaque(), 1})
        with pytest.raises(aios.InvalidDataError, match="/0: type is not JSON-serialisable"):
            await runtime.call("echo", [int])


async def test_should_read_numbers_of_any_size() -> None:
    from aios._aios import dumps, loads

    for text, number in [
        ("1e400", decimal.Decimal("1e400")),
        ("-1E+309", decimal.Decimal("-1e309")),
        ("[1e400,1]", [decimal.Decimal("1e400"), 1]),
        ("1e-400", 0.0),
        ("18446744073709551616", 2**64),
        ("-9223372036854775809", -(2**63) - 1),
        ("0.1", 0.1),
        ("1e308", 1e308),
    ]:
        assert loads(text) == number, text
    assert loads(dumps(10**6000)) == 10**6000
    assert loads(dumps({"a": [-(10**5000)]})) == {"a": [-(10**5000)]}
    for number in (2**8192, 10**2048 - 1, -(10**2048), 7**20_000, -(3**123_456), 10**100_000 + 1):
        assert loads(dumps(number)) == number
    assert dumps(10**100_000) == "1" + "0" * 100_000
    assert loads("1e99999999999999999999999999") == float("inf")
    for text in ("NaN", "[Infinity]", "1e", "{", "[1,]", "01"):
        with pytest.raises(ValueError):
            loads(text)
    async with aios.Runtime(agents=[echo]) as runtime:
        assert await runtime.call("echo", 10**5000) == 10**5000


def test_should_write_objects_and_arrays_that_change_meanwhile() -> None:
    from aios._aios import dumps, loads

    class Changing(UserList[int]):
        """As another thread would, while code of a class is called."""

        def __iter__(self) -> Iterator[int]:
            fields.update({str(number): number for number in range(1000)})
            fields.pop("z", None)
            items.clear()
            return iter([1])

    fields: dict[str, Any] = {"a": Changing(), "z": 2}
    items: list[Any] = [Changing(), 3]
    assert loads(dumps(fields)) == {"a": [1], "z": 2}
    items[:] = [Changing(), 3]
    assert loads(dumps(items)) in ([[1]], [[1], 3])


async def test_should_name_the_source_of_a_result_that_does_not_match() -> None:
    @aios.workflow("asks")
    async def asks(context: aios.WorkflowContext, kind: str) -> Any:
        if kind == "signal":
            return await context.signal("go", result=int)
        return await context.task("echo", {"a": "x"}, result=dict[str, int])

    @aios.workflow("given_text")
    async def given_text(context: aios.WorkflowContext, text: str) -> int:
        return cast("int", text)

    async with aios.Runtime(agents=[echo, adder], workflows=[asks, given_text]) as runtime:
        with pytest.raises(
            aios.InvalidResultError, match="answer of agent 'echo' does not match: /"
        ):
            await runtime.call("echo", "x", result=int)
        with pytest.raises(aios.RunFailedError) as raised:
            await (await runtime.start(asks, "task")).result()
        assert "the answer of agent 'echo' does not match: /a: " in str(raised.value)
        assert type(raised.value.__cause__) is aios.InvalidResultError
        run = await runtime.start(asks, "signal")
        await run.signal("go", "now")
        with pytest.raises(aios.RunFailedError, match="the signal 'go' does not match"):
            await run.result()


async def test_should_check_a_compensation_when_it_is_registered() -> None:
    def undo() -> None: ...

    async def undo_two(context: aios.WorkflowContext, one: int, two: int) -> None: ...

    @aios.workflow("plainly")
    async def plainly(context: aios.WorkflowContext) -> None:
        context.compensate("undo", cast("Any", undo))

    @aios.workflow("shortly")
    async def shortly(context: aios.WorkflowContext) -> None:
        context.compensate("undo", undo_two, 1)

    async with aios.Runtime(workflows=[plainly, shortly]) as runtime:
        with pytest.raises(aios.RunBlockedError, match="'undo' must be an `async def`"):
            await (await runtime.start(plainly)).result()
        with pytest.raises(aios.RunBlockedError, match="'two'"):
            await (await runtime.start(shortly)).result()


def test_should_map_every_code_to_a_class() -> None:
    """Every code in the sources of the ports and the runtime has a class."""
    sources = [
        ROOT / "aios-core/src/store/error.rs",
        ROOT / "aios-core/src/broker/error.rs",
        ROOT / "aios-core/src/event/error.rs",
        ROOT / "aios-agents/src/runtime/error.rs",
        ROOT / "aios-agents/src/agent/error.rs",
    ]
    codes = {
        code
        for source in sources
        for code in re.findall(r"codes::([A-Z][A-Z_]+)", source.read_text())
    }
    assert len(codes) > 50
    assert codes - set(_BY_CODE) == set()
    catalogue = (ROOT / "aios-core/src/catalog/codes.rs").read_text()
    assert (
        set(_BY_CODE) - set(re.findall(r"^    ([A-Z][A-Z_]+): ", catalogue, re.MULTILINE)) == set()
    )


def test_should_have_one_class_for_each_port() -> None:
    from aios._errors import build

    for kind in ("store", "runtime"):
        for code in ("STORE_TIMEOUT", "CONFLICT", "STORE_CLOSED", "FENCED"):
            assert type(build(kind, code, "what", None, False, None)) is aios.StoreError
    for code in ("BROKER_TIMEOUT", "UNROUTABLE", "BROKER_CLOSED"):
        assert type(build("runtime", code, "what", None, False, None)) is aios.BrokerError
    # Other codes come from applications.
    for code in ("CONFLICT", "STORE_TIMEOUT", "INVALID_NAME"):
        assert type(build("task", code, "what", None, False, None)) is aios.TaskError


def test_should_print_nothing_when_it_is_imported() -> None:
    import subprocess

    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import aios, aios.sync, aios.testing"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("", "")
    assert isinstance(aios, types.ModuleType)


async def test_should_name_the_operation_that_failed() -> None:
    @aios.agent("broken")
    async def broken(context: aios.TaskContext, parameters: int) -> None:
        raise aios.TaskError.terminal("no", code="MINE", details={"a": 1})

    async def fail() -> None:
        raise ValueError("bad")

    @aios.workflow("inner")
    async def inner(context: aios.WorkflowContext, kind: str) -> None:
        once = context.with_retry(aios.RetryPolicy.never())
        await context.sleep(0)
        if kind == "step":
            await once.step("build", fail)
        elif kind == "caught":
            try:
                await once.task("broken", 1)
            except aios.TaskError as error:
                assert (str(error), error.code) == ("no", "MINE")
                raise
        else:
            await once.task("broken", cast("Any", kind))

    @aios.workflow("outer")
    async def outer(context: aios.WorkflowContext) -> None:
        await context.child(inner, "step")

    async with aios.Runtime(agents=[broken], workflows=[inner, outer]) as runtime:
        for kind, text in [
            ("step", 'step "build" (operation 2) failed: ValueError: bad'),
            ("caught", 'task of agent "broken" (operation 2) failed: no'),
            ("text", 'task of agent "broken" (operation 2) failed: the parameters do not match: '),
        ]:
            run = await runtime.start(inner, kind)
            with pytest.raises(aios.RunFailedError) as raised:
                await run.result()
            assert text in str(raised.value)
            failure = (await run.status()).failure
            assert failure is not None and text in failure.message
        with pytest.raises(aios.RunFailedError) as raised:
            await (await runtime.start(outer)).result()
        assert 'child "inner" (operation 1) failed: step "build"' in str(raised.value)


async def test_should_warn_about_operations_that_are_never_awaited() -> None:
    def work() -> int:
        return 1

    @aios.workflow("forgetful")
    async def forgetful(context: aios.WorkflowContext) -> int:
        context.step("forgotten", work)
        await context.step("awaited", work)
        kept = context.sleep(3600)
        await context.gather(context.step("one", work), context.step("two", work))
        await context.race(context.sleep(0), kept)
        return 1

    @aios.workflow("careful")
    async def careful(context: aios.WorkflowContext) -> int:
        lost = context.sleep(3600)
        await context.race(context.sleep(0), lost, context.signal("never"))
        unused = context.step("unused", work)
        if await context.step("fails", work) == 1:
            raise ValueError("no")
        return await unused

    @aios.workflow("stopped")
    async def stopped(context: aios.WorkflowContext) -> None:
        later = context.step("later", work)
        await context.signal("never")
        await later

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with aios.Runtime(workflows=[forgetful, careful, stopped]) as runtime:
            assert await (await runtime.start(forgetful)).result() == 1
            with pytest.raises(aios.RunFailedError):
                await (await runtime.start(careful)).result()
            waits = await runtime.start(stopped)
            while (await waits.status()).status != "running":
                await asyncio.sleep(0.01)
            cancelled = await runtime.start(stopped)
            await asyncio.sleep(0.2)
            await cancelled.cancel()
            with pytest.raises(aios.RunCancelledError):
                await cancelled.result()
    found = [one for one in caught if one.category is RuntimeWarning]
    assert [str(one.message) for one in found] == [
        'step "forgotten" of a workflow was never awaited and did not start'
    ]
    assert found[0].filename == __file__
    line = Path(__file__).read_text().splitlines()[found[0].lineno - 1]
    assert line.strip() == 'context.step("forgotten", work)'


async def test_should_start_a_run_with_its_first_signal() -> None:
    @aios.workflow("basket")
    async def basket(context: aios.WorkflowContext, owner: str) -> list[Any]:
        return [owner, await context.signal("item"), await context.signal("item")]

    async with aios.Runtime(workflows=[basket]) as runtime:
        run = await runtime.signal_with_start(basket, "Ada", id="b", signal="item", payload=1)
        again = await runtime.signal_with_start("basket", "Ada", id="b", signal="item", payload=2)
        assert (run.id, again.id) == ("b", "b")
        assert await run.result() == ["Ada", 1, 2]
        with pytest.raises(aios.InvalidDataError, match='payload of signal "item"'):
            await runtime.signal_with_start(basket, "Ada", id="c", signal="item", payload=Opaque())
        with pytest.raises(aios.RunNotFoundError):
            await runtime.handle("c")
        for wrong in ("", "a~b", "a\n", "x" * 201):
            with pytest.raises(aios.ConfigurationError):
                await runtime.start(basket, "Ada", id=wrong)


async def test_should_reject_names_that_no_signal_can_have() -> None:
    @aios.workflow("waiting")
    async def waiting(context: aios.WorkflowContext) -> Any:
        return await context.signal("go")

    async with aios.Runtime(workflows=[waiting]) as runtime:
        run = await runtime.start(waiting)
        for wrong in ("", "a\0b", "a\n", "x" * 201, "x" * 10_000_000):
            with pytest.raises(aios.ConfigurationError, match="the name of a signal") as raised:
                await run.signal(wrong, 1)
            assert raised.value.code == "INVALID_SIGNAL_NAME"
        await run.signal("go", 7)
        assert await run.result() == 7


#: Names that are refused: of every operation, of types and workflows, and of runs.
NO_NAME = ("", "a\0b", "\n", "x" * 10_000)
NO_TYPE = (*NO_NAME, "A", "a b", "1", "a.b", "a~b", "x" * 201)
NO_ID = (*NO_NAME, "a~b", ".", "..", "x" * 201)

#: Operations that take a name, with names and the code with which these are refused.
NAMED: dict[str, tuple[tuple[str, ...], str]] = {
    "signal": ((*NO_NAME, "a\x85", "x" * 201), "INVALID_SIGNAL_NAME"),
    "signal in time": ((*NO_NAME, "a\x85", "x" * 201), "INVALID_SIGNAL_NAME"),
    "task": (NO_TYPE, "INVALID_AGENT_TYPE"),
    "agent": ((*NO_NAME, "a b", "a.#", ".", "..", "x" * 256), "AGENT_NOT_FOUND"),
    "child": (NO_TYPE, "INVALID_WORKFLOW_NAME"),
    "child id": (NO_ID, "INVALID_RUN_ID"),
    "emit": ((*NO_NAME, "a.b", "a.b.C", "a.b.c.d"), "INVALID_EVENT_TYPE"),
    "emit for aios": (("agents.a.b", "workflows.a.b", "system.a.b"), "RESERVED_EVENT_TYPE"),
}


@aios.workflow("naming")
async def naming(context: aios.WorkflowContext, use: tuple[str, str]) -> Any:
    verb, name = use
    if verb == "signal":
        return await context.signal(name)
    if verb == "signal in time":
        return await context.signal(name, timeout=60)
    if verb == "task":
        return await context.task(name)
    if verb == "agent":
        return await context.task("echo", agent_id=name)
    if verb == "child":
        return await context.child(name)
    if verb == "child id":
        return await context.child(naming, use, id=name)
    context.emit(name)
    return None


async def test_should_reject_names_in_a_workflow_that_have_no_counterpart() -> None:
    async with aios.Runtime(workflows=[naming], agents=[echo]) as runtime:
        for verb, (names, code) in NAMED.items():
            for name in names:
                run = await runtime.start(naming, (verb, name))
                with pytest.raises(aios.RunFailedError) as raised:
                    await run.result()
                assert raised.value.code == code, (verb, name)
        for name in ("a", "Freigabe erteilt", "approval-3/1", "~", "ü" * 100):
            run = await runtime.start(naming, ("signal", name))
            await run.signal(name, 7)
            assert await run.result() == 7


async def test_should_reject_the_same_names_in_a_test_of_a_workflow() -> None:
    for verb, (names, code) in NAMED.items():
        for name in names:
            tested = await WorkflowTest(naming).run((verb, name))
            assert tested.failure is not None and tested.failure.code == code, (verb, name)
            if verb == "signal":
                tested = await WorkflowTest(naming).signal(1, name, 7).run((verb, "go"))
                assert tested.failure is not None and tested.failure.code == code, name


@aios.workflow("wrong_result")
async def wrong_result(context: aios.WorkflowContext) -> int:
    found: Any = "no number"
    return cast("int", found)


async def test_should_reject_strings_that_are_not_valid_utf8() -> None:
    half: Any = "a\ud800"
    async with aios.Runtime(workflows=[wrong_result]) as runtime:
        run = await runtime.start(wrong_result)
        for refused in (
            lambda: runtime.start(wrong_result, id=half),
            lambda: runtime.start(half),
            lambda: runtime.handle(half),
            lambda: runtime.task("a", id=half),
            lambda: runtime.publish(half),
            lambda: runtime.publish("a.b.c", id=half),
            lambda: run.signal(half),
            lambda: run.cancel(half),
            lambda: run.fork(1, half),
        ):
            with pytest.raises(aios.InvalidDataError, match="valid UTF-8") as raised:
                await refused()
            assert raised.value.code == "INVALID_TEXT"


async def test_should_reject_a_result_that_does_not_match() -> None:
    async with aios.Runtime(workflows=[wrong_result]) as runtime:
        run = await runtime.start(wrong_result)
        with pytest.raises(aios.InvalidResultError, match="result of workflow wrong_result"):
            await run.result()


async def test_should_explain_how_to_pass_agents_and_workflows() -> None:
    @aios.agent("known")
    async def known(context: aios.TaskContext) -> None: ...

    agent: Any = known
    async with aios.Runtime() as runtime:
        for given in (runtime.task, runtime.call):
            with pytest.raises(TypeError, match="pass 'known' instead of <function"):
                await given(agent)
        with pytest.raises(TypeError, match="not 5"):
            await runtime.task(cast("str", 5))
        with pytest.raises(TypeError, match="is it decorated"):
            await runtime.start(agent)


def test_should_reject_invalid_options() -> None:
    options: list[tuple[str, Any]] = [
        ("workers", 0),
        ("workers", -1),
        ("workers", 2**40),
        ("threads", 0),
        ("agents", wrong_result),
        ("workflows", wrong_result),
        *((name, -1.0) for name in ("lease_time", "shutdown_timeout", "blocked_after")),
        *((name, float("nan")) for name in ("lease_time", "shutdown_timeout", "blocked_after")),
        ("shutdown_timeout", float("inf")),
    ]
    for name, value in options:
        with pytest.raises(aios.ConfigurationError, match=name):
            aios.Runtime(**{name: value})


def test_should_reject_options_of_another_type() -> None:
    options: list[tuple[str, Any]] = [
        ("lease_time", None),
        ("shutdown_timeout", "5"),
        ("blocked_after", True),
        ("engine", "no"),
        ("relay", 0),
        ("traces", "http://127.0.0.1:4318"),
        ("metrics", aios.TraceCollector("http://127.0.0.1:4318")),
    ]
    for name, value in options:
        with pytest.raises(TypeError, match=f"{name} must be"):
            aios.Runtime(**{name: value})
    with pytest.raises(TypeError, match="lookahead of workflow a must be a bool"):
        aios.workflow("a", lookahead=cast("Any", "no"))(wrong_result.function)


#: Policies, and what the error says.
NO_POLICY: list[tuple[Any, str]] = [
    (3, "retry must be an aios.RetryPolicy, not 3"),
    ("never", "retry must be an aios.RetryPolicy, not 'never'"),
    (tuple(aios.RetryPolicy()), "retry must be an aios.RetryPolicy"),
    (aios.RetryPolicy(-1), "max_attempts of a RetryPolicy must be 0 to 4,294,967,295, not -1"),
    (aios.RetryPolicy(2**32), "max_attempts of a RetryPolicy must be 0 to"),
    (aios.RetryPolicy(cast("Any", 2.5)), "max_attempts of a RetryPolicy must be an int"),
    (aios.RetryPolicy(max_delay=cast("Any", "1")), "max_delay of a RetryPolicy must be a number"),
    (aios.RetryPolicy(initial_delay=float("nan")), "initial_delay must be a number of seconds"),
    (
        aios.RetryPolicy(non_retryable=cast("Any", "REFUSED")),
        "non_retryable of a RetryPolicy must be a tuple of str, not 'REFUSED'",
    ),
]


@pytest.mark.parametrize(("policy", "says"), NO_POLICY)
async def test_should_name_what_is_wrong_with_a_retry_policy(policy: Any, says: str) -> None:
    @aios.workflow("retrying")
    async def retrying(context: aios.WorkflowContext) -> list[str]:
        uses: list[Callable[[], Any]] = [
            lambda: context.task("echo", retry=policy),
            lambda: context.with_retry(policy).step("true", bool, 1),
        ]
        found: list[str] = []
        for use in uses:
            with pytest.raises((TypeError, ValueError)) as raised:
                use()
            found.append(str(raised.value))
        return found

    def applied(batch: aios.Batch) -> None: ...

    def tested() -> None: ...

    async with aios.Runtime(agents=[echo], workflows=[retrying]) as runtime:
        for found in await (await runtime.start(retrying)).result():
            assert says in found
        uses: list[Callable[[], Any]] = [
            lambda: runtime.task("echo", retry=policy),
            lambda: runtime.projection("a", applied, retry=policy),
            lambda: with_tool(aios.tool(retry=policy)(tested)),
        ]
        for use in uses:
            with pytest.raises((TypeError, ValueError), match=re.escape(says)):
                await use()


async def with_tool(tool: aios.Tool) -> None:
    """Opens a runtime whose agent has the tool."""
    agent = aios.LlmAgent("tested", lambda request: "done", tools=[tool])
    async with aios.Runtime(agents=[agent]):
        return


async def test_should_name_the_time_that_is_not_a_number_of_seconds() -> None:
    @aios.workflow("timed")
    async def timed(context: aios.WorkflowContext) -> list[str]:
        uses: list[Callable[[], Any]] = [
            lambda: context.sleep(-1),
            lambda: context.task("echo", timeout=float("nan")),
            lambda: context.task("echo", total_timeout=float("inf")),
            lambda: context.signal("go", timeout=1e300),
            lambda: context.with_timeout(-1).step("true", bool, 1),
        ]
        found: list[str] = []
        for use in uses:
            with pytest.raises(aios.InvalidDataError) as raised:
                use()
            assert raised.value.code == "INVALID_DURATION"
            found.append(raised.value.message.partition(" must be a number of seconds")[0])
        return found

    async with aios.Runtime(agents=[echo], workflows=[timed]) as runtime:
        assert await (await runtime.start(timed)).result() == [
            "seconds",
            "timeout",
            "total_timeout",
            "timeout",
            "timeout",
        ]
        uses: list[tuple[str, Callable[[], Any]]] = [
            ("delay", lambda: runtime.start(timed, delay=-1)),
            ("timeout", lambda: runtime.call("echo", timeout=-1)),
            ("total_timeout", lambda: runtime.task("echo", total_timeout=-1)),
            ("older_than", lambda: runtime.expire_runs(-1)),
            ("older_than", lambda: runtime.expire_streams("outputs", -1)),
        ]
        for name, use in uses:
            with pytest.raises(aios.InvalidDataError, match=f"^{name} must be a number of seconds"):
                await use()


async def test_should_reject_a_version_that_a_run_would_not_get() -> None:
    @aios.workflow("welcome", version=2)
    async def later(context: aios.WorkflowContext, names: list[str]) -> int:
        return context.workflow_version

    async with aios.Runtime(workflows=[welcome, later]) as runtime:
        for workflow in (welcome, "welcome"):
            with pytest.raises(
                aios.ConfigurationError,
                match="gets version 2, the latest that is registered here, not 1",
            ):
                await runtime.start(cast("Any", workflow), [], version=1)
        assert (await runtime.runs()).rows == []
        assert await (await runtime.start("welcome", [], version=2)).result() == 2
        for version in (0, 2**32):
            with pytest.raises(aios.ConfigurationError, match="version must "):
                await runtime.start("later", version=version)
        with pytest.raises(TypeError, match="version must be an int"):
            await runtime.start("later", version=cast("Any", "1"))


#: A value that no parameter takes.
WRONG: Any = ["wrong"]


async def test_should_name_the_argument_of_a_workflow_operation_that_has_another_type() -> None:
    async def undo(context: aios.WorkflowContext) -> None: ...

    @aios.workflow("typed")
    async def typed(context: aios.WorkflowContext) -> list[str]:
        uses: list[tuple[str, Callable[[], Any]]] = [
            ("seconds must be a number of seconds", lambda: context.sleep(WRONG)),
            ("seconds must be a number of seconds", lambda: context.with_timeout(WRONG)),
            ("the name of a signal must be a str", lambda: context.signal(WRONG)),
            ("timeout must be a number of sec", lambda: context.signal("go", timeout=WRONG)),
            ("agent_id must be a str", lambda: context.task("echo", agent_id=WRONG)),
            ("timeout must be a number of sec", lambda: context.task("echo", timeout=WRONG)),
            ("total_timeout must be a number", lambda: context.task("echo", total_timeout=WRONG)),
            ("the name of a step must be a str", lambda: context.step(WRONG, bool, 1)),
            ("the name of a workflow must be a str", lambda: context.child(WRONG)),
            ("a run id must be a str", lambda: context.child("typed", id=WRONG)),
            ("leave_running must be a bool", lambda: context.child("typed", leave_running=WRONG)),
            (
                "cancel_when_dropped must be a bool",
                lambda: context.child("typed", cancel_when_dropped=WRONG),
            ),
            ("an event type must be a str", lambda: context.emit(WRONG)),
            ("a status text must be a str", lambda: context.set_status(WRONG)),
            ("the name of a compensation must be a str", lambda: context.compensate(WRONG, undo)),
            (
                "the field of a failure detail must be a str",
                lambda: context.set_failure_detail(WRONG, 1),
            ),
            ("change must be a str", lambda: context.version(WRONG, 1, 2)),
            ("oldest must be an int", lambda: context.version("change", WRONG, 2)),
            ("newest must be an int", lambda: context.version("change", 1, WRONG)),
        ]
        for says, use in uses:
            with pytest.raises(TypeError, match=f"^{says}.*, not \\['wrong'\\]$"):
                use()
        for least, most, name in ((-1, 1, "oldest"), (0, 2**32, "newest")):
            with pytest.raises(aios.ConfigurationError, match=f"^{name} must be 0 to 4,294,967"):
                context.version("change", least, most)
        return ["refused"]

    assert (await WorkflowTest(typed).run()).result() == ["refused"]
    for test in (WorkflowTest(typed).cancel, WorkflowTest(typed).pause):
        with pytest.raises(TypeError, match="after must be a number of seconds"):
            test(WRONG)
    with pytest.raises(TypeError, match="the name of a signal must be a str"):
        WorkflowTest(typed).signal(1, WRONG)


def refused(client: aios.Client) -> list[tuple[str, Callable[[], Any]]]:
    """Calls with an argument of another type, and what the errors say."""

    async def subscribe(*patterns: Any, **options: Any) -> None:
        async with client.events(*patterns, **options):
            return

    return [
        ("delay must be a number of sec", lambda: client.start("counting", delay=WRONG)),
        ("a run id must be a str", lambda: client.start("counting", id=WRONG)),
        ("traceparent must be a str", lambda: client.start("counting", traceparent=WRONG)),
        ("correlation_id must be a str", lambda: client.start("counting", correlation_id=WRONG)),
        (
            "the name of a signal must be a str",
            lambda: client.signal_with_start("counting", id="a", signal=WRONG),
        ),
        (
            "a run id must be a str",
            lambda: client.signal_with_start("counting", id=WRONG, signal="go"),
        ),
        ("a run id must be a str", lambda: client.handle(WRONG)),
        ("agent_id must be a str", lambda: client.task("echo", agent_id=WRONG)),
        ("timeout must be a number of sec", lambda: client.task("echo", timeout=WRONG)),
        ("total_timeout must be a number", lambda: client.task("echo", total_timeout=WRONG)),
        ("agent_id must be a str", lambda: client.call("echo", agent_id=WRONG)),
        ("timeout must be a number of sec", lambda: client.call("echo", timeout=WRONG)),
        ("an event type must be a str", lambda: client.publish(WRONG)),
        ("traceparent must be a str", lambda: client.publish("a.b.c", traceparent=WRONG)),
        ("each of patterns must be a str", lambda: subscribe(WRONG)),
        ("group must be a str", lambda: subscribe("a.b.c", group=WRONG)),
        ("follow must be a bool", lambda: anext(client.log(follow=WRONG))),
        ("workflow must be a str", lambda: client.runs(WRONG)),
        ("after must be a str", lambda: client.runs(after=WRONG)),
        ("run_id must be a str", lambda: client.tasks(run_id=WRONG)),
        ("agent must be a str", lambda: client.agents(WRONG)),
        ("after must be a str", lambda: client.workflows(after=WRONG)),
    ]


async def test_should_name_the_argument_of_a_client_that_has_another_type() -> None:
    async with aios.Runtime(agents=[echo], workflows=[counting]) as runtime:
        run = await runtime.start(counting)
        uses: list[tuple[str, Callable[[], Any]]] = [
            *refused(runtime),
            ("older_than must be a number of sec", lambda: runtime.expire_runs(WRONG)),
            ("archive must be a bool", lambda: runtime.expire_runs(1, archive=WRONG)),
            ("pause must be a number of sec", lambda: runtime.expire_runs(1, pause=WRONG)),
            ("older_than must be a number", lambda: runtime.expire_streams("outputs", WRONG)),
            ("each of patterns must be", lambda: runtime.projection("a", print, patterns=[WRONG])),
            ("the name of a projection must", lambda: runtime.projection(WRONG, print)),
            ("a reason must be a str", lambda: run.cancel(WRONG)),
            ("a run id must be a str", lambda: run.retry(WRONG)),
        ]
        for says, use in uses:
            with pytest.raises(TypeError, match=f"^{says}.*, not \\['wrong'\\]$"):
                await use()
        for missing in (runtime.handle(cast("Any", None)), run.fork(1, cast("Any", None))):
            with pytest.raises(TypeError, match="a run id must be a str, not None"):
                await missing
        with pytest.raises(aios.ConfigurationError, match="statuses is a list"):
            await runtime.runs(statuses=cast("Any", 5))
        with pytest.raises(aios.ConfigurationError, match="patterns is a list"):
            await runtime.projection("a", print, patterns=cast("Any", 5))
    with pytest.raises(TypeError, match="source must be a str, not 5"):
        aios.Client(source=cast("Any", 5))


def test_should_name_the_argument_of_a_blocking_client_that_has_another_type() -> None:
    with aios.sync.Runtime(agents=[echo], workflows=[counting]) as runtime:
        for says, use in (
            ("delay must be a number of sec", lambda: runtime.start("counting", delay=WRONG)),
            ("timeout must be a number of sec", lambda: runtime.call("echo", timeout=WRONG)),
            ("each of patterns must be a str", lambda: runtime.events(WRONG)),
            ("older_than must be a number of sec", lambda: runtime.expire_runs(WRONG)),
        ):
            with pytest.raises(TypeError, match=says):
                use()
