"""Checks of the options of an agent over a language model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .._errors import ConfigurationError
from .._types.validation import check_int_range, check_seconds
from .budget import Budget, SubjectBudget

#: The lowest value of options that are counts.
_COUNTS = {
    "version": 1,
    "max_output_tokens": 1,
    "max_turns": 1,
    "max_faults": 0,
    "max_identical_calls": 1,
    "max_argument_bytes": 1,
}
_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "instructions": (str, "a str"),
    "hand_back": (str, "a str"),
    "budget": (Budget, "an aios.Budget"),
    "subject_budget": (SubjectBudget, "an aios.SubjectBudget"),
    "temperature": ((int, float), "a number"),
    "model_timeout": ((int, float), "a number of seconds"),
    "streaming": (bool, "a bool"),
    "trace_content": (bool, "a bool"),
}
_MAX_COUNT = 2**32 - 1


def check_options(options: Mapping[str, Any]) -> None:
    """Checks the types and ranges of options that are given.

    Raises:
        TypeError: An option has another type.
        ConfigurationError: A number is out of range, or a word is not one of those allowed.
    """
    for name, least in _COUNTS.items():
        if options.get(name) is not None:
            check_int_range(options[name], name, least, _MAX_COUNT)
    for name, (kind, described) in _TYPES.items():
        value = options.get(name)
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be {described}, not {value!r}")
    temperature, timeout = options.get("temperature"), options.get("model_timeout")
    if temperature is not None and not math.isfinite(temperature):
        raise ConfigurationError(f"temperature must be a finite number, not {temperature}")
    if timeout is not None:
        check_seconds(timeout, "model_timeout")
    strategy = options.get("end_strategy", "exhaustive")
    if strategy not in ("exhaustive", "early"):
        raise ConfigurationError(f"end_strategy is 'exhaustive' or 'early', not {strategy!r}")
