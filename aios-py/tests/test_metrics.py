"""Metrics of a process at a collector."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aios
import pytest

pytest.importorskip("opentelemetry.proto")

from collector import Collector
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE


@aios.workflow("counted")
async def counted(context: aios.WorkflowContext, number: int) -> int:
    return await context.step("add", lambda: number + 1)


async def test_should_send_the_metrics_of_a_process_to_a_collector(tmp_path: Path) -> None:
    collector = Collector()
    settings = aios.Settings.load(
        folder=tmp_path,
        environment={
            "AIOS_DATABASE_URL": f"sqlite://{tmp_path}/aios.db",
            "AIOS_TELEMETRY_SERVICE_NAME": "shop",
            "AIOS_TELEMETRY_METRICS__ENDPOINT": collector.url,
            "AIOS_TELEMETRY_METRICS__HEADERS__X_API_KEY": "hunter2",
            "AIOS_TELEMETRY_METRICS__INTERVAL": "1h",
        },
    )
    assert settings.telemetry.metrics.interval == 3600
    options = settings.runtime_options()
    assert "hunter2" not in repr(options) + repr(settings)
    started: list[int] = []
    for _ in range(2):
        async with aios.Runtime(**options, workflows=[counted]) as runtime:
            assert await (await runtime.start(counted, 1)).result() == 2
        metric = collector.last()["aios_runs_started_total"]
        assert metric.sum.is_monotonic
        assert metric.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
        (point,) = metric.sum.data_points
        assert point.start_time_unix_nano < point.time_unix_nano
        started.append(point.as_int)
    assert started[1] == started[0] + 1, "the values are those of the process"
    assert collector.last()["aios_run_seconds"].unit == "s"
    (resource,) = collector.exports[-1].resource_metrics
    attributes = {it.key: it.value.string_value for it in resource.resource.attributes}
    assert attributes["service.name"] == "shop"
    assert attributes["service.instance.id"]
    assert set(collector.requests) == {("/v1/metrics", "hunter2")}


async def test_should_run_although_the_collector_refuses(tmp_path: Path) -> None:
    collector = Collector(status=503)
    metrics = aios.MetricsCollector(collector.url)
    async with aios.Runtime(workflows=[counted], metrics=metrics) as runtime:
        assert await (await runtime.start(counted, 1)).result() == 2
    assert collector.requests
    assert not collector.exports


@pytest.mark.parametrize(
    ("collector", "message"),
    [
        (aios.MetricsCollector("no url"), "metrics: invalid collector"),
        (aios.MetricsCollector("http://127.0.0.1:1", interval=0.5), "from 1s to 1d"),
        (aios.MetricsCollector("http://127.0.0.1:1", interval=-1.0), "from 1 s to a day"),
    ],
)
async def test_should_name_what_is_wrong_with_a_collector(
    collector: aios.MetricsCollector, message: str
) -> None:
    with pytest.raises(aios.ConfigurationError, match=message):
        await aios.Runtime(workflows=[counted], metrics=collector).open()


async def test_should_refuse_a_second_runtime_that_sends_the_metrics() -> None:
    metrics = aios.MetricsCollector(Collector().url)
    async with aios.Runtime(metrics=metrics):
        with pytest.raises(aios.ConfigurationError, match="another runtime of this process"):
            await aios.Runtime(metrics=metrics).open()
    async with aios.Runtime(metrics=metrics):
        pass


@pytest.mark.parametrize("signal", ["TRACES", "METRICS"])
async def test_should_speak_the_protocol_of_the_settings(tmp_path: Path, signal: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environment = {
            "AIOS_DATABASE_URL": "memory://",
            f"AIOS_TELEMETRY_{signal}__ENDPOINT": f"http://127.0.0.1:{listener.getsockname()[1]}",
            f"AIOS_TELEMETRY_{signal}__PROTOCOL": "grpc",
        }
        settings = aios.Settings.load(folder=tmp_path, environment=environment)
        async with aios.Runtime(**settings.runtime_options(), workflows=[counted]) as runtime:
            await (await runtime.start(counted, 1)).result()
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                begun = await asyncio.to_thread(connection.recv, 14)
                assert begun == b"PRI * HTTP/2.0"


async def test_should_refuse_a_protocol_that_is_none() -> None:
    traces = aios.TraceCollector("http://127.0.0.1:1", protocol="udp")
    with pytest.raises(
        aios.ConfigurationError, match="traces: the protocol is http/protobuf or grpc"
    ):
        await aios.Runtime(workflows=[counted], traces=traces).open()
