"""Traces of programs that use the SDK of OpenTelemetry."""

from __future__ import annotations

import contextlib
import importlib.machinery
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aios
import httpx
import pytest
from aios.testing import ScriptedModel

pytest.importorskip("opentelemetry.sdk.trace")

from collector import Collector
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import approval, served

EXPORTER = InMemorySpanExporter()
PROVIDER = TracerProvider()
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))
TRACER = PROVIDER.get_tracer("tests")


def ended(name: str) -> ReadableSpan:
    return next(span for span in EXPORTER.get_finished_spans() if span.name == name)


def ids(traceparent: str | None) -> tuple[int, int]:
    assert traceparent is not None
    _, trace_id, span_id, _ = traceparent.split("-")
    return int(trace_id, 16), int(span_id, 16)


def parent(span: ReadableSpan) -> tuple[int, int]:
    assert span.parent is not None
    return span.parent.trace_id, span.parent.span_id


async def test_should_continue_a_trace_of_opentelemetry_through_runs_and_agents() -> None:
    @aios.agent("observed")
    async def observed(context: aios.TaskContext) -> str | None:
        with TRACER.start_as_current_span("in the agent"):
            return context.traceparent

    @aios.agent("observed_plain")
    def observed_plain(context: aios.TaskContext) -> str | None:
        with TRACER.start_as_current_span("in the plain agent"):
            return context.traceparent

    def step() -> str | None:
        with TRACER.start_as_current_span("in the step"):
            return aios.traceparent.get()

    @aios.workflow("observing")
    async def observing(context: aios.WorkflowContext) -> list[str | None]:
        return [
            context.traceparent,
            await context.task("observed", result=str),
            await context.task("observed_plain", result=str),
            await context.step("step", step),
        ]

    agents = [observed, observed_plain]
    async with aios.Runtime(agents=agents, workflows=[observing]) as runtime:
        with TRACER.start_as_current_span("request") as request:
            run = await runtime.start(observing)
            found = await run.result()
        journal = await run.journal()

    outer = request.get_span_context()
    started = journal[0].event.metadata.get("traceparent")
    assert ids(started) == (outer.trace_id, outer.span_id)
    in_run, in_task, in_plain_task, in_step = found
    assert {ids(it)[0] for it in found} == {outer.trace_id}
    assert parent(ended("in the agent")) == ids(in_task)
    assert parent(ended("in the plain agent")) == ids(in_plain_task)
    assert parent(ended("in the step")) == ids(in_step) == ids(in_run)
    assert len({in_run, in_task, in_plain_task}) == 3


def partial_api() -> types.ModuleType:
    """The API while another thread executes its module."""
    api = types.ModuleType("opentelemetry.trace")
    api.__spec__ = importlib.machinery.ModuleSpec(api.__name__, None)
    api.__spec__._initializing = True  # type: ignore[attr-defined]
    return api


def failing_api() -> types.ModuleType:
    api = types.ModuleType("opentelemetry.trace")

    def fail(*arguments: object, **keywords: object) -> None:
        raise ValueError("no span")

    api.get_current_span = api.SpanContext = fail  # type: ignore[attr-defined]
    return api


@pytest.mark.parametrize("make", [partial_api, failing_api])
async def test_should_not_fail_because_of_the_library_of_traces(
    make: Callable[[], types.ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    @aios.agent("untraced")
    async def untraced(context: aios.TaskContext) -> str | None:
        return context.traceparent

    @aios.workflow("untraced")
    async def run_untraced(context: aios.WorkflowContext) -> list[str | None]:
        return [context.traceparent, await context.task("untraced", result=str)]

    monkeypatch.setitem(sys.modules, "opentelemetry.trace", make())
    async with aios.Runtime(agents=[untraced], workflows=[run_untraced]) as runtime:
        run, task = await (await runtime.start(run_untraced)).result()
    assert ids(run)[0] == ids(task)[0]


MALFORMED = (
    "",
    "x",
    "00-zz-yy-01",
    "00-" + "a" * 31 + "-" + "b" * 16 + "-01",
    "00-ä-b-c",
    "a-b-c-d",
)


@pytest.mark.parametrize("traceparent", MALFORMED)
async def test_should_run_what_has_a_malformed_trace(traceparent: str) -> None:
    """Of another service, say, which must not fail what it has assigned."""

    @aios.agent("traced")
    async def traced(context: aios.TaskContext) -> bool:
        with TRACER.start_as_current_span("of its own") as span:
            return span.get_span_context().is_valid

    @aios.agent("traced_plain")
    def traced_plain(context: aios.TaskContext) -> bool:
        return True

    @aios.workflow("tracing")
    async def tracing(context: aios.WorkflowContext) -> bool:
        return await context.step("true", bool, 1)

    async with aios.Runtime(agents=[traced, traced_plain], workflows=[tracing]) as runtime:
        assert await runtime.call("traced", traceparent=traceparent)
        assert await runtime.call("traced_plain", traceparent=traceparent)
        assert await (await runtime.start(tracing, traceparent=traceparent)).result()


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@aios.agent("tracing")
async def tracing(context: aios.TaskContext) -> str | None:
    return context.traceparent


@aios.workflow("awaits_signal")
async def awaits_signal(context: aios.WorkflowContext) -> None:
    await context.signal("go")


@contextlib.asynccontextmanager
async def opened(remote: bool) -> AsyncIterator[aios.Client]:
    """A runtime, or a client of a service with the same agents and workflows."""
    runtime = aios.Runtime(agents=[tracing], workflows=[awaits_signal])
    if not remote:
        async with runtime:
            yield runtime
        return
    async with served(aios.asgi(runtime)) as url, aios.RemoteClient(url) as client:
        yield client


async def origin(run: aios.RunHandle[Any]) -> tuple[Any, Any]:
    """The trace and the correlation id with which a run was started."""
    metadata = (await run.journal(limit=1))[0].event.metadata
    return metadata.get("traceparent"), metadata.get("correlation_id")


@pytest.mark.parametrize("remote", [False, True])
async def test_should_pass_the_trace_of_the_caller_to_all_that_it_starts(remote: bool) -> None:
    async with opened(remote) as client:
        for explicit in (None, TRACE):
            with TRACER.start_as_current_span("caller") as caller:
                context = caller.get_span_context()
                run = await client.start("awaits_signal", traceparent=explicit)
                signalled = await client.signal_with_start(
                    "awaits_signal", id=f"s-{explicit}", signal="go", traceparent=explicit
                )
                task = await client.task("tracing", traceparent=explicit)
                called = await client.call("tracing", traceparent=explicit)
            expected = ids(TRACE) if explicit else (context.trace_id, context.span_id)
            for started in (run, signalled, task):
                assert ids((await origin(started))[0]) == expected
            assert ids(await task.result())[0] == ids(called)[0] == expected[0]


def traced_by(app: Any) -> Any:
    """An application within the middleware of a program that makes a span for each request."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        with TRACER.start_as_current_span("of the request"):
            await app(scope, receive, send)

    return middleware


@pytest.mark.parametrize("traceparent", [None, TRACE])
async def test_should_continue_the_trace_of_the_program_that_mounts_the_api(
    traceparent: str | None,
) -> None:
    EXPORTER.clear()
    runtime = aios.Runtime(agents=[tracing], workflows=[awaits_signal])
    sent = {"tracestate": "vendor=1"}
    if traceparent is not None:
        sent["traceparent"] = traceparent
    async with served(traced_by(aios.asgi(runtime))) as url, httpx.AsyncClient() as client:
        response = await client.post(
            f"{url}/workflows/awaits_signal/actions/execute",
            json={"run_id": "r1"},
            headers=sent,
            timeout=60,
        )
        assert response.status_code == 202, response.text
        run = await runtime.handle("r1")
        metadata = (await run.journal(limit=1))[0].event.metadata
    span = ended("of the request").get_span_context()
    assert span is not None
    assert ids(metadata.get("traceparent")) == (span.trace_id, span.span_id)
    assert metadata.get("tracestate") is None
    assert ids(response.headers["traceresponse"])[0] == span.trace_id


async def test_should_pass_a_correlation_id_to_all_that_it_starts() -> None:
    async with opened(remote=False) as client:
        runs = [
            await client.start("awaits_signal", correlation_id="c-1"),
            await client.signal_with_start(
                "awaits_signal", id="s", signal="go", correlation_id="c-1"
            ),
            await client.task("tracing", correlation_id="c-1"),
        ]
        assert [(await origin(run))[1] for run in runs] == ["c-1"] * 3


async def test_should_pass_a_correlation_id_through_a_service() -> None:
    async with opened(remote=True) as client:
        runs = [
            await client.start("awaits_signal", correlation_id="c-1"),
            await client.task("tracing", correlation_id="c-1"),
        ]
        assert [(await origin(run))[1] for run in runs] == ["c-1"] * 2
        task = await client.task("tracing", id="t-1")
        assert (await origin(task))[1] == "t-1"


def test_should_not_import_opentelemetry_itself(
    script: Callable[..., subprocess.Popen[str]],
) -> None:
    program = script(
        "import sys, aios\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))\n"
    )
    output, _ = program.communicate()
    assert output.strip() == "[]"


@aios.agent("doubler")
async def doubler(context: aios.TaskContext, number: int) -> int:
    return number * 2


@aios.workflow("traced")
async def traced(context: aios.WorkflowContext, number: int) -> int:
    doubled = await context.task("doubler", number, result=int)
    return await context.step("add", lambda: doubled + 1)


async def test_should_send_the_spans_of_runs_to_a_collector(tmp_path: Path) -> None:
    collector = Collector()
    settings = aios.Settings.load(
        folder=tmp_path,
        environment={
            "AIOS_DATABASE_URL": f"sqlite://{tmp_path}/aios.db",
            "AIOS_TELEMETRY_SERVICE_NAME": "shop",
            "AIOS_TELEMETRY_TRACES__ENDPOINT": collector.url,
            "AIOS_TELEMETRY_TRACES__HEADERS__X_API_KEY": "hunter2",
        },
    )
    options = settings.runtime_options()
    assert "hunter2" not in repr(options) + repr(settings)
    with TRACER.start_as_current_span("caller") as caller:
        async with aios.Runtime(**options, agents=[doubler], workflows=[traced]) as runtime:
            assert await (await runtime.start(traced, 20)).result() == 41
    spans = {span.span_id: span for span in collector.spans}
    assert len(spans) == len(collector.spans), "every span once"
    context = caller.get_span_context()
    assert {span.trace_id for span in spans.values()} == {context.trace_id.to_bytes(16)}
    outside = {span.parent_span_id for span in spans.values()} - set(spans)
    assert outside == {context.span_id.to_bytes(8)}, "all other parents are present"
    names = " ".join(span.name for span in spans.values())
    assert all(name in names for name in ("traced", "doubler", "add")), names
    assert collector.services == {"shop"}
    assert set(collector.requests) == {("/v1/traces", "hunter2")}


async def test_should_send_the_attributes_of_models_and_tools_without_content() -> None:
    @aios.tool
    async def search(words: str) -> str:
        """Searches."""
        return f"found {words}"

    collector = Collector()
    call = aios.ToolCall("search", {"words": "a secret"}, "c")
    first = aios.ModelResponse(tool_calls=[call], input_tokens=10, output_tokens=5)
    model = ScriptedModel(first, "done")
    agent = aios.LlmAgent("clerk", model, tools=[search], trace_content=True)
    traces = aios.TraceCollector(collector.url)
    async with aios.Runtime(agents=[agent], traces=traces) as runtime:
        assert await (await runtime.start(agent, "go")).result() == "done"

    def attributes(name: str) -> dict[str, Any]:
        span = next(span for span in collector.spans if span.name == name)
        return {it.key: it.value for it in span.attributes}

    chat = attributes("chat scripted")
    assert chat["gen_ai.operation.name"].string_value == "chat"
    assert chat["gen_ai.provider.name"].string_value == "test"
    assert chat["gen_ai.agent.name"].string_value == "clerk"
    assert chat["gen_ai.usage.input_tokens"].int_value == 10
    reasons = chat["gen_ai.response.finish_reasons"].array_value.values
    assert [reason.string_value for reason in reasons] == ["tool_call"]
    tool = attributes("execute_tool search")
    assert tool["gen_ai.operation.name"].string_value == "execute_tool"
    assert tool["gen_ai.tool.name"].string_value == "search"
    run = attributes("invoke_agent clerk")
    assert run["gen_ai.operation.name"].string_value == "invoke_agent"
    assert run["gen_ai.provider.name"].string_value == "test"
    assert run["gen_ai.conversation.id"] == chat["gen_ai.conversation.id"]
    assert b"a secret" not in b"".join(collector.bodies)


async def test_should_refuse_a_collector_that_is_not_a_url() -> None:
    runtime = aios.Runtime(workflows=[traced], traces=aios.TraceCollector("no url"))
    with pytest.raises(aios.ConfigurationError, match="traces: invalid collector"):
        await runtime.open()


async def test_should_give_requests_to_a_mounted_api_their_spans() -> None:
    """The span of the request is below the one of the client, and the run is below it."""
    collector = Collector()
    traces = aios.TraceCollector(collector.url)
    app = aios.asgi(aios.Runtime(workflows=[approval], traces=traces))
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with served(app) as url, aios.RemoteClient(url) as client:
        run = await client.start("approval", 0, id="r", traceparent=caller)
        await run.signal("approval", 1)
        assert await run.result() == 1
    (request,) = [span for span in collector.spans if span.name.endswith("/actions/execute")]
    assert request.name == "POST /workflows/{workflow}/actions/execute"
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == ids_of(caller)
    (of_run,) = [span for span in collector.spans if span.name == "workflow approval"]
    assert of_run.parent_span_id == request.span_id


def ids_of(traceparent: str) -> tuple[str, str]:
    _, trace_id, span_id, _ = traceparent.split("-")
    return trace_id, span_id
