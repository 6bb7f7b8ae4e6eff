"""Settings of a service: files, environment variables and mounted secrets, checked as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, TypeVar, cast, overload

from .._errors import ConfigurationError, InvalidParametersError
from .._secret import Secret, exposed
from .collector import MetricsCollector, TraceCollector

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


@dataclass(frozen=True)
class UrlSettings:
    """The sections ``database``, ``broker`` and ``redis``.

    Attributes:
        url: The URL; its password is not printed.
    """

    url: Secret | None


@dataclass(frozen=True)
class LogSettings:
    """The section ``log``.

    Attributes:
        level: ``"off"``, ``"error"``, ``"warn"``, ``"info"``, ``"debug"`` or ``"trace"``.
        targets: The levels of single targets.
        format: ``"auto"``, ``"json"`` or ``"text"``. ``"auto"`` is text on a terminal and JSON otherwise.
        output: ``"stderr"`` or ``"stdout"``.
        redact: Names of fields whose values are not written.
    """

    level: str
    targets: Mapping[str, str]
    format: Literal["auto", "json", "text"]
    output: Literal["stderr", "stdout"]
    redact: list[str]


@dataclass(frozen=True)
class AgentSettings:
    """The section ``agent``.

    Attributes:
        timeout: The longest time that an attempt of a task may take, in seconds.
    """

    timeout: float | None


@dataclass(frozen=True)
class RateLimitSettings:
    """The mapping ``rate_limit`` in the section ``http``.

    Attributes:
        requests: How many requests a caller may send in the time.
        per: The time in seconds.
    """

    requests: int
    per: float


@dataclass(frozen=True)
class HttpSettings:
    """The section ``http``.

    Attributes:
        listen: Address and port of the server.
        request_timeout: How long a request may take, in seconds.
        max_body_bytes: Size of the largest body of a request.
        rate_limit: How many requests each caller may send.
    """

    listen: str
    request_timeout: float
    max_body_bytes: int
    rate_limit: RateLimitSettings | None


@dataclass(frozen=True)
class ShutdownSettings:
    """The section ``shutdown``. Times are in seconds.

    Attributes:
        accept_delay: How long connections are accepted after SIGTERM.
        deadline: How long tasks and steps may take to end.
    """

    accept_delay: float
    deadline: float


@dataclass(frozen=True)
class MetricsSettings:
    """The section ``metrics``.

    Attributes:
        enabled: Whether ``python -m aios serve`` answers ``/metrics``. If false, no metrics are sent to a
            collector either: ``telemetry.metrics.endpoint`` must not be set.
    """

    enabled: bool


@dataclass(frozen=True)
class TracesSettings:
    """The mapping ``traces`` in the section ``telemetry``.

    Attributes:
        endpoint: URL of the collector; ``None`` if no traces are sent.
        headers: Headers of the requests to the collector.
        protocol: Protocol of the collector: ``"http/protobuf"`` or ``"grpc"``.
    """

    endpoint: Secret | None
    headers: dict[str, Secret]
    protocol: str


@dataclass(frozen=True)
class MetricsExportSettings:
    """The mapping ``metrics`` in the section ``telemetry``.

    Attributes:
        endpoint: URL of the collector; ``None`` if no metrics are sent.
        headers: Headers of the requests to the collector.
        protocol: Protocol of the collector; see :class:`TracesSettings`.
        interval: How many seconds are between two exports.
    """

    endpoint: Secret | None
    headers: dict[str, Secret]
    protocol: str
    interval: float


@dataclass(frozen=True)
class TelemetrySettings:
    """The section ``telemetry``.

    Attributes:
        service_name: Name of the service in traces and metrics.
        traces: Where traces are sent.
        metrics: Where metrics are sent.
    """

    service_name: str
    traces: TracesSettings
    metrics: MetricsExportSettings


@dataclass(frozen=True)
class ProcessSettings:
    """The section ``process``.

    Attributes:
        roles: Parts of a service that this process runs: ``"engine"``, ``"api"``, ``"agents"``.
    """

    roles: list[str]

    def has(self, role: Literal["engine", "api", "agents"]) -> bool:
        """Whether this process runs the part."""
        return role in self.roles


@dataclass(frozen=True)
class ApiKeySettings:
    """The sections ``anthropic`` and ``openai``.

    Attributes:
        api_key: The key.
    """

    api_key: Secret | None


class SettingsEntry(NamedTuple):
    """A value of settings.

    Attributes:
        key: The key, such as ``database.url``.
        value: The value as people may see it: a secret is ``***``, a URL has no password, and a text
            with references is as the file has it.
        origin: Where the value comes from, such as ``config/base.yaml:3:5``, the name of a variable,
            ``code`` or ``default``.
    """

    key: str
    value: str
    origin: str


class RuntimeOptions(TypedDict):
    """Options of a :class:`Runtime`."""

    store: Secret | None
    broker: Secret | str
    engine: bool
    host: bool
    shutdown_timeout: float
    agent_timeout: float | None
    traces: TraceCollector | None
    metrics: MetricsCollector | None


@dataclass(frozen=True)
class Settings:
    """The settings of a service: the sections that every service has, and your own.

    Layers, of which a later one overrides an earlier one: defaults, ``config/base.yaml``,
    ``config/{AIOS_ENV}.yaml``, the files in ``AIOS_CONFIG_DIR``, environment variables, files that
    variables ``…_FILE`` name, and ``values``. ``AIOS_DATABASE_URL`` sets ``database.url``. The guide
    lists all names. Secrets are never printed.

    Attributes:
        environment: Name of the environment, ``AIOS_ENV``.
        entries: All values with their origins, sorted by key, without secrets.
        ignored_variables: Variables that begin with ``AIOS_`` and set nothing, because no section has
            a similar name, or because of ``other_sections``.
        other_sections: Sections of the files that were left unread.
        similar_names: Which of these variables and sections may be misspelt, and what was probably
            meant.
    """

    environment: str | None
    database: UrlSettings
    broker: UrlSettings
    redis: UrlSettings
    log: LogSettings
    agent: AgentSettings
    http: HttpSettings
    shutdown: ShutdownSettings
    metrics: MetricsSettings
    telemetry: TelemetrySettings
    process: ProcessSettings
    anthropic: ApiKeySettings
    openai: ApiKeySettings
    entries: list[SettingsEntry] = field(repr=False)
    ignored_variables: list[str] = field(repr=False)
    other_sections: list[str] = field(repr=False)
    similar_names: list[str] = field(repr=False)
    _fingerprints: Mapping[str, int] = field(repr=False)
    _sections: Mapping[str, Any] = field(repr=False)
    _sources: Mapping[str, Any] = field(repr=False)

    @classmethod
    def load(
        cls,
        sections: Mapping[str, Any] | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        other_sections: bool = False,
    ) -> Self:
        """Reads all layers. It reads files and blocks.

        Args:
            sections: The names of your own sections with their types: dataclasses, ``TypedDict``,
                models of pydantic or msgspec, or ``dict[str, Any]`` for any keys. A field of the type
                :class:`Secret` (or ``pydantic.SecretStr``) is a secret.
            folder: The folder of ``base.yaml`` and the files of the environments, which must exist;
                by default ``config`` in the current folder, which need not exist.
            environment: Variables instead of those of the process.
            defaults: Defaults of keys such as ``"database.url"``, which every other layer overrides.
            values: Values of keys, over every other layer.
            other_sections: Ignores unknown file sections and variables instead of reporting them,
                whatever their names are.

        Raises:
            ConfigurationError: With the code ``INVALID_SETTINGS`` and a report of all faults. Its
                ``details`` list them, each with ``key``, ``origin`` and ``fault``.
        """
        sources = {
            "sections": dict(sections or {}),
            "folder": None if folder is None else os.fspath(folder),
            "environment": None if environment is None else list(environment.items()),
            "defaults": _plain(defaults),
            "values": _plain(values),
            "other_sections": other_sections,
        }
        return cls._load(sources)

    @classmethod
    def _load(cls, sources: Mapping[str, Any]) -> Self:
        from .._aios import dumps
        from .asgi import _built

        converters = _converters(sources["sections"])
        schemas = [(name, converter.schema) for name, converter in converters.items()]
        row = _built("load_settings")(dumps({**sources, "sections": schemas}))
        return cls(
            environment=row["environment"],
            **_common(row["common"]),
            entries=[SettingsEntry(*entry) for entry in row["entries"]],
            ignored_variables=row["ignored_variables"],
            other_sections=row["other_sections"],
            similar_names=row["similar_names"],
            _fingerprints=row["fingerprints"],
            _sections=_read(converters, row),
            _sources=sources,
        )

    @overload
    def section(self, name: str, kind: type[T]) -> T: ...

    @overload
    def section(self, name: str, kind: None = None) -> Any: ...

    def section(self, name: str, kind: Any = None) -> Any:
        """One of your own sections.

        Args:
            name: Its name.
            kind: Its type, for type checkers.

        Raises:
            ConfigurationError: There is no such section, or it has another type.
        """
        if name not in self._sections:
            known = ", ".join(sorted(self._sections)) or "none"
            raise ConfigurationError(
                f"there is no section {name!r} (own sections: {known}); pass it to Settings.load"
            )
        value = self._sections[name]
        if isinstance(kind, type) and not isinstance(value, kind):
            raise ConfigurationError(
                f"section {name!r} is a {type(value).__qualname__}, not a {kind.__qualname__}"
            )
        return value

    def runtime_options(self) -> RuntimeOptions:
        """Options of a :class:`Runtime`: ``aios.Runtime(**settings.runtime_options(), agents=[...])``.

        The store is that of ``database.url``, or none if this process has only the role ``agents``; the
        broker is that of ``broker.url``, or in memory. ``shutdown.deadline`` limits how long tasks may
        take to end, and ``agent.timeout`` each attempt of a task. Traces are sent to ``telemetry.traces.endpoint`` and metrics to
        ``telemetry.metrics.endpoint``, if they are set.

        Raises:
            ConfigurationError: ``database.url`` is not set, and this process needs it; the protocol of a
                collector is not ``http/protobuf``; or there is a collector of metrics, and
                ``metrics.enabled`` is false.
        """
        needs_store = self.process.has("engine") or self.process.has("api")
        if needs_store and self.database.url is None:
            key, fault = (
                "database.url",
                "missing, expected a URL; set it in a file or as AIOS_DATABASE_URL",
            )
            raise _refused(key, "default", fault)
        return {
            "store": self.database.url if needs_store else None,
            "broker": self.broker.url or "memory://",
            "engine": self.process.has("engine"),
            "host": self.process.has("agents"),
            "shutdown_timeout": self.shutdown.deadline,
            "agent_timeout": self.agent.timeout,
            "traces": self._traces(),
            "metrics": self._metrics(),
        }

    def _traces(self) -> TraceCollector | None:
        name, traces = self.telemetry.service_name, self.telemetry.traces
        if traces.endpoint is None:
            return None
        return TraceCollector(traces.endpoint, name, traces.headers, traces.protocol)

    def _metrics(self) -> MetricsCollector | None:
        name, metrics = self.telemetry.service_name, self.telemetry.metrics
        if metrics.endpoint is None:
            return None
        if not self.metrics.enabled:
            key = "telemetry.metrics.endpoint"
            fault = "set, and metrics.enabled is false"
            raise _refused(key, self.origin(key) or "default", fault)
        return MetricsCollector(
            metrics.endpoint, name, metrics.headers, metrics.interval, metrics.protocol
        )

    def origin(self, key: str) -> str | None:
        """Where the value of a key comes from; ``None`` if it has no value."""
        return next((entry.origin for entry in self.entries if entry.key == key), None)

    def reload(self) -> Self:
        """Reads all layers again, as these settings were loaded.

        Raises:
            ConfigurationError: See :meth:`load`.
        """
        return self._load(self._sources)


def _refused(key: str, origin: str, fault: str) -> ConfigurationError:
    """The report of one fault."""
    return ConfigurationError(
        f"the configuration has 1 fault:\n- {key}: {fault}",
        code="INVALID_SETTINGS",
        details=[{"key": key, "origin": origin, "fault": fault}],
    )


def _plain(values: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    return [
        (key, exposed(value) if isinstance(value, Secret) else value)
        for key, value in (values or {}).items()
    ]


def _common(row: Mapping[str, Any]) -> dict[str, Any]:
    def secret_url(pair: list[str] | None) -> Secret | None:
        return None if pair is None else Secret(pair[0], shown=pair[1])

    def url(name: str) -> UrlSettings:
        return UrlSettings(secret_url(row[name]["url"]))

    def key(name: str) -> ApiKeySettings:
        text = row[name]["api_key"]
        return ApiKeySettings(None if text is None else Secret(text))

    def collector(row: Mapping[str, Any]) -> dict[str, Any]:
        headers = {name: Secret(value) for name, value in row["headers"].items()}
        endpoint = secret_url(row["endpoint"])
        return {"endpoint": endpoint, "headers": headers, "protocol": row["protocol"]}

    limit = row["http"]["rate_limit"]
    telemetry = row["telemetry"]
    rate_limit = None if limit is None else RateLimitSettings(**limit)
    return {
        "database": url("database"),
        "broker": url("broker"),
        "redis": url("redis"),
        "log": LogSettings(**row["log"]),
        "agent": AgentSettings(**row["agent"]),
        "http": HttpSettings(**{**row["http"], "rate_limit": rate_limit}),
        "shutdown": ShutdownSettings(**row["shutdown"]),
        "metrics": MetricsSettings(**row["metrics"]),
        "telemetry": TelemetrySettings(
            telemetry["service_name"],
            TracesSettings(**collector(telemetry["traces"])),
            MetricsExportSettings(
                **collector(telemetry["metrics"]), interval=telemetry["metrics"]["interval"]
            ),
        ),
        "process": ProcessSettings(**row["process"]),
        "anthropic": key("anthropic"),
        "openai": key("openai"),
    }


def _converters(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The converters of the sections."""
    from .._types.convert import Converter, root_schema

    converters: dict[str, Any] = {}
    for name, kind in sections.items():
        try:
            converter = Converter(kind)
        except TypeError as error:
            raise ConfigurationError(f"section {name!r}: {error}") from error
        converter.schema = root_schema(converter.schema)
        converters[name] = converter
    return converters


def _read(converters: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The sections in their types. What a type itself refuses is a fault."""
    origins = {key: origin for key, _, origin in row["entries"]}
    sections: dict[str, Any] = {}
    faults: list[dict[str, str]] = []
    for name, converter in converters.items():
        try:
            sections[name] = converter.read(row["sections"][name], f"section {name}")
        except InvalidParametersError as error:
            for found in cast("list[dict[str, str]]", error.details or []):
                key = (name + found["path"].replace("/", ".")).rstrip(".")
                origin = origins.get(key, "default")
                faults.append({"key": key, "origin": origin, "fault": found["fault"]})
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = "".join(f"\n- {it['origin']}: {it['key']}: {it['fault']}" for it in faults)
        raise ConfigurationError(
            f"the configuration has {count}:{lines}", code="INVALID_SETTINGS", details=faults
        )
    return sections
