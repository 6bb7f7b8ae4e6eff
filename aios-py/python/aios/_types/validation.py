"""Checks of arguments that users pass."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from .._aios import DEFAULTS
from .._clients.records import RunState
from .._errors import ConfigurationError, InvalidDataError
from .._secret import exposed

if TYPE_CHECKING:
    from .._workflows.definition import Workflow

T = TypeVar("T")


def check_name(name: str, what: str) -> None:
    """Checks the name of an agent type, a workflow or a projection.

    Raises:
        TypeError: It is not a string.
        ConfigurationError: The name is invalid.
    """
    check_str(what, name)
    if not re.fullmatch("[a-z][a-z0-9_]{0,99}", name):
        raise ConfigurationError(
            f"{name!r} can't be {what}: a name has 1 to 100 of the characters a-z, 0-9 and _, and "
            "begins with a letter"
        )


def check_text(what: str, text: str | None) -> None:
    """Checks a string, if there is one.

    Raises:
        TypeError: It is not a string.
        InvalidDataError: It can't be encoded as UTF-8, because it contains lone surrogates.
    """
    if text is not None:
        check_str(what, text)


def check_texts(**texts: str | None) -> None:
    """Checks optional strings, by the names of their parameters; see :func:`check_text`."""
    for what, text in texts.items():
        if text is not None:
            check_str(what, text)


def check_str(what: str, text: str) -> str:
    """Returns the string.

    Raises:
        TypeError: It is not a string.
        InvalidDataError: It can't be encoded as UTF-8, because it contains lone surrogates.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {text!r}")
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise InvalidDataError(
            f"{what} must be valid UTF-8, and {text!r} is not: {error.reason}", code="INVALID_TEXT"
        ) from None
    return text


def check_int(number: int, what: str) -> int:
    """Returns the number.

    Raises:
        TypeError: It is not an integer, or it is a ``bool``.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{what} must be an int, not {number!r}")
    return number


def check_position(number: int, what: str) -> int:
    """Returns a position, a version, an offset or the number of an operation.

    Raises:
        TypeError: It is not an integer.
        ConfigurationError: It is negative, or has more than 63 bits.
    """
    if not 0 <= check_int(number, what) < 2**63:
        raise ConfigurationError(f"{what} must be 0 or a positive 63-bit number, not {number}")
    return number


def check_int_range(number: int, what: str, least: int, most: int) -> int:
    """Returns the number.

    Raises:
        TypeError: It is not an integer.
        ConfigurationError: It is not between ``least`` and ``most``.
    """
    if not least <= check_int(number, what) <= most:
        raise ConfigurationError(f"{what} must be {least} to {most:,}, not {number}")
    return number


def check_at_least(number: int, what: str, least: int) -> int:
    """Returns the number.

    Raises:
        TypeError: It is not an integer.
        ConfigurationError: It is below ``least``, or has more than 63 bits.
    """
    check_int(number, what)
    if number < least:
        raise ConfigurationError(f"{what} must be at least {least}, not {number}")
    if number >= 2**63:
        raise ConfigurationError(f"{what} must have at most 63 bits, unlike {number}")
    return number


def check_version(number: int, what: str) -> int:
    """Returns the version of a workflow.

    Raises:
        TypeError: It is not an integer.
        ConfigurationError: It is below 1, or has more than 32 bits.
    """
    if check_at_least(number, what, 1) >= 2**32:
        raise ConfigurationError(f"{what} must have at most 32 bits, unlike {number}")
    return number


def check_range(number: int, what: str, most: int) -> int:
    """Returns the number.

    Raises:
        TypeError: It is not an integer.
        ConfigurationError: It is not between 1 and ``most``.
    """
    return check_int_range(number, what, 1, most)


def check_limit(limit: int) -> int:
    """Returns the size of a page.

    Raises:
        ConfigurationError: It is out of range.
    """
    return check_range(limit, "limit", DEFAULTS.max_page_limit)


def check_seconds(number: float, what: str) -> float:
    """Returns a duration.

    Raises:
        TypeError: It is not a number.
        ConfigurationError: It is negative or too large.
    """
    check_number(number, what)
    if not 0 <= number < 2**63:
        raise ConfigurationError(f"{what} must be a number of seconds from 0 on, not {number}")
    return number


def check_number(number: float, what: str) -> None:
    """Checks the type of a duration, of which the native module checks the range.

    Raises:
        TypeError: It is not a number.
    """
    if not is_number(number):
        raise TypeError(f"{what} must be a number of seconds, not {number!r}")


def check_numbers(**numbers: float | None) -> None:
    """Checks optional durations, by the names of their parameters; see :func:`check_number`."""
    for what, number in numbers.items():
        if number is not None:
            check_number(number, what)


def is_number(value: object) -> bool:
    """Whether it is a number, perhaps of another library, and not a ``bool``."""
    return hasattr(type(value), "__float__") and not isinstance(value, bool)


def check_flag(flag: bool, what: str) -> bool:
    """Returns the flag.

    Raises:
        TypeError: It is not a ``bool``. A text such as ``"no"`` would count as true.
    """
    if not isinstance(flag, bool):
        raise TypeError(f"{what} must be a bool, not {flag!r}")
    return flag


def check_url(value: Any, name: str, examples: str, *, optional: bool = False) -> Any:
    """Returns the URL, or that in a secret; ``None`` only if it is optional.

    Raises:
        ConfigurationError: It is not a string.
    """
    value = exposed(value)
    if isinstance(value, str) or (optional and value is None):
        return value
    raise ConfigurationError(f"{name} must be a URL such as {examples}, not {value!r}")


def check_statuses(statuses: Iterable[str]) -> list[str]:
    """Returns the statuses of a filter as a list.

    Raises:
        ConfigurationError: One is unknown, or they are a single string.
    """
    if isinstance(statuses, str):
        raise ConfigurationError(f"statuses is a list: pass [{statuses!r}] instead of {statuses!r}")
    checked = as_list(statuses, "statuses")
    known = get_args(RunState)
    for status in checked:
        if status not in known:
            raise ConfigurationError(
                f"unknown run status {status!r}; expected one of {', '.join(known)}"
            )
    return checked


def as_list(values: Iterable[Any], name: str) -> list[Any]:
    """Returns the values as a list.

    Raises:
        ConfigurationError: They are a single object.
    """
    if values is None:
        raise ConfigurationError(f"{name} is a list: pass [] instead of None")
    try:
        # The characters of a string are never meant.
        items = None if isinstance(values, (str, bytes)) else list(values)
    except TypeError:
        items = None
    if items is None:
        # The value itself may be a secret.
        kind = type(values).__name__
        raise ConfigurationError(f"{name} is a list: put the {kind} in brackets")
    return items


def as_texts(values: Iterable[str], name: str) -> list[str]:
    """Returns strings as a list.

    Raises:
        TypeError: One is not a string.
        ConfigurationError: They are a single object.
    """
    return [check_str(f"each of {name}", value) for value in as_list(values, name)]


def as_workflows(values: Iterable[Any]) -> list[Workflow[Any, Any]]:
    """Returns the workflows as a list.

    Raises:
        ConfigurationError: One is not a workflow, or two share a name and a version.
    """
    from .._workflows.definition import Workflow

    workflows = as_list(values, "workflows")
    for workflow in workflows:
        if not isinstance(workflow, Workflow):
            raise ConfigurationError(
                f"{workflow!r} is not a workflow; decorate it with @aios.workflow(name)"
            )
    duplicate = find_duplicate((workflow.name, workflow.version) for workflow in workflows)
    if duplicate is not None:
        raise ConfigurationError(
            f"there are two workflows {duplicate[0]} of version {duplicate[1]}"
        )
    return workflows


def find_duplicate(names: Iterable[T]) -> T | None:
    """Returns the first value that occurs twice."""
    seen: set[T] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
