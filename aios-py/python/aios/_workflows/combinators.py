"""``context.gather`` and ``context.race``: several awaitables of a workflow at the same time."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from functools import partial
from sys import getrefcount
from types import CoroutineType
from typing import Any
from weakref import WeakKeyDictionary

from .._aios import Operation
from .._errors import WorkflowCodeError
from .definition import continuation_of
from .isolation import Closing, close_branch, foreign_await, note_endless

#: Contexts of coroutines that lost a race and may be awaited again.
_contexts: WeakKeyDictionary[Any, contextvars.Context] = WeakKeyDictionary()


#: How often code may await a group again that has failed with a violation.
_MAX_RAISED = 1000


class AwaitedKeys(list[int]):
    """Keys of the operations that a group waits for. The group yields it to its caller."""

    __slots__ = ()


class _Branch:
    """One of the awaitables of a group. Its code sees a copy of the context variables, like a task of
    asyncio."""

    __slots__ = ("_context", "_send", "_steps", "awaitable", "is_done", "value")

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        kind = type(awaitable)
        self.awaitable: Any = awaitable
        self._steps: Any = awaitable if kind is CoroutineType else None
        self._send: Any = None
        self._context: contextvars.Context | None = None
        if kind is CoroutineType:
            self._context = _contexts.pop(awaitable, None)
        if kind is not Operation and not isinstance(awaitable, _Group):
            context: Any = self._context or contextvars.copy_context()
            self._context = context
        self.is_done = False
        self.value: Any = None

    def begin(self) -> None:
        """Awaits the awaitable, when its group is first awaited. Not before: an operation in a group that
        is never awaited was never awaited either, and says so."""
        awaitable = self.awaitable
        if isinstance(awaitable, _Group):
            awaitable.begin()
        if self._steps is None:
            self._steps = awaitable.__await__()
        steps = self._steps
        send: Callable[[Any], Any] | None = getattr(steps, "send", None)
        self._send = send if send is not None else lambda _: next(steps)
        if self._context is not None:
            self._send = partial(self._context.run, self._send)

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
        unsupported = foreign_await(yielded)
        throw = getattr(self._steps, "throw", None)
        if throw is not None:
            self._in_context(throw, unsupported)
        raise unsupported

    def cancel(self) -> None:
        """Closes the awaitable, unless the workflow still refers to it and may await it again."""
        steps, self._steps, self._send = self._steps, None, None
        awaitable: Any = self.awaitable
        if awaitable is None:
            return
        is_coroutine = type(awaitable) is CoroutineType
        # Such as a coroutine, an operation, or the `anext` of an async generator. Any other awaitable
        # makes a new iterator per await, so this one can't be resumed.
        is_resumable = steps is awaitable
        if not is_resumable:
            if hasattr(steps, "throw"):
                self._in_context(close_branch, steps)
            elif hasattr(steps, "close"):
                self._in_context(steps.close)
        del steps, awaitable
        if _reference_count(self) > _UNSHARED:
            if is_coroutine and self._context is not None:
                _contexts[self.awaitable] = self._context
        elif is_resumable and hasattr(self.awaitable, "throw"):
            self._in_context(close_branch, self.awaitable)
        else:
            close = getattr(self.awaitable, "close", None)
            if close is not None:
                self._in_context(close)
        self.awaitable = None

    def _in_context(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._context is None:
            return function(*args)
        return self._context.run(function, *args)


def _reference_count(branch: _Branch) -> int:
    return getrefcount(branch.awaitable)


class _Unshared:
    """An awaitable to which only its branch refers."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        yield None


def _measure_unshared() -> int:
    branch = _Branch.__new__(_Branch)
    branch.awaitable = _Unshared()
    return _reference_count(branch)


#: Reference count of an awaitable to which the workflow does not refer.
_UNSHARED = _measure_unshared()


class _Group:
    """Awaitables that run concurrently. Only branches whose operations have an outcome advance.

    It can be awaited in several places, and again after it has lost a race: its branches continue.
    """

    __slots__ = ("_branches", "_error", "_has_begun", "_raised", "_waiting")

    def __init__(self, awaitables: Sequence[Awaitable[Any]]) -> None:
        for awaitable in awaitables:
            if not isinstance(awaitable, Awaitable):
                raise _not_awaitable(type(self).__name__.lower(), awaitable)
        self._branches = [_Branch(awaitable) for awaitable in awaitables]
        self._error: BaseException | None = None
        self._has_begun = False
        self._raised = 0
        self._waiting: dict[int, list[int]] = {}

    def begin(self) -> None:
        """Awaits all branches, even if some do not advance because another branch ends first."""
        if self._has_begun:
            return
        self._has_begun = True
        for branch in self._branches:
            try:
                branch.begin()
            except BaseException as error:
                self._error = _copy_of(error)
                raise

    def __await__(self) -> Generator[Any, Any, Any]:
        key: int | None = None
        while True:
            try:
                keys = self._resume(key)
            except BaseException:
                self.close()
                raise
            if self._is_done():
                break
            try:
                key = yield keys
            except (Closing, GeneratorExit):
                if _group_references(self) <= _UNSHARED_GROUP:
                    self.close()
                raise
        self.close()
        return self._value()

    def _resume(self, key: int | None) -> AwaitedKeys:
        """Advances the branches that wait for an operation.

        Returns:
            The keys that no branch waited for before. All keys for which branches wait, if ``key`` is
            ``None`` because this await begins, or if another await of the group has handled it.
        """
        if not self._has_begun:
            self.begin()
        if self._error is not None:
            return self._raise_again(self._error)
        keys = AwaitedKeys()
        if self._is_done():
            return keys
        indexes: Iterable[int] | None = None if key is None else self._waiting.pop(key, None)
        if indexes is None:
            self._waiting.clear()
            indexes = range(len(self._branches))
        for index in indexes:
            branch = self._branches[index]
            if branch.is_done:
                continue
            try:
                wanted = self._poll(branch, key)
            except BaseException as error:
                branch.is_done = True
                self._error = _copy_of(error)
                raise
            for other in wanted:
                self._wait(index, other, keys)
            if branch.is_done:
                self._end(index)
                if self._is_done():
                    break
        return keys

    def _raise_again(self, error: BaseException) -> AwaitedKeys:
        """Raises a copy of the error. Code that catches its own violations in a loop has to yield: nothing
        else leaves it."""
        if isinstance(error, WorkflowCodeError):
            self._raised += 1
            if self._raised > _MAX_RAISED:
                note_endless()
                return AwaitedKeys()
        raise _copy_of(error)

    def _wait(self, index: int, key: int, keys: AwaitedKeys) -> None:
        """Records that a branch waits for a key; adds it to ``keys`` if no branch did before."""
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = [index]
            keys.append(key)
        elif index not in waiting:
            waiting.append(index)

    def _poll(self, branch: _Branch, key: int | None) -> Sequence[int]:
        return branch.advance(key)

    def _end(self, index: int) -> None:
        """Takes note that a branch is done."""
        raise NotImplementedError

    def _is_done(self) -> bool:
        raise NotImplementedError

    def _value(self) -> Any:
        """The value of the group when it is done."""
        raise NotImplementedError

    def close(self) -> None:
        """Cancels the branches that are not done."""
        for branch in self._branches:
            if not branch.is_done:
                branch.cancel()


def _copy_of(error: BaseException) -> BaseException:
    """A copy of an error, which a group raises again. It has no traceback: that would refer to the frames
    which the error passed through, and they to the group, so that the operations in them would not be
    cancelled.

    Calls no code of its class, which may take other arguments than it passes to its base.
    """
    kind = type(error)
    base: Any = next(it for it in kind.__mro__ if it.__module__ == "builtins")
    _, args, *states = base.__reduce__(error)
    try:
        copied: BaseException = base.__new__(kind, *args)
        base.__init__(copied, *args)
    except TypeError:
        # Of a library that is not written in Python.
        return error
    for state in states:
        base.__setstate__(copied, state)
    copied.__cause__ = error.__cause__
    copied.__suppress_context__ = error.__suppress_context__
    return copied


def _group_references(group: object) -> int:
    return getrefcount(group)


class _Closed:
    """Counts the references to itself when an ``await`` of it is closed."""

    def __init__(self, counts: list[int]) -> None:
        self._counts = counts

    def __await__(self) -> Generator[Any, None, None]:
        try:
            yield None
        except Closing:
            self._counts.append(_group_references(self))
            raise


def _measure_unshared_group() -> int:
    counts: list[int] = []
    steps = _Closed(counts).__await__()
    next(steps)
    with contextlib.suppress(Closing):
        steps.throw(Closing)
    return counts[0]


#: Reference count of a group to which only the ``await`` refers.
_UNSHARED_GROUP = _measure_unshared_group()


def _not_awaitable(function: str, value: Any) -> WorkflowCodeError:
    hint = ""
    if isinstance(value, (list, tuple, set, frozenset, Generator)):
        hint = f"; pass the elements: `context.{function}(*items)`"
    elif callable(value):
        hint = "; call it, and pass what it returns"
    kind = type(value).__name__
    return WorkflowCodeError(f"{function} needs awaitables, not a value of type {kind}{hint}")


class Gather(_Group):
    """Waits for all branches."""

    __slots__ = ("_keep_errors", "_left")

    def __init__(self, awaitables: Sequence[Awaitable[Any]], keep_errors: bool) -> None:
        super().__init__(awaitables)
        self._keep_errors = keep_errors
        self._left = len(self._branches)

    def _end(self, index: int) -> None:
        self._left -= 1

    def _is_done(self) -> bool:
        return self._left == 0

    def _value(self) -> list[Any]:
        return [branch.value for branch in self._branches]

    def _poll(self, branch: _Branch, key: int | None) -> Sequence[int]:
        if not self._keep_errors:
            return branch.advance(key)
        try:
            return branch.advance(key)
        except WorkflowCodeError:
            raise
        except Exception as error:
            if continuation_of(error) is not None:
                raise
            branch.value = error
            branch.is_done = True
            return ()


class Race(_Group):
    """Waits for the first branch that is done."""

    __slots__ = ("_winner",)

    def __init__(self, awaitables: Sequence[Awaitable[Any]]) -> None:
        super().__init__(awaitables)
        self._winner: int | None = None

    def _end(self, index: int) -> None:
        self._winner = index

    def _is_done(self) -> bool:
        return self._winner is not None

    def _value(self) -> tuple[int, Any]:
        winner = self._winner or 0
        return winner, self._branches[winner].value
