from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import enum
import threading
import time
from typing import Any, Literal, NotRequired, TypedDict

import aios
import pytest
from aios import _aios
from aios._agent import bind

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="unknown")


class Colour(enum.Enum):
    RED = "red"


class Options(TypedDict):
    deep: bool
    tag: NotRequired[str]


@dataclasses.dataclass
class Part:
    name: str
    size: int = 1
    parts: list[Part] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Spec:
    title: str
    parts: list[Part]
    options: Options
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow"] = "fast"
    note: str | None = None


@aios.agent("planner")
class Planner:
    async def process_task(self, context: aios.TaskContext, parameters: Spec) -> Spec:
        await asyncio.sleep(0)
        assert isinstance(parameters.parts[0], Part)
        return dataclasses.replace(parameters, title=parameters.title.upper())


@aios.agent("echo")
async def echo(context: aios.TaskContext, parameters: Any) -> Any:
    return parameters


together = threading.Barrier(4, timeout=30)


@aios.agent("threaded")
def threaded(context: aios.TaskContext, parameters: None) -> str:
    together.wait()
    return threading.current_thread().name


SPEC: dict[str, Any] = {
    "title": "a",
    "parts": [{"name": "x", "parts": [{"name": "y", "size": 2}]}],
    "options": {"deep": True},
}


async def test_should_convert_parameters_and_results_by_annotation() -> None:
    async with aios.Runtime(agents=[Planner()]) as runtime:
        answer = await runtime.call("planner", SPEC, result=Spec)
    assert answer.title == "A"
    assert answer.parts[0].parts[0] == Part("y", 2)
    assert answer.colour is Colour.RED


async def test_should_list_every_violation_of_the_parameters() -> None:
    broken = {
        "parts": [{"name": 1}, {"size": "big"}],
        "options": {"deep": "yes"},
        "mode": "warp",
    }
    async with aios.Runtime(agents=[Planner()]) as runtime:
        with pytest.raises(aios.InvalidParametersError) as raised:
            await runtime.call("planner", broken)
    assert {fault["path"] for fault in raised.value.details} == {
        "/title",
        "/parts/0/name",
        "/parts/1/name",
        "/parts/1/size",
        "/options/deep",
        "/mode",
    }
    assert not raised.value.retryable
    assert raised.value.code == "INVALID_PARAMETERS"


async def test_should_run_plain_functions_concurrently_in_threads() -> None:
    async with aios.Runtime(agents=[threaded], threads=4) as runtime:
        names = await asyncio.gather(*(runtime.call("threaded") for _ in range(4)))
    assert len(set(names)) == 4


async def test_should_record_type_message_and_traceback_of_an_exception() -> None:
    class QuotaExceeded(Exception):
        pass

    @aios.agent("failing")
    async def failing(context: aios.TaskContext) -> None:
        raise QuotaExceeded("too many")

    async with aios.Runtime(agents=[failing]) as runtime:
        with pytest.raises(aios.TaskError) as raised:
            await runtime.call("failing")
    error = raised.value
    assert error.code == "TASK_FAILED"
    assert error.retryable
    assert error.details["type"].endswith("QuotaExceeded")
    assert error.details["message"] == "too many"
    assert 'raise QuotaExceeded("too many")' in error.details["traceback"]
    assert any("QuotaExceeded" in note for note in error.__notes__)


async def test_should_record_code_and_details_of_a_task_error() -> None:
    @aios.agent("refusing")
    def refusing(context: aios.TaskContext) -> None:
        raise aios.TaskError.terminal("no", code="REFUSED", details={"left": 0})

    async with aios.Runtime(agents=[refusing]) as runtime:
        with pytest.raises(aios.TaskError) as raised:
            await runtime.call("refusing")
    assert (raised.value.code, raised.value.details) == ("REFUSED", {"left": 0})
    assert not raised.value.retryable


async def test_should_cancel_the_coroutine_at_its_timeout() -> None:
    cancelled = asyncio.Event()

    @aios.agent("slow")
    async def slow(context: aios.TaskContext) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with aios.Runtime(agents=[slow]) as runtime:
        with pytest.raises(aios.TaskTimeoutError) as raised:
            await runtime.call("slow", timeout=0.2)
        await cancelled.wait()
    assert raised.value.retryable


async def test_should_not_cancel_a_coroutine_that_has_ended() -> None:
    """A cancellation would wake the event loop once more for every task."""
    cancelled: list[str] = []

    class Task(asyncio.Task[Any]):
        def cancel(self, msg: Any = None) -> bool:
            cancelled.append(repr(self.get_coro()))
            return super().cancel(msg)

    def create(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Task:
        return Task(coroutine, loop=loop, **options)

    loop = asyncio.get_running_loop()
    async with aios.Runtime(None, agents=[echo]) as runtime:
        loop.set_task_factory(create)
        try:
            assert await runtime.call("echo", 1) == 1
        finally:
            loop.set_task_factory(None)
    assert cancelled == []


async def test_should_tell_a_plain_function_that_its_task_is_cancelled() -> None:
    seen = threading.Event()

    @aios.agent("stubborn")
    def stubborn(context: aios.TaskContext) -> None:
        while not context.is_cancelled:
            time.sleep(0.01)
        seen.set()

    async with aios.Runtime(agents=[stubborn]) as runtime:
        with pytest.raises(aios.TaskTimeoutError):
            await runtime.call("stubborn", timeout=0.2)
        assert await asyncio.to_thread(seen.wait, 60)


async def test_should_start_the_timeout_of_a_plain_function_when_it_has_a_thread() -> None:
    started: list[int] = []

    @aios.agent("brief")
    def brief(context: aios.TaskContext, number: int) -> int:
        started.append(number)
        time.sleep(0.3)
        return number

    @aios.workflow("ask")
    async def ask(context: aios.WorkflowContext, number: int) -> int:
        never = aios.RetryPolicy.never()
        return await context.task("brief", number, result=int, timeout=1.2, retry=never)

    async with aios.Runtime(agents=[brief], workflows=[ask], threads=2) as runtime:
        runs = [await runtime.start(ask, number) for number in range(16)]
        assert [await run.result() for run in runs] == list(range(16))
    assert sorted(started) == list(range(16))


@pytest.mark.parametrize("concurrency", [None, 3])
async def test_should_limit_plain_functions_to_the_number_of_threads(
    concurrency: int | None,
) -> None:
    running, most = 0, 0
    lock = threading.Lock()
    limit = concurrency or 4
    # So many run together, however fast the calls come.
    together = threading.Barrier(limit, timeout=60)

    @aios.agent("counted", concurrency=concurrency)
    def counted(context: aios.TaskContext) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        time.sleep(0.05)
        with lock:
            running -= 1

    async with aios.Runtime(agents=[counted], threads=4) as runtime:
        await asyncio.gather(*(runtime.call("counted", timeout=60) for _ in range(24)))
    assert most == limit


async def test_should_not_starve_other_agents_when_functions_do_not_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = threading.Event()
    calls: list[int] = []

    @aios.agent("endless")
    def endless(context: aios.TaskContext, number: int) -> int:
        calls.append(number)
        release.wait(60)
        return number

    @aios.agent("other")
    def other(context: aios.TaskContext) -> str:
        return "done"

    @aios.workflow("stepping")
    async def stepping(context: aios.WorkflowContext) -> str:
        return await context.step("plain", lambda: "stepped")

    agents = [endless, other]
    async with aios.Runtime(agents=agents, workflows=[stepping], threads=2) as runtime:
        try:
            for number in range(2):
                with pytest.raises(aios.TaskTimeoutError):
                    await runtime.call("endless", number, timeout=0.2)
            assert await runtime.call("other", timeout=30) == "done"
            assert await (await runtime.start(stepping)).result() == "stepped"
            # Every thread of this agent is busy: it must not start a task that it can't run.
            with pytest.raises(aios.TaskTimeoutError):
                await runtime.call("endless", 2, timeout=0.2)
            assert sorted(calls) == [0, 1]
        finally:
            release.set()
        assert await runtime.call("endless", 3, timeout=60) == 3
    texts = [record.getMessage() for record in caplog.records]
    assert any("is still running after its attempt ended" in text for text in texts), texts
    assert any("occupies every slot" in text for text in texts), texts


async def test_should_fail_a_task_at_its_total_timeout() -> None:
    @aios.agent("sluggish")
    async def sluggish(context: aios.TaskContext) -> None:
        await asyncio.sleep(3600)

    @aios.workflow("ask")
    async def ask(context: aios.WorkflowContext) -> None:
        await context.task("sluggish", timeout=0.2, total_timeout=0.5)

    async with aios.Runtime(agents=[sluggish], workflows=[ask]) as runtime:
        for run in (
            await runtime.start(ask),
            await runtime.task("sluggish", total_timeout=0.5),
        ):
            with pytest.raises(aios.RunFailedError) as raised:
                await run.result()
            assert isinstance(raised.value.__cause__, aios.TaskTimeoutError)


async def test_should_report_that_no_agent_takes_a_task() -> None:
    async with aios.Runtime() as runtime:
        with pytest.raises(aios.AgentNotFoundError):
            await runtime.call("absent", 1)


async def test_should_reject_output_that_is_not_json_serialisable() -> None:
    @aios.agent("strange")
    async def strange(context: aios.TaskContext, kind: str) -> Any:
        loop: list[Any] = []
        loop.append(loop)
        return {"object": object(), "nan": float("nan"), "keys": {1: 2}, "loop": loop}[kind]

    async with aios.Runtime(agents=[strange]) as runtime:
        for kind in ("object", "nan", "keys", "loop"):
            with pytest.raises(aios.InvalidOutputError) as raised:
                await runtime.call("strange", kind)
            assert (raised.value.code, raised.value.retryable) == ("INVALID_OUTPUT", False)
        with pytest.raises(aios.InvalidDataError):
            await runtime.call("strange", object())


async def test_should_describe_the_task_in_its_context() -> None:
    @aios.agent("curious")
    async def curious(context: aios.TaskContext) -> dict[str, Any]:
        context.heartbeat({"done": 1})
        return {
            "attempt": context.attempt,
            "key": context.idempotency_key == context.task_id,
            "type": context.agent_type,
            "deadline": context.deadline is not None,
            "trace": context.traceparent,
            "inherited": aios.traceparent.get(),
            "correlation": context.correlation_id,
            "cancelled": context.is_cancelled,
            "tenant": tenant.get(),
        }

    tenant.set("ada")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with aios.Runtime(agents=[curious]) as runtime:
        told = await runtime.call("curious", traceparent=trace, correlation_id="c-1")
    assert told == {
        "attempt": 1,
        "key": True,
        "type": "curious",
        "deadline": True,
        "trace": trace,
        "inherited": trace,
        "correlation": "c-1",
        "cancelled": False,
        "tenant": "ada",
    }


async def test_should_give_each_task_its_own_default_of_parameters() -> None:
    @aios.agent("collector")
    async def collect(context: aios.TaskContext, seen: list[str] = ["a"]) -> list[str]:  # noqa: B006
        seen.append("b")
        return seen

    async with aios.Runtime(agents=[collect]) as runtime:
        answers = [await runtime.call("collector") for _ in range(2)]
    assert answers == [["a", "b"], ["a", "b"]]


async def test_should_apply_the_default_of_parameters_to_a_task_without_them() -> None:
    @dataclasses.dataclass
    class Limits:
        limit: int

    default = Limits(3)

    @aios.agent("texts")
    async def texts(context: aios.TaskContext, text: str = "x") -> str:
        return text

    @aios.agent("options")
    def options(context: aios.TaskContext, options: Limits = default) -> int:
        return options.limit

    @aios.agent("anything")
    async def anything(context: aios.TaskContext, value=5):  # type: ignore[no-untyped-def]
        return value

    async with aios.Runtime(agents=[texts, options, anything]) as runtime:
        assert [await runtime.call(it) for it in ("texts", "options", "anything")] == ["x", 3, 5]
        assert await runtime.call("texts", "y") == "y"
        assert await runtime.call("options", Limits(4)) == 4
        assert await runtime.call("anything", [1]) == [1]
        with pytest.raises(aios.InvalidParametersError):
            await runtime.call("texts", 1)
    assert _aios.loads(bind(texts).parameters_schema) == {
        "anyOf": [{"type": "string"}, {"type": "null"}]
    }
    schema = _aios.loads(bind(options).parameters_schema)
    assert schema["anyOf"] == [{"$ref": "#/$defs/Limits"}, {"type": "null"}]
    assert "Limits" in schema["$defs"]


async def test_should_publish_emitted_events_if_the_task_succeeds() -> None:
    @aios.agent("emitter")
    async def emitter(context: aios.TaskContext, succeed: bool) -> None:
        context.emit("shop.order.placed", {"succeed": succeed})
        if not succeed:
            raise ValueError("no")

    async with aios.Runtime(agents=[emitter]) as runtime, runtime.events("shop.#") as events:
        with pytest.raises(aios.TaskError):
            await runtime.call("emitter", False)
        await runtime.call("emitter", True)
        event = await anext(events)
    assert event.data == {"succeed": True}


async def test_should_pass_json_values_unchanged() -> None:
    values: list[Any] = [None, True, 1, -(2**63), 2**64, 2**200, 1.5, "ä🙂", [], {"a": {"b": [1]}}]
    async with aios.Runtime(agents=[echo]) as runtime:
        assert await runtime.call("echo", values) == values


async def test_should_retry_a_durable_task() -> None:
    attempts: list[int] = []

    @aios.agent("flaky")
    async def flaky(context: aios.TaskContext, wanted: int) -> int:
        attempts.append(context.attempt)
        if context.attempt < wanted:
            raise ConnectionError("not yet")
        return context.attempt

    async with aios.Runtime(agents=[flaky]) as runtime:
        run = await runtime.task("flaky", 3, retry=aios.RetryPolicy.fixed(5, 0.01))
        assert await run.result() == 3
    assert attempts == [1, 2, 3]


async def test_should_reject_objects_that_are_not_agents() -> None:
    class Nothing:
        pass

    for wrong in (Nothing(), Planner):
        with pytest.raises(aios.ConfigurationError):
            await aios.Runtime(agents=[wrong]).open()

    @aios.agent("greedy")
    async def greedy(context: aios.TaskContext, one: int, two: int) -> None: ...

    with pytest.raises(aios.ConfigurationError, match="at most one value"):
        await aios.Runtime(agents=[greedy]).open()

    with pytest.raises(aios.ConfigurationError):

        @aios.agent("Bad Name")
        async def badly_named(context: aios.TaskContext) -> None: ...


async def test_should_not_delay_other_agents_while_one_spins() -> None:
    stop = threading.Event()

    @aios.agent("spinner")
    def spinner(context: aios.TaskContext) -> int:
        count = 0
        while not stop.is_set() and not context.is_cancelled:
            count += 1
        return count

    async with aios.Runtime(agents=[spinner, echo]) as runtime:
        spinning = asyncio.create_task(runtime.call("spinner"))
        for number in range(20):
            assert await runtime.call("echo", number) == number
        stop.set()
        assert await spinning > 0


async def test_should_keep_half_the_speed_of_rust_agents_while_a_python_agent_spins() -> None:
    stop = threading.Event()

    @aios.agent("spinner")
    def spinner(context: aios.TaskContext) -> None:
        while not stop.is_set() and not context.is_cancelled:
            pass

    best = 0.0
    async with aios.Runtime(None, agents=[spinner]) as runtime:
        # The machine may be busy: one trial at half the speed shows that the agents are not blocked.
        for _ in range(20):
            stop.clear()
            alone = await _aios.rust_tasks_per_second(runtime._opened(), 0.3, 64)
            spinning = asyncio.create_task(runtime.call("spinner"))
            beside = await _aios.rust_tasks_per_second(runtime._opened(), 0.3, 64)
            stop.set()
            await spinning
            best = max(best, beside / alone)
            if best >= 0.5:
                return
    pytest.fail(f"the agents reached only {best:.2f} of their speed")
