"""Durable, event-driven AI agents and workflows.

Example::

    import aios

    @aios.agent("greeter")
    async def greet(context: aios.TaskContext, name: str) -> str:
        return f"Hello, {name}"

    @aios.workflow("welcome")
    async def welcome(context: aios.WorkflowContext, names: list[str]) -> list[str]:
        return await context.gather(*(context.task("greeter", name) for name in names))

    async with aios.Runtime(store="sqlite://aios.db", agents=[greet], workflows=[welcome]) as runtime:
        run = await runtime.start(welcome, ["Ada", "Grace"], id="welcome-1")
        print(await run.result())
"""

from . import team
from ._agent import TaskContext, agent
from ._aios import __version__
from ._clients.client import Client
from ._clients.handle import RunHandle
from ._clients.output import OutputItem, OutputStream
from ._clients.records import (
    AgentStatus,
    Event,
    Failure,
    Page,
    RecordedEvent,
    RunState,
    RunStatus,
    TaskStatus,
    WorkflowStatus,
)
from ._clients.remote import RemoteClient
from ._clients.resources import AgentType, DeadLetter, ManagedAgent, TokenGrant
from ._clients.stream import EventStream
from ._errors import (
    AgentNotFoundError,
    AiosError,
    BrokerError,
    ConfigurationError,
    DeadLetterNotFoundError,
    ForkedError,
    InvalidDataError,
    InvalidOutputError,
    InvalidParametersError,
    InvalidResultError,
    JournalMismatchError,
    ModelError,
    NoFailedOperationError,
    OperationNotFoundError,
    RunBlockedError,
    RunCancelledError,
    RunEndedError,
    RunError,
    RunExistsError,
    RunFailedError,
    RunNotFailedError,
    RunNotFoundError,
    RuntimeClosedError,
    ServiceError,
    ShutdownTimeoutError,
    SignalTimeoutError,
    StoreError,
    StoreLockedError,
    TaskCancelledError,
    TaskError,
    TaskInterruptedError,
    TaskTimeoutError,
    WorkflowCodeError,
    WorkflowNotFoundError,
    WrongLoopError,
)
from ._factory import AgentFactory
from ._llm.agent import Compaction, Handover, LlmAgent, Prompt
from ._llm.budget import BUDGET_SIGNAL, Budget, BudgetDecision, Limits, Price, SubjectBudget
from ._llm.conversation import Conversation, ConversationRun, Turn
from ._llm.decisions import PendingDecision, pending_decisions
from ._llm.guardrail import Guardrail, input_guardrail, output_guardrail
from ._llm.model import AwsCredentials, ModelResponse, Provider, ToolCall
from ._llm.models import (
    CachedModel,
    Circuit,
    CircuitBreakerModel,
    ClientModel,
    FallbackModel,
    Rate,
    RateLimitModel,
)
from ._llm.tool import Tool, ToolContext, tool
from ._projection import Batch, ProjectionDeadLetter, ProjectionHandle
from ._retry import RetryPolicy
from ._runtime import Runtime
from ._secret import Secret
from ._service.asgi import ApiKey, Asgi, TokenIssuer, asgi
from ._service.collector import MetricsCollector, TraceCollector
from ._service.log_format import JsonFormatter, NotReplayedFilter, configure_logging
from ._service.serve import serve
from ._service.settings import Settings, SettingsEntry
from ._trace import traceparent
from ._workflows.context import WorkflowContext
from ._workflows.definition import ContinueAsNew, Workflow, workflow
from ._workflows.fence import Fence
from ._workflows.steps import StepContext, current_step

__all__ = [
    "BUDGET_SIGNAL",
    "AgentFactory",
    "AgentNotFoundError",
    "AgentStatus",
    "AgentType",
    "AiosError",
    "ApiKey",
    "Asgi",
    "AwsCredentials",
    "Batch",
    "BrokerError",
    "Budget",
    "BudgetDecision",
    "CachedModel",
    "Circuit",
    "CircuitBreakerModel",
    "Client",
    "ClientModel",
    "Compaction",
    "ConfigurationError",
    "ContinueAsNew",
    "Conversation",
    "ConversationRun",
    "DeadLetter",
    "DeadLetterNotFoundError",
    "Event",
    "EventStream",
    "Failure",
    "FallbackModel",
    "Fence",
    "ForkedError",
    "Guardrail",
    "Handover",
    "InvalidDataError",
    "InvalidOutputError",
    "InvalidParametersError",
    "InvalidResultError",
    "JournalMismatchError",
    "JsonFormatter",
    "Limits",
    "LlmAgent",
    "ManagedAgent",
    "MetricsCollector",
    "ModelError",
    "ModelResponse",
    "NoFailedOperationError",
    "NotReplayedFilter",
    "OperationNotFoundError",
    "OutputItem",
    "OutputStream",
    "Page",
    "PendingDecision",
    "Price",
    "ProjectionDeadLetter",
    "ProjectionHandle",
    "Prompt",
    "Provider",
    "Rate",
    "RateLimitModel",
    "RecordedEvent",
    "RemoteClient",
    "RetryPolicy",
    "RunBlockedError",
    "RunCancelledError",
    "RunEndedError",
    "RunError",
    "RunExistsError",
    "RunFailedError",
    "RunHandle",
    "RunNotFailedError",
    "RunNotFoundError",
    "RunState",
    "RunStatus",
    "Runtime",
    "RuntimeClosedError",
    "Secret",
    "ServiceError",
    "Settings",
    "SettingsEntry",
    "ShutdownTimeoutError",
    "SignalTimeoutError",
    "StepContext",
    "StoreError",
    "StoreLockedError",
    "SubjectBudget",
    "TaskCancelledError",
    "TaskContext",
    "TaskError",
    "TaskInterruptedError",
    "TaskStatus",
    "TaskTimeoutError",
    "TokenGrant",
    "TokenIssuer",
    "Tool",
    "ToolCall",
    "ToolContext",
    "TraceCollector",
    "Turn",
    "Workflow",
    "WorkflowCodeError",
    "WorkflowContext",
    "WorkflowNotFoundError",
    "WorkflowStatus",
    "WrongLoopError",
    "__version__",
    "agent",
    "asgi",
    "configure_logging",
    "current_step",
    "input_guardrail",
    "output_guardrail",
    "pending_decisions",
    "serve",
    "team",
    "tool",
    "traceparent",
    "workflow",
]
