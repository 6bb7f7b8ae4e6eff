"""Agents and workflows as tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from .._aios import DEFAULTS, dumps
from .._errors import ConfigurationError
from .._types.convert import root_schema
from .._types.validation import check_name
from .._workflows.definition import Workflow
from .budget import Limits
from .tool import BoundTool, ChildOptions, OnFailure, Tool

if TYPE_CHECKING:
    from .agent import LlmAgent

#: Schema of the arguments of an agent; the native module has the same.
_ASSIGNMENT = {
    "type": "object",
    "properties": {"task": {"type": "string"}},
    "required": ["task"],
}


class ChildTool(Tool):
    """A tool whose calls are child runs."""

    def __init__(
        self,
        name: str,
        description: str,
        child: Mapping[str, Any],
        schema: dict[str, Any],
        options: ChildOptions,
    ) -> None:
        if options.on_failure not in get_args(OnFailure):
            raise ConfigurationError(
                f"on_failure of tool {name} is 'tell_model' or 'fail', not {options.on_failure!r}"
            )
        self.name = name
        self.description = description
        self.__doc__ = description
        self.effect = "idempotent"
        self.approval = options.approval
        self.timeout = DEFAULTS.tool_timeout
        self.retry = None
        self.concurrency = options.concurrency
        self.max_result_bytes = (
            DEFAULTS.max_tool_result_bytes
            if options.max_result_bytes is None
            else options.max_result_bytes
        )
        self.schema = schema
        self._check()
        self._child = {**child, "on_failure": options.on_failure}

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"tool {self.name} is a run of {self._child['workflow']}; start it with Runtime.start, or "
            "with context.child in a workflow"
        )

    def bind(self) -> BoundTool:
        """Converts the tool for the native module."""
        return self._bound(None, None, dumps(self._child))


def agent_tool(
    name: str,
    description: str,
    agent: LlmAgent[Any] | str,
    limits: Limits | None,
    options: ChildOptions,
) -> Tool:
    """See :meth:`Tool.agent`."""
    from .agent import LlmAgent

    if not isinstance(agent, (str, LlmAgent)):
        raise ConfigurationError(f"tool {name} calls an aios.LlmAgent or its name, not {agent!r}")
    called = agent if isinstance(agent, str) else agent.name
    check_name(called, "the name of an agent")
    child = {
        "workflow": called,
        "is_agent": True,
        "limits": (limits or Limits())._limits(),
    }
    return ChildTool(name, description, child, _ASSIGNMENT, options)


def workflow_tool(
    name: str,
    description: str,
    workflow: Workflow[Any, Any] | str,
    input_type: Any,
    options: ChildOptions,
) -> Tool:
    """See :meth:`Tool.workflow`."""
    from .agent import LlmAgent

    if isinstance(workflow, LlmAgent):
        raise ConfigurationError(f"{workflow!r} is an agent: write aios.Tool.agent for tool {name}")
    if not isinstance(workflow, (str, Workflow)):
        raise ConfigurationError(
            f"tool {name} starts a workflow or its name, not {workflow!r}; decorate the function with "
            "@aios.workflow(name)"
        )
    schema = _input_schema(name, workflow, input_type)
    called = workflow if isinstance(workflow, str) else workflow.name
    check_name(called, "the name of a workflow")
    child = {"workflow": called, "is_agent": False, "limits": {}}
    return ChildTool(name, description, child, schema, options)


def _input_schema(name: str, workflow: Workflow[Any, Any] | str, input_type: Any) -> dict[str, Any]:
    """The schema of the input of a workflow, which has to be an object."""
    from .._types.convert import Converter

    if input_type is not None:
        try:
            schema = root_schema(Converter(input_type).schema)
        except TypeError as error:
            raise ConfigurationError(f"tool {name}: {error}") from error
    elif isinstance(workflow, str):
        raise ConfigurationError(
            f"tool {name} needs the input_type of workflow {workflow!r}, which is only a name here"
        )
    else:
        converter = workflow._signature.input
        schema = {"type": "object"} if converter is None else root_schema(converter.schema)
    if schema.get("type") != "object":
        raise ConfigurationError(
            f"tool {name} needs an input whose JSON Schema is an object: annotate the input of the "
            "workflow with a dataclass, a TypedDict or a model, or pass input_type"
        )
    return schema
