"""Traces of programs that use the SDK of OpenTelemetry."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import aios
import pytest

pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

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


def test_should_not_import_opentelemetry_itself(
    script: Callable[..., subprocess.Popen[str]],
) -> None:
    program = script(
        "import sys, aios\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))\n"
    )
    output, _ = program.communicate()
    assert output.strip() == "[]"
