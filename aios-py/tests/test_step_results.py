"""Return annotations of steps: which are read, and what happens to those that are not."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import gc
import json
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NewType

import aios
import pytest
from aios._clients import results
from aios.testing import WorkflowTest

if TYPE_CHECKING:
    from somewhere import Missing  # type: ignore[import-not-found] # pyright: ignore

DAY = datetime.date(2024, 1, 2)


class Currency(enum.StrEnum):
    EUR = "EUR"


Sku = NewType("Sku", str)


def prices() -> dict[Currency, decimal.Decimal]:
    return {Currency.EUR: decimal.Decimal("1.50")}


def days() -> Iterable[datetime.date]:
    return [DAY]


def by_sku() -> dict[Sku, datetime.date]:
    return {Sku("a"): DAY}


def unresolved(argument: Missing | None = None) -> Missing:
    return 1


def only_the_argument(argument: Missing | None = None) -> datetime.date:
    return DAY


def unreadable() -> complex:
    return 1j


def numbers() -> Iterator[int]:
    yield 1


async def later_numbers() -> AsyncIterator[int]:
    yield 1


async def run(function: Callable[..., Any], *arguments: Any) -> Any:
    @aios.workflow("runs")
    async def runs(context: aios.WorkflowContext) -> str:
        found = await context.step("step", function, *arguments)
        return repr(found)

    return (await WorkflowTest(runs).run()).result()


@pytest.mark.parametrize("function", [prices, days, by_sku, only_the_argument])
async def test_should_read_the_result_of_a_step(function: Callable[[], Any]) -> None:
    assert await run(function) == repr(function())


async def test_should_keep_the_result_of_a_builtin_as_json() -> None:
    assert await run(json.loads, '{"a": 1}') == "{'a': 1}"
    assert await run(len, "abc") == "3"


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (
            unresolved,
            "result of step 'step' can't be read: name 'Missing' is not defined; annotate",
        ),
        (unreadable, "result of step 'step' can't be read: complex can't be read from JSON"),
        (numbers, "function of step 'step' must return its result, not yield pieces of it"),
        (later_numbers, "function of step 'step' must return its result, not yield pieces of it"),
    ],
)
async def test_should_refuse_a_step_whose_result_cannot_be_read(
    function: Callable[[], Any], fault: str
) -> None:
    with pytest.raises(aios.RunFailedError, match=fault):
        await run(function)


async def test_should_resolve_local_names() -> None:
    @aios.workflow("local")
    async def local(context: aios.WorkflowContext) -> list[str]:
        @dataclasses.dataclass
        class Row:
            day: datetime.date

        made = Row(DAY)

        def used() -> Row:
            return Row(DAY)

        def unused() -> Row:
            return made

        return [repr(await context.step("step", function)) for function in (used, unused)]

    found = (await WorkflowTest(local).run()).result()
    assert [it.endswith("Row(day=datetime.date(2024, 1, 2))") for it in found] == [True, True]


def test_should_not_keep_the_types_of_all_steps() -> None:
    def define() -> Callable[[], Any]:
        @dataclasses.dataclass
        class Row:
            number: int

        def function() -> Any:
            return Row(1)

        function.__annotations__["return"] = Row
        return function

    first = define()
    results.step_result_reader("step", first)
    kind = weakref.ref(first.__annotations__["return"])
    del first
    for _ in range(3000):
        function = define()
        results.step_result_reader("step", function)
        results.result_reader(function.__annotations__["return"], "answer", "agent")
    gc.collect()
    assert kind() is None
    assert len(results._step_readers) + len(results._readers) < 3000
