"""Signatures of the functions that users pass."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from .._errors import ConfigurationError
from .annotations import annotations_of, signature_of
from .convert import Converter
from .subclasses import classes_of


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it returns a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def bound_keywords(function: Callable[..., Any]) -> set[str]:
    """Names of the parameters that ``functools.partial`` has set by name. They are still in the
    signature, with their values as defaults."""
    bound: set[str] = set()
    while isinstance(function, functools.partial):
        bound.update(function.keywords)
        function = function.func
    return bound


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function; that of its class for an object with ``__call__``."""
    function = _whole(function)
    return getattr(function, "__name__", None) or type(function).__name__


def doc_of(function: Callable[..., Any]) -> str:
    """The docstring of a function; for an object with ``__call__``, that of the method or else of its
    class."""
    function = _whole(function)
    is_object = not inspect.isroutine(function) and not inspect.isclass(function)
    # Without those that are inherited: objects without one would get that of `type`.
    of_call = type(function).__call__.__doc__ if is_object else None
    return inspect.cleandoc(of_call) if of_call else inspect.getdoc(function) or ""


def _whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without the arguments that ``functools.partial`` has set."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def is_async_generator(function: Callable[..., Any]) -> bool:
    """Whether calling it returns an async generator."""
    return _is(inspect.isasyncgenfunction, function)


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether calling it returns a generator."""
    return _is(inspect.isgeneratorfunction, function)


def _is(check: Callable[[Any], bool], function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return check(function) or check(getattr(function, "__call__", None))  # noqa: B004


def hints(function: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """Annotations of a function.

    Args:
        function: The function.
        names: Local names where it is defined.

    Raises:
        ConfigurationError: An annotation refers to an unknown name, or is not an expression.
    """
    function = _annotated(function)
    try:
        return typing.get_type_hints(function, localns=dict(names), include_extras=True)
    except Exception as error:
        # An annotation that is a text may be any expression.
        raise ConfigurationError(
            f"an annotation of {function.__qualname__} can't be resolved: {error}"
        ) from error


def return_hint(function: Any, names: Mapping[str, Any]) -> Any:
    """The return annotation of a function; ``Any`` if it has none.

    Args:
        function: The function.
        names: Local names.

    Raises:
        NameError: It refers to an unknown name.
        TypeError: It is not an expression.
    """
    function = _annotated(function)
    found = annotations_of(function)
    if not found or "return" not in found or inspect.isclass(function):
        return Any
    # Without the parameters, whose annotations may be unreadable.
    alone = types.FunctionType((lambda: None).__code__, namespace_of(function))
    alone.__annotations__ = {"return": found["return"]}
    try:
        return typing.get_type_hints(alone, localns=dict(names), include_extras=True)["return"]
    except NameError:
        raise
    except Exception as error:
        # An annotation that is a text may be any expression.
        raise TypeError(f"{found['return']!r} can't be resolved: {error}") from error


def _annotated(function: Any) -> Any:
    """The function with the annotations of an object that can be called."""
    function = _whole(function)
    if not inspect.isroutine(function) and not inspect.isclass(function):
        return type(function).__call__
    return function


def namespace_of(function: Any) -> Any:
    """The globals in which the annotations of a function are resolved."""
    while (wrapped := getattr(function, "__wrapped__", None)) is not None:
        function = wrapped
    return getattr(getattr(function, "__func__", function), "__globals__", {})


def closure_of(function: Any) -> dict[str, Any]:
    """The local names around a function that it uses."""
    function = _annotated(function)
    function = getattr(function, "__func__", function)
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    found = {}
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        with contextlib.suppress(ValueError):
            # Raised by a cell without a value yet.
            found[name] = cell.cell_contents
    return found


class Signature(typing.NamedTuple):
    """The signature of a function that takes a context and at most one value.

    Attributes:
        input: Converts the value; ``None`` if the function takes only the context.
        output: Converts the result back from JSON.
        name: Name and annotation of the value, for errors.
        default: Default of the value; ``MISSING`` if it has none.
        input_classes: The classes with fields that the type of the value declares.
        output_classes: The same for the type of the result.
    """

    input: Converter | None
    output: Converter
    name: str
    default: Any
    input_classes: tuple[type, ...]
    output_classes: tuple[type, ...]


def signature(function: Callable[..., Any], names: Mapping[str, Any], what: str) -> Signature:
    """Reads the annotations of ``(context, value) -> result``.

    Raises:
        ConfigurationError: The function takes other parameters, or a type that can't be read from
            JSON.
    """
    if is_async_generator(function) or is_generator(function):
        raise ConfigurationError(f"{what} must return its result, not yield pieces of it")
    parameters = list(signature_of(function).parameters.values())
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    if not 1 <= len(positional) <= 2 or any(parameter not in positional for parameter in required):
        raise ConfigurationError(f"{what} must take a context and at most one value")
    found = hints(function, names)
    from .._workflows.definition import MISSING

    try:
        value = Converter(found.get(positional[1].name, Any)) if len(positional) == 2 else None
        last = positional[-1]
        return Signature(
            value,
            Converter(found.get("return", Any)),
            str(last).partition(" = ")[0],
            MISSING if value is None or last.default is last.empty else last.default,
            () if value is None else classes_of(found.get(last.name, Any)),
            classes_of(found.get("return", Any)),
        )
    except TypeError as error:
        raise ConfigurationError(f"{what}: {error}") from error


def caller_namespace(depth: int) -> dict[str, Any]:
    """Local names of the function ``depth`` calls above the caller. A comprehension in it is a frame of
    its own."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = frame.f_back if frame is not None else None
    names: dict[str, Any] = {}
    while frame is not None:
        names = {**frame.f_locals, **names}
        is_part = frame.f_code.co_name in ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
        frame = frame.f_back if is_part else None
    return names
