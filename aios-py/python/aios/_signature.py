"""What the functions of users take and return."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ._convert import Converter
from ._errors import ConfigurationError


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def hints(function: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """Annotations of a function; ``names`` are those that surround it."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not inspect.isclass(function):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function, localns=dict(names), include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"an annotation of {function.__qualname__} names what is not there: {error}"
        ) from error


def check_name(name: str, what: str) -> None:
    """Checks what names an agent type or a workflow.

    Raises:
        ConfigurationError: It is not a name.
    """
    if not re.fullmatch("[a-z][a-z0-9_]{0,99}", name):
        raise ConfigurationError(
            f"{name!r} can't be {what}: it consists of 1 to 100 of the characters a-z, 0-9 and _, and "
            "begins with a letter"
        )


class Signature(typing.NamedTuple):
    """How a function of a context and at most one value is called.

    Attributes:
        input: Reads the value; ``None`` if the function takes only the context.
        output: Reads what the function returned back from JSON.
        name: Name and annotation of the value, for a person.
        default: What the value is if it is not given; ``MISSING`` if there is no such thing.
    """

    input: Converter | None
    output: Converter
    name: str
    default: Any


def signature(function: Callable[..., Any], names: Mapping[str, Any], what: str) -> Signature:
    """Reads the annotations of ``(context, value) -> result``.

    Raises:
        ConfigurationError: It takes something else, or a type that aios can't read.
    """
    parameters = list(inspect.signature(function).parameters.values())
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    if not 1 <= len(positional) <= 2 or any(one not in positional for one in required):
        raise ConfigurationError(f"{what} takes a context and at most one value")
    found = hints(function, names)
    from ._workflow import MISSING

    try:
        given = Converter(found.get(positional[1].name, Any)) if len(positional) == 2 else None
        last = positional[-1]
        return Signature(
            given,
            Converter(found.get("return", Any)),
            str(last).partition(" = ")[0],
            MISSING if given is None or last.default is last.empty else last.default,
        )
    except TypeError as error:
        raise ConfigurationError(f"{what}: {error}") from error


def surroundings(depth: int) -> dict[str, Any]:
    """Local names where a decorator is used, ``depth`` calls up."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = frame.f_back if frame is not None else None
    return dict(frame.f_locals) if frame is not None else {}
