"""Teams: a workflow runs several agents as child runs, and joins or races them.

Example::

    @aios.workflow("compare")
    async def compare(context: aios.WorkflowContext, question: str) -> list[str]:
        return await aios.team.join(context, [(optimist, question), (pessimist, question)])
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ._errors import AiosError, InvalidParametersError, WorkflowCodeError

if TYPE_CHECKING:
    from ._llm.agent import LlmAgent
    from ._workflows.context import WorkflowContext

T = TypeVar("T")

__all__ = ["join", "race"]


async def join(
    context: WorkflowContext,
    agents: Iterable[tuple[LlmAgent[T] | str, Any]],
    *,
    return_exceptions: bool = False,
) -> list[T]:
    """Runs agents as child runs, each with a prompt, and waits for all. The results are in the order
    of the agents.

    Each agent has its own budget. A child is cancelled with the run.

    Args:
        context: The context of the workflow.
        agents: Agents, or their names, with their prompts.
        return_exceptions: Returns the failures among the results. Otherwise the first one is raised,
            and the other children continue as children of the run.

    Raises:
        TaskError: A child failed; ``code`` is the code of its failure.
    """
    children = [context.child(agent, prompt) for agent, prompt in agents]
    return await context.gather(*children, return_exceptions=return_exceptions)


async def race(
    context: WorkflowContext, agents: Iterable[tuple[LlmAgent[T] | str, Any]]
) -> tuple[int, T]:
    """Runs agents as child runs, each with a prompt, and waits for the first result: in every replay,
    the one that is first in the journal. An agent that fails does not win. The others are cancelled.

    Args:
        context: The context of the workflow.
        agents: Agents, or their names, with their prompts.

    Returns:
        The number of the agent, from 0, and its result.

    Raises:
        TaskError: All have failed; this is the failure of the last one.
        InvalidParametersError: There are no agents.
    """
    children = [context.child(agent, prompt, cancel_when_dropped=True) for agent, prompt in agents]
    running = [_outcome(number, child) for number, child in enumerate(children)]
    children.clear()
    last: AiosError = InvalidParametersError("a race needs at least one agent", retryable=False)
    try:
        while running:
            place, (number, result, failure) = await context.race(*running)
            del running[place]
            if failure is None:
                return number, result
            last = failure
    finally:
        for loser in running:
            loser.close()
    raise last


async def _outcome(number: int, child: Awaitable[T]) -> tuple[int, Any, AiosError | None]:
    try:
        return number, await child, None
    except WorkflowCodeError:
        raise
    except AiosError as error:
        return number, None, error
