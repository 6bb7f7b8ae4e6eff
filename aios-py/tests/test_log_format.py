"""The lines of JSON that ``python -m aios`` logs."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from aios._service.log_format import JsonFormatter, TextFormatter


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def line(message: object, *args: object, **fields: object) -> dict[str, Any]:
    """The line of a record, read back."""
    made: dict[str, Any] = {"name": "shop", "levelno": logging.INFO, "levelname": "INFO"}
    record = logging.makeLogRecord({**made, "msg": message, "args": args, **fields})
    text = JsonFormatter(["token"]).format(record)
    text.encode()
    read: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return read


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        (1.5, 1.5),
        (True, True),
        (None, None),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ("a\udcff", "a\\udcff"),
        (["a\udcff"], "['a\\udcff']"),
        (Broken(), "a Broken whose text raises RuntimeError"),
    ],
)
def test_should_log_every_extra_field(value: object, logged: object) -> None:
    assert line("sold", price=value)["price"] == logged


def test_should_log_counts_of_tokens() -> None:
    logged = line("used", input_tokens=512, api_tokens="hunter2", reset_token=1234)
    names = ("input_tokens", "api_tokens", "reset_token")
    assert [logged[name] for name in names] == [512, "***", "***"]


def test_should_log_every_message() -> None:
    assert line("sold %s", "a\udcff")["message"] == "sold a\\udcff"
    assert line("sold", name="shop\udcff")["target"] == "shop\\udcff"
    assert line("sold", **{"a\udcff": 1})["a\\udcff"] == 1
    assert line("sold %d", "a")["message"].startswith("sold %d with ('a',): %d format")


def test_should_log_stacks_and_exceptions() -> None:
    try:
        raise ValueError("a\udcff")
    except ValueError as error:
        found = line("failed", exc_info=(ValueError, error, None), stack_info="Stack:\n  here")
    assert found["exception"].endswith("ValueError: a\\udcff")
    assert found["stack"] == "Stack:\n  here"


def test_should_log_every_text() -> None:
    made: dict[str, Any] = {"name": "shop", "levelno": logging.INFO, "levelname": "INFO"}
    record = logging.makeLogRecord({**made, "msg": "a\udcff", "file": "b\udcff"})
    text = TextFormatter([], "").format(record)
    text.encode()
    assert "INFO shop a\\udcff" in text
    assert "b\\udcff" in text
