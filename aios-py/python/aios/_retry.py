"""Retry policies."""

from __future__ import annotations

from typing import NamedTuple

from ._aios import DEFAULTS


class RetryPolicy(NamedTuple):
    """A retry policy: exponential backoff with a cap, jitter, and a maximum number of attempts.

    By default there are 5 attempts. The first delay is 1 s, and delays double up to 1 minute, half of
    each being random.

    Attributes:
        max_attempts: Maximum number of attempts, including the first; 0 means no limit.
        initial_delay: Delay after the first failure, in seconds.
        factor: Factor by which each further delay grows; below 1 counts as 1.
        max_delay: Longest delay, in seconds.
        jitter: Random fraction of each delay, 0 to 1.
        non_retryable: Failure codes that are not retried.
    """

    max_attempts: int = DEFAULTS.retry_max_attempts
    initial_delay: float = DEFAULTS.retry_initial_delay
    factor: float = DEFAULTS.retry_factor
    max_delay: float = DEFAULTS.retry_max_delay
    jitter: float = DEFAULTS.retry_jitter
    non_retryable: tuple[str, ...] = ()

    @classmethod
    def never(cls) -> RetryPolicy:
        """A policy with one attempt."""
        return cls(max_attempts=1)

    @classmethod
    def fixed(cls, max_attempts: int, delay: float) -> RetryPolicy:
        """A policy with a constant delay, in seconds, and no jitter."""
        return cls(max_attempts, delay, 1.0, delay, 0.0)
