"""Factories: agents that are created from their configs while processes run."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._agent import _MARKER, AgentMarker, BoundAgent, BoundFactory, bind_code
from ._errors import ConfigurationError

if TYPE_CHECKING:
    from ._aios import Creation


class AgentFactory:
    """Creates the agents of a type from their configs. Pass it to a :class:`aios.Runtime` among its
    ``agents``.

    Agents of the type are created, replaced, deleted and restarted while processes run, over the HTTP
    API: see :meth:`aios.RemoteClient.create_agent`. Every process with a factory of the type hosts all
    of them, even after a restart, and even without a store.

    An object is created on the event loop if ``process_task`` is an ``async def``, and otherwise in a
    thread. If that raises, it is tried again with back-off, unless the error is
    :meth:`TaskError.terminal`. A config that does not match the annotation is refused when the agent is
    created.
    """

    def __init__(self, kind: type[Any]) -> None:
        """
        Args:
            kind: A class decorated with :func:`agent`, whose ``__init__`` takes the config, or nothing
                else than ``self``.

        Raises:
            ConfigurationError: It is not such a class.
        """
        marker = getattr(kind, _MARKER, None)
        if not isinstance(kind, type) or not isinstance(marker, AgentMarker):
            raise ConfigurationError(
                f"a factory takes a class that is decorated with @aios.agent(type), not {kind!r}"
            )
        if not callable(getattr(kind, "process_task", None)):
            raise ConfigurationError(f"agent {marker.agent_type} has no method process_task")
        self.kind = kind
        self._agent = marker
        setattr(self, _MARKER, marker)
        self._config = _config_of(kind, marker)

    def bind(self) -> BoundAgent:
        """Converts the factory for the native module."""
        from ._aios import dumps
        from ._llm.functions import bind_function
        from ._types.convert import root_schema

        objects: dict[int, Any] = {}
        keys = itertools.count(1)

        def make(config: Any, creation: Creation) -> None:
            key = next(keys)
            objects[key] = self._create(config)
            if not creation.keep(key):
                # The agent was deleted, or the time limit has passed.
                del objects[key]

        async def make_on_loop(config: Any, creation: Creation) -> None:
            make(config, creation)

        def release(key: int) -> None:
            objects.pop(key, None)

        # Bound to nothing: only its signature is read.
        found: Any = inspect.getattr_static(self.kind, "process_task")
        code: Callable[..., Any] = (
            found.__get__(object(), self.kind) if hasattr(found, "__get__") else found
        )
        bound = bind_code(self._agent, code, lambda key: objects[key].process_task)
        schema = {"type": "null"} if self._config is None else root_schema(self._config.schema)
        creating = bind_function(make_on_loop if bound.is_async else make, None)
        factory = BoundFactory(dumps(schema), creating.invoke, release)
        return bound._replace(factory=factory)

    def _create(self, config: Any) -> Any:
        if self._config is None:
            return self.kind()
        return self.kind(self._config.read(config, f"the config of agent {self._agent.agent_type}"))

    def __repr__(self) -> str:
        return f"<aios.AgentFactory {self._agent.agent_type}>"


def _config_of(kind: type[Any], marker: AgentMarker) -> Any:
    """The converter of the config; ``None`` if there is none.

    Raises:
        ConfigurationError: The class takes other parameters, or a type that can't be read from JSON.
    """
    from ._types.annotations import signature_of
    from ._types.convert import Converter
    from ._types.signature import hints

    parameters = list(signature_of(kind).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) > 1 or any(it.kind not in positional for it in parameters):
        raise ConfigurationError(
            f"{kind.__name__} of agent {marker.agent_type} must take one config, or nothing"
        )
    if not parameters:
        return None
    annotation = hints(kind.__init__, marker.names).get(parameters[0].name, Any)
    try:
        return Converter(annotation)
    except TypeError as error:
        raise ConfigurationError(f"the config of agent {marker.agent_type}: {error}") from error
