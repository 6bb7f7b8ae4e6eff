"""Strings that are never printed."""

from __future__ import annotations

import hmac
from typing import Any, overload


class Secret:
    """A string that is never printed, such as a password or an API key.

    ``str`` and ``repr`` show ``***``, and it is not serialised to JSON. A section of :class:`Settings`
    that has a field of this type takes its value from the environment, a mounted file (``…_FILE``), a
    reference ``${NAME}`` or code; a value that is written into a configuration file is refused.
    """

    __slots__ = ("_shown", "_text")

    def __init__(self, text: str, *, shown: str = "***") -> None:
        """
        Args:
            text: The text.
            shown: What is printed instead.

        Raises:
            TypeError: The text is not a string; such as ``None``, because a variable is not set.
        """
        if not isinstance(text, str):
            raise TypeError(f"the text of a secret must be a str, not a {type(text).__name__}")
        self._text = text
        self._shown = shown

    def expose(self) -> str:
        """The text. Pass it to what needs it, and to nothing that prints it."""
        return self._text

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"aios.Secret({self._shown!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Makes fields of pydantic models of this type."""
        from pydantic_core import core_schema

        def read(value: Any) -> Secret:
            if isinstance(value, Secret):
                return value
            if isinstance(value, str):
                return Secret(value)
            raise ValueError("a secret is a string")

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return dict(SECRET_SCHEMA)


#: JSON Schema of a secret.
SECRET_SCHEMA: dict[str, Any] = {
    "type": "string",
    "format": "password",
    "writeOnly": True,
    "minLength": 1,
}


@overload
def exposed(value: str | Secret) -> str: ...
@overload
def exposed(value: str | Secret | None) -> str | None: ...
def exposed(value: str | Secret | None) -> str | None:
    """The text of a secret, or the text itself."""
    return value.expose() if isinstance(value, Secret) else value
