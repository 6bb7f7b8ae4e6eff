"""Collectors of traces and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._secret import Secret, exposed

#: Endpoint, service name, headers and protocol, as the native module takes them.
NativeCollector = tuple[str, str, list[tuple[str, str]], str]


@dataclass(frozen=True)
class TraceCollector:
    """A collector that accepts traces by OTLP, such as the OpenTelemetry Collector.

    A :class:`Runtime` with an engine sends it the spans of all runs of its store: of each run, its steps,
    the attempts of its tasks, timers and children. A span is sent when its result is recorded, by one
    process, and again only after a crash, with the same ids. What a collector does not take is sent again
    for an hour.

    Attributes:
        endpoint: URL of the collector, such as ``http://127.0.0.1:4318``.
        service_name: Name of the service in traces.
        headers: Headers of the requests, such as the key of a hosted collector.
        protocol: ``"http/protobuf"``, or ``"grpc"`` for a URL such as ``http://127.0.0.1:4317``.
    """

    endpoint: str | Secret
    service_name: str = "aios"
    headers: Mapping[str, str | Secret] = field(default_factory=dict)
    protocol: str = "http/protobuf"

    def _native(self) -> NativeCollector:
        headers = [(name, exposed(value)) for name, value in self.headers.items()]
        return exposed(self.endpoint), self.service_name, headers, self.protocol


@dataclass(frozen=True)
class MetricsCollector:
    """A collector that accepts metrics by OTLP, such as the OpenTelemetry Collector.

    A :class:`Runtime` sends it the metrics of its process when it opens, at each interval, and when it is
    closed. Their values are cumulative, so an export that fails is repeated by the next one. Each process
    has a random ``service.instance.id``.

    Attributes:
        endpoint: URL of the collector, such as ``http://127.0.0.1:4318``.
        service_name: Name of the service.
        headers: Headers of the requests, such as the key of a hosted collector.
        interval: How many seconds are between two exports, from 1 to 86,400.
        protocol: ``"http/protobuf"``, or ``"grpc"`` for a URL such as ``http://127.0.0.1:4317``.
    """

    endpoint: str | Secret
    service_name: str = "aios"
    headers: Mapping[str, str | Secret] = field(default_factory=dict)
    interval: float = 60.0
    protocol: str = "http/protobuf"

    def _native(self) -> tuple[NativeCollector, float]:
        headers = [(name, exposed(value)) for name, value in self.headers.items()]
        collector = (exposed(self.endpoint), self.service_name, headers, self.protocol)
        return collector, self.interval
