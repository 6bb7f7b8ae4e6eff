"""Steps get copies of data, so that nothing depends on whether they run or are replayed."""

from __future__ import annotations

import collections
import dataclasses
import threading
from typing import Any, NamedTuple

import aios
import msgspec
import pydantic
import pytest
from aios._workflows.arguments import own_args, own_kwargs


@dataclasses.dataclass
class Order:
    items: list[str]
    next: Order | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    order: Order


class Model(pydantic.BaseModel):
    items: list[str]


class Struct(msgspec.Struct, frozen=True):
    items: list[str]


class Row(NamedTuple):
    items: list[str]


@dataclasses.dataclass
class Mailer:
    """A client, which holds more than data."""

    lock: Any = dataclasses.field(default_factory=threading.Lock)
    sent: list[str] = dataclasses.field(default_factory=list[str])


async def empty_async(items: list[str], *, order: Order) -> int:
    return empty(items, order=order)


def empty(items: list[str], *, order: Order) -> int:
    found = len(items) + len(order.items)
    items.clear()
    order.items.clear()
    if aios.current_step().attempt < 3:
        raise ValueError("again")
    return found


@pytest.mark.parametrize("function", [empty, empty_async])
async def test_should_give_each_attempt_the_same_arguments(function: Any) -> None:
    @aios.workflow("keeping")
    async def keep(context: aios.WorkflowContext) -> tuple[int, list[str], Order]:
        items, order = ["a"], Order(["b", "c"])
        retried = context.with_retry(aios.RetryPolicy(initial_delay=0.001))
        step = retried.step("empty", function, items, order=order)
        items.append("later")
        return await step, items, order

    async with aios.Runtime(workflows=[keep]) as runtime:
        found, items, order = await (await runtime.start(keep)).result()
    assert (found, items, order) == (3, ["a", "later"], Order(["b", "c"]))


async def test_should_pass_a_client_to_a_step_as_it_is() -> None:
    mailer = Mailer()

    def send(mailer: Mailer, text: str) -> None:
        with mailer.lock:
            mailer.sent.append(text)

    @aios.workflow("sending")
    async def sending(context: aios.WorkflowContext) -> None:
        await context.step("send", send, mailer, "x")

    async with aios.Runtime(workflows=[sending]) as runtime:
        await (await runtime.start(sending)).result()
    assert mailer.sent == ["x"]


@pytest.mark.parametrize(
    "value",
    [
        {"a": [{"b"}, bytearray(b"c"), ("d", ["e"])]},
        collections.deque([collections.Counter("ab"), collections.defaultdict(list, {"a": [1]})]),
        Frozen(Order(["a"], Order([]))),
        Model(items=["a"]),
        Struct(["a"]),
        Row(["a"]),
    ],
)
def test_should_copy_data(value: Any) -> None:
    (made,) = own_args((value,))
    assert (made, type(made)) == (value, type(value))
    assert made is not value
    assert own_kwargs({"a": value})["a"] == value
    items = getattr(value, "items", None)
    if isinstance(items, list):
        assert made.items is not items


def test_should_copy_what_is_the_same_object_once() -> None:
    order = Order(["a"])
    order.next = order
    items = [order.items, Mailer()]
    made, copied = own_args((order, items))
    assert made.next is made
    assert copied[0] is made.items is not order.items
    assert copied[1] is items[1]
    # It holds a client.
    holder = Order([Mailer()])  # type: ignore[list-item]
    assert own_args((holder,))[0] is holder
