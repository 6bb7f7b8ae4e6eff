"""Retry policies."""

from __future__ import annotations

from typing import Any, NamedTuple

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


def retry_row(policy: RetryPolicy | None) -> tuple[Any, ...] | None:
    """The policy as the native module takes it, which checks the ranges of delays, factor and jitter.

    Raises:
        TypeError: It is not a policy, or a field has another type.
        ConfigurationError: The number of attempts is out of range.
    """
    if policy is None:
        return None
    from ._types.validation import check_int_range, is_number

    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"retry must be an aios.RetryPolicy, not {policy!r}")
    check_int_range(policy.max_attempts, "max_attempts of a RetryPolicy", 0, 2**32 - 1)
    for name in ("initial_delay", "factor", "max_delay", "jitter"):
        if not is_number(getattr(policy, name)):
            raise TypeError(
                f"{name} of a RetryPolicy must be a number, not {getattr(policy, name)!r}"
            )
    codes: Any = policy.non_retryable
    if isinstance(codes, str) or not all(isinstance(code, str) for code in codes):
        raise TypeError(f"non_retryable of a RetryPolicy must be a tuple of str, not {codes!r}")
    return (*policy[:5], tuple(codes))
