"""``context.gather`` and ``context.race``: several awaitables of a workflow at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from sys import getrefcount
from types import CoroutineType
from typing import Any

from ._aios import Operation
from ._errors import WorkflowCodeError

UNSUPPORTED_AWAIT = (
    "a workflow can only await operations of its context (task, step, sleep, signal, child, gather, "
    "race); instead of asyncio.sleep use `await context.sleep(seconds)`, instead of asyncio.gather "
    "`await context.gather(...)`, and put everything else into an async function and "
    '`await context.step("name", function)`'
)


class AwaitedKeys(list[int]):
    """Keys of the operations that a group waits for. The group yields it to its caller."""

    __slots__ = ()


class _Branch:
    """One of the awaitables of a group."""

    __slots__ = ("_send", "_steps", "awaitable", "is_done", "value")

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        steps: Any = awaitable.__await__()
        self.awaitable: Any = awaitable
        self._steps: Any = steps
        send: Callable[[Any], Any] | None = getattr(steps, "send", None)
        self._send: Any = send if send is not None else lambda _: next(steps)
        self.is_done = False
        self.value: Any = None

    def advance(self, key: int | None) -> Sequence[int]:
        """Resumes the branch. Returns the keys of the operations that it waits for now; none if it is
        done."""
        try:
            yielded = self._send(key)
        except StopIteration as stop:
            self.value = stop.value
            self.is_done = True
            return ()
        if type(yielded) is Operation:
            return (yielded.key,)
        if type(yielded) is AwaitedKeys:
            return yielded
        unsupported = WorkflowCodeError(f"{yielded!r} was awaited: {UNSUPPORTED_AWAIT}")
        throw = getattr(self._steps, "throw", None)
        if throw is not None:
            throw(unsupported)
        raise unsupported

    def cancel(self) -> None:
        """Closes the awaitable, unless the workflow still refers to it and may await it again."""
        steps, self._steps, self._send = self._steps, None, None
        awaitable: Any = self.awaitable
        if awaitable is None:
            return
        if type(awaitable) is not Operation and type(awaitable) is not CoroutineType:
            # Any other awaitable makes a new iterator per await, so this one can't be resumed.
            close = getattr(steps, "close", None)
            if close is not None:
                close()
        del steps, awaitable
        if _reference_count(self) <= _UNSHARED:
            close = getattr(self.awaitable, "close", None)
            if close is not None:
                close()
        self.awaitable = None


def _reference_count(branch: _Branch) -> int:
    return getrefcount(branch.awaitable)


class _Unshared:
    """An awaitable to which only its branch refers."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        yield None


def _measure_unshared() -> int:
    branch = _Branch(_Unshared())
    branch._steps = branch._send = None
    return _reference_count(branch)


#: Reference count of an awaitable to which the workflow does not refer.
_UNSHARED = _measure_unshared()


class _Group:
    """Awaitables that run concurrently. Only branches whose operations have an outcome advance."""

    __slots__ = ("_branches", "_waiting")

    def __init__(self, awaitables: Sequence[Awaitable[Any]]) -> None:
        self._branches = [_Branch(awaitable) for awaitable in awaitables]
        self._waiting: dict[int, list[int]] = {}

    def _run(self) -> Generator[Any, Any, None]:
        """Starts every branch, then advances branches until the group is done."""
        keys = AwaitedKeys()
        for index in range(len(self._branches)):
            self._advance(index, None, keys)
            if self._is_done(index):
                return
        while True:
            key = yield keys
            keys = AwaitedKeys()
            for index in self._waiting.pop(key, ()):
                if not self._branches[index].is_done:
                    self._advance(index, key, keys)
                    if self._is_done(index):
                        return

    def _advance(self, index: int, key: int | None, keys: AwaitedKeys) -> None:
        """Advances a branch, and adds the keys that no branch waited for before."""
        for wanted in self._poll(self._branches[index], key):
            waiting = self._waiting.get(wanted)
            if waiting is None:
                self._waiting[wanted] = [index]
                keys.append(wanted)
            elif index not in waiting:
                waiting.append(index)

    def _poll(self, branch: _Branch, key: int | None) -> Sequence[int]:
        return branch.advance(key)

    def _is_done(self, index: int) -> bool:
        """Whether the group is done, after a branch has advanced."""
        raise NotImplementedError

    def _cancel(self) -> None:
        for branch in self._branches:
            if not branch.is_done:
                branch.cancel()


class Gather(_Group):
    """Waits for all branches."""

    __slots__ = ("_keep_errors", "_left")

    def __init__(self, awaitables: Sequence[Awaitable[Any]], keep_errors: bool) -> None:
        super().__init__(awaitables)
        self._keep_errors = keep_errors
        self._left = len(self._branches)

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        try:
            if self._branches:
                yield from self._run()
        finally:
            self._cancel()
        return [branch.value for branch in self._branches]

    def _is_done(self, index: int) -> bool:
        if self._branches[index].is_done:
            self._left -= 1
        return self._left == 0

    def _poll(self, branch: _Branch, key: int | None) -> Sequence[int]:
        if not self._keep_errors:
            return branch.advance(key)
        try:
            return branch.advance(key)
        except WorkflowCodeError:
            raise
        except Exception as error:
            branch.value = error
            branch.is_done = True
            return ()


class Race(_Group):
    """Waits for the first branch that is done."""

    __slots__ = ("_winner",)

    def __init__(self, awaitables: Sequence[Awaitable[Any]]) -> None:
        super().__init__(awaitables)
        self._winner = 0

    def __await__(self) -> Generator[Any, Any, tuple[int, Any]]:
        try:
            yield from self._run()
        finally:
            self._cancel()
        return self._winner, self._branches[self._winner].value

    def _is_done(self, index: int) -> bool:
        self._winner = index
        return self._branches[index].is_done
