"""When to try again."""

from __future__ import annotations

from typing import NamedTuple


class RetryPolicy(NamedTuple):
    """When to try again: exponential delays with a cap, jitter, and an end.

    The default makes 5 attempts, 1 s after the first failure, doubling up to 1 minute, with half of
    each delay left to chance.

    Attributes:
        max_attempts: How often to try at most, the first attempt included; 0 means without end.
        initial_delay: Delay after the first failure, in seconds.
        factor: By what each further delay grows; below 1 counts as 1.
        max_delay: Longest delay, in seconds.
        jitter: Share of each delay that is left to chance, 0 to 1.
        non_retryable: Failure codes that end the attempts at once.
    """

    max_attempts: int = 5
    initial_delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.5
    non_retryable: tuple[str, ...] = ()

    @classmethod
    def never(cls) -> RetryPolicy:
        """One attempt, no second."""
        return cls(max_attempts=1)

    @classmethod
    def fixed(cls, max_attempts: int, delay: float) -> RetryPolicy:
        """The same delay every time, in seconds, without jitter."""
        return cls(max_attempts, delay, 1.0, delay, 0.0)
