"""Budgets of agents over language models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .._errors import ConfigurationError
from .._types.validation import (
    check_at_least,
    check_int_range,
    check_range,
    check_seconds,
    is_number,
)

if TYPE_CHECKING:
    from .._clients.client import Client

#: Name of the signal that carries a :class:`BudgetDecision`.
BUDGET_SIGNAL = "budget"
_NANODOLLARS = 1_000_000_000
#: Larger amounts, which no run reaches, count as this one.
_MOST = 2**62


def _check_amount(amount: float, what: str) -> None:
    """Checks a number of dollars or seconds.

    Raises:
        TypeError: It is not a number.
        ConfigurationError: It is negative or not finite.
    """
    if not is_number(amount):
        raise TypeError(f"{what} must be a number, not {amount!r}")
    if not 0 <= amount < math.inf:
        raise ConfigurationError(f"{what} must be at least 0, not {amount}")


@dataclass(frozen=True)
class Price:
    """The price of a model in dollars for a million tokens.

    Raises:
        ConfigurationError: A price is negative or not finite.
    """

    input: float
    output: float
    cached_input: float | None = None

    def __post_init__(self) -> None:
        for name in Price.__dataclass_fields__:
            if name != "cached_input" or self.cached_input is not None:
                _check_amount(getattr(self, name), name)

    def _row(self) -> tuple[float, float, float | None]:
        return (self.input, self.output, self.cached_input)


@dataclass(frozen=True)
class Limits:
    """Limits of a run and of the agents that it calls. A limit that is ``None`` does not apply.

    Attributes:
        requests: Requests to models, including failed ones.
        input_tokens: Input tokens, including cached ones.
        output_tokens: Output tokens, including reasoning.
        cost: Dollars, according to the prices of the budget.
        tool_calls: Tool calls that run.
        wall_time: Seconds since the start of the run.
        depth: Levels of child runs below the run; 0 means none. Without it, 4 levels.

    Raises:
        TypeError: A limit that counts something is not an integer.
        ConfigurationError: A limit is negative or too large.
    """

    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    tool_calls: int | None = None
    wall_time: float | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        for name in Limits.__dataclass_fields__:
            limit = getattr(self, name)
            if limit is None:
                continue
            if name == "depth":
                check_int_range(limit, name, 0, 2**32 - 1)
            elif name not in ("cost", "wall_time"):
                check_at_least(limit, name, 0)
            else:
                _check_amount(limit, name)

    def _limits(self) -> dict[str, Any]:
        """The limits in the form of events and signals."""
        row = {name: getattr(self, name) for name in Limits.__dataclass_fields__}
        if self.cost is not None:
            row["cost"] = round(min(self.cost * _NANODOLLARS, _MOST))
        if self.wall_time is not None:
            fraction, seconds = math.modf(min(self.wall_time, _MOST))
            row["wall_time"] = {"secs": int(seconds), "nanos": int(fraction * 1e9)}
        return {name: limit for name, limit in row.items() if limit is not None}


@dataclass(frozen=True)
class Budget(Limits):
    """Limits of each run of an agent, and what happens at them.

    Attributes:
        soft_percent: Share of a limit, 1 to 100, at which the model is warned.
        at_limit: ``"fail"`` fails the run with ``BUDGET_EXCEEDED``; ``"ask"`` waits for the signal
            ``budget`` with a :class:`BudgetDecision`; ``"cheaper_model"`` continues with the
            ``cheaper_model`` of the agent when the cost does not allow another whole response of its
            own model, and fails at other limits.
        prices: The prices of models by name, such as ``"openai:gpt-5"``.
        unknown_price: What happens if the cost of the run or of its subject is limited and a model has
            no price: ``"fail"`` fails the run with ``UNKNOWN_PRICE``, ``"free"`` counts nothing, and
            a :class:`Price` is assumed.
    """

    soft_percent: int = 80
    at_limit: Literal["fail", "ask", "cheaper_model"] = "fail"
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    unknown_price: Literal["fail", "free"] | Price = "fail"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_limit not in ("fail", "ask", "cheaper_model"):
            raise ConfigurationError(
                f"at_limit is 'fail', 'ask' or 'cheaper_model', not {self.at_limit!r}"
            )
        if not isinstance(self.unknown_price, Price) and self.unknown_price not in ("fail", "free"):
            raise ConfigurationError(
                f"unknown_price is 'fail', 'free' or an aios.Price, not {self.unknown_price!r}"
            )
        check_range(self.soft_percent, "soft_percent", 100)
        if not isinstance(self.prices, Mapping):
            raise TypeError(f"prices must be a mapping of names to aios.Price, not {self.prices!r}")
        for model, price in self.prices.items():
            if not isinstance(model, str) or not isinstance(price, Price):
                raise TypeError(
                    f"the price of model {model!r} must be an aios.Price, not {price!r}"
                )

    def _row(self) -> dict[str, Any]:
        """The budget as the native module takes it."""
        unknown = self.unknown_price
        return {
            "limits": self._limits(),
            "soft_percent": self.soft_percent,
            "at_limit": self.at_limit,
            "prices": [(model, price._row()) for model, price in self.prices.items()],
            "unknown_price": {"assume": unknown._row()} if isinstance(unknown, Price) else unknown,
        }


@dataclass(frozen=True)
class SubjectBudget:
    """Limits of all runs of a subject together in a window of time: of a customer in a day, say.

    The subject is that of the :class:`Prompt`, and agents that a run calls have the same one.
    One that has no budget for subjects itself is charged when it has ended, by the run that called it. Windows
    follow each other without gaps from 1970 on. The sums are in the log of the runtime's store: all
    agents with the same window share those of a subject. Each request takes two more commits.

    Attributes:
        window: Length of a window in seconds, at least 1.
        limits: The limits; those of wall time and depth have no effect.

    Raises:
        ConfigurationError: The window is too short.
    """

    window: float
    limits: Limits

    def __post_init__(self) -> None:
        if not check_seconds(self.window, "window") >= 1:
            raise ConfigurationError(f"window must be at least 1 second, not {self.window}")
        if not isinstance(self.limits, Limits):
            raise TypeError(f"limits must be an aios.Limits, not {self.limits!r}")

    async def spent(self, client: Client, subject: str) -> dict[str, Any]:
        """The sums of a subject in the present window, settled and reserved: ``requests``, ``usage``,
        ``cost`` (billionths of a dollar) and ``tool_calls``.

        Args:
            client: An open client or runtime with the store.
            subject: The subject.

        Raises:
            ConfigurationError: The client has no store.
            StoreError: The store failed.
        """
        from .._aios import NativeClient, subject_spent

        native = client._opened()
        if not isinstance(native, NativeClient):
            raise ConfigurationError("the sums of a subject are in the store; use an aios.Client")
        spent: dict[str, Any] = await subject_spent(native, self.window, subject)
        return spent

    def _row(self) -> dict[str, Any]:
        return {"window": float(self.window), "limits": self.limits._limits()}


class BudgetDecision:
    """Decisions about a run that waits at a limit: ``await run.signal(aios.BUDGET_SIGNAL,
    aios.BudgetDecision.raise_to(aios.Limits(requests=40)))``."""

    @staticmethod
    def raise_to(limits: Limits) -> dict[str, Any]:
        """The run continues with these limits; those that are ``None`` stay as they are. The limits of
        a subject change for the rest of the window."""
        return {"decision": "raise", "limits": limits._limits()}

    @staticmethod
    def stop() -> dict[str, Any]:
        """The run fails with ``BUDGET_EXCEEDED``."""
        return {"decision": "stop"}
