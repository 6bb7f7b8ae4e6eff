"""Compiles Python types to converters from JSON and to JSON Schemas."""

from __future__ import annotations

import collections
import collections.abc as abc
import dataclasses
import enum
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from .._secret import SECRET_SCHEMA, Secret
from .definitions import hoisted
from .generics import arguments_of, substitute, title_of
from .readers import (
    INVALID,
    SCALARS,
    Compiled,
    Read,
    Schema,
    Violations,
    construct,
    converted,
    enumeration,
    escape,
    exactly,
    is_pydantic,
    literal,
    mismatch,
    msgspec_struct,
    pydantic_model,
)

#: Types that are constructed from a list or from a dictionary; others are read as these.
_LISTS: tuple[Any, ...] = (list, set, frozenset, collections.deque)
_ABSTRACT_LISTS: tuple[Any, ...] = (
    abc.Collection,
    abc.Sequence,
    abc.MutableSequence,
    abc.Set,
    abc.MutableSet,
)
_DICTS: tuple[Any, ...] = (dict, collections.OrderedDict, collections.Counter)


class _Field(typing.NamedTuple):
    name: str
    annotation: Any
    required: bool


class Compiler:
    """Compiles types. The schemas of classes with fields are collected in :attr:`definitions`."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._known: dict[Any, tuple[list[Read], str]] = {}

    def compile(self, annotation: Any) -> Compiled:
        if annotation is Any or annotation is object or isinstance(annotation, typing.TypeVar):
            return None, {}
        if typing.get_origin(annotation) is typing.Annotated:
            # Before any look-up: its metadata need not be hashable.
            return self._annotated(annotation, *typing.get_args(annotation))
        if annotation is None or annotation is type(None):
            return exactly(lambda value: value is None, "null"), {"type": "null"}
        scalar = _scalar(annotation)
        if scalar is not None:
            return scalar
        if annotation is Secret:
            return converted(str, Secret, "secret"), SECRET_SCHEMA
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._generic(annotation, origin, typing.get_args(annotation))
        if hasattr(annotation, "__supertype__"):
            return self.compile(annotation.__supertype__)
        if hasattr(annotation, "__value__"):
            return self.compile(annotation.__value__)
        if isinstance(annotation, type):
            return self._class(annotation)
        raise TypeError(f"{annotation!r} can't be read from JSON; annotate with a supported type")

    def _foreign(self, compiled: Compiled) -> Compiled:
        """A type whose schema another library made, with definitions of its own."""
        reader, schema = compiled
        return reader, hoisted(schema, self.definitions)

    def _annotated(self, annotation: Any, kind: Any, *metadata: Any) -> Compiled:
        """A type with a description, or with constraints that its library checks."""
        libraries = {type(found).__module__.partition(".")[0] for found in metadata}
        if libraries & {"pydantic", "annotated_types"} and "pydantic" in sys.modules:
            return self._foreign(pydantic_model(annotation))
        if "msgspec" in libraries:
            return self._foreign(msgspec_struct(annotation))
        reader, schema = self.compile(kind)
        # A `Doc` of `typing_extensions`, or a text.
        texts = [getattr(found, "documentation", found) for found in metadata]
        texts = [text for text in texts if isinstance(text, str)]
        return reader, {**schema, "description": texts[-1]} if texts else schema

    def _generic(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Compiled:
        if annotation is typing.Tuple:  # noqa: UP006
            return self._class(tuple)
        if not args and origin is not tuple:
            # An alias such as `typing.List` or `typing.Mapping` as it is.
            args = (Any, Any)
        if origin in (typing.Union, types.UnionType):
            return self._union(args)
        if origin is typing.Literal:
            return literal(args)
        if origin in (typing.Required, typing.NotRequired):
            return self.compile(args[0])
        if origin is tuple:
            return self._tuple(args)
        if is_pydantic(annotation) or is_pydantic(origin):
            return self._foreign(pydantic_model(annotation))
        if not isinstance(origin, type):
            raise TypeError(
                f"{annotation!r} can't be read from JSON; annotate with a supported type"
            )
        if issubclass(origin, abc.Collection) and not issubclass(origin, (abc.Mapping, tuple)):
            return self._list(origin if origin in _LISTS else list, args[0])
        if issubclass(origin, abc.Mapping) and not typing.is_typeddict(origin):
            item = int if origin is collections.Counter else args[1]
            return self._dict(args[0], item, origin if origin in _DICTS else dict)
        if issubclass(origin, tuple):
            return self._named_tuple(annotation)
        fields = _fields(annotation)
        if fields is not None:
            return self._named(annotation, fields)
        raise TypeError(f"{annotation!r} can't be read from JSON; annotate with a supported type")

    def _class(self, kind: type) -> Compiled:
        if kind is tuple or kind in _LISTS:
            return self._list(kind, Any)
        if kind in _ABSTRACT_LISTS:
            return self._list(list, Any)
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._named_tuple(kind)
        if issubclass(kind, abc.Mapping) and not typing.is_typeddict(kind):
            return self._dict(str, Any, kind if kind in _DICTS else dict)
        if issubclass(kind, enum.Enum):
            return enumeration(kind)
        if issubclass(kind, pathlib.PurePath):
            return converted(str, kind, "path"), {"type": "string"}
        if is_pydantic(kind):
            return self._foreign(pydantic_model(kind))
        if hasattr(kind, "__struct_fields__"):
            return self._foreign(msgspec_struct(kind))
        fields = _fields(kind)
        if fields is None:
            raise TypeError(
                f"{kind.__qualname__} can't be read from JSON; use a dataclass, a TypedDict, or a "
                "pydantic or msgspec model"
            )
        return self._named(kind, fields)

    def _named(self, kind: Any, fields: list[_Field]) -> Compiled:
        if kind not in self._known:
            name = title_of(kind)
            while name in self.definitions:
                name += "_"
            self._known[kind] = ([], name)
            self.definitions[name] = {}
            made, self.definitions[name] = self._object(kind, fields)
            self._known[kind][0].append(made)
        readers, name = self._known[kind]

        def read(value: Any, path: str, violations: Violations) -> Any:
            return readers[0](value, path, violations)

        return read, {"$ref": f"#/$defs/{name}"}

    def _object(self, kind: Any, fields: list[_Field]) -> tuple[Read, Schema]:
        compiled = [(field, *self.compile(field.annotation)) for field in fields]
        required = [field.name for field in fields if field.required]
        schema: Schema = {
            "type": "object",
            "title": title_of(kind),
            "properties": {field.name: schema for field, _, schema in compiled},
        }
        if required:
            schema["required"] = required
        made_by = typing.get_origin(kind) or kind
        make: Callable[..., Any] = dict if typing.is_typeddict(made_by) else made_by

        def read(value: Any, path: str, violations: Violations) -> Any:
            if type(value) is not dict:
                return mismatch(value, path, violations, "object")
            count, made = len(violations), {}
            for field, reader, _ in compiled:
                if field.name in value:
                    found = value[field.name]
                    below = f"{path}/{escape(field.name)}"
                    made[field.name] = found if reader is None else reader(found, below, violations)
                elif field.required:
                    violations.append((f"{path}/{escape(field.name)}", "is missing"))
            if len(violations) > count:
                return INVALID
            return construct(make, made, path, violations)

        return read, schema

    def _union(self, args: tuple[Any, ...]) -> Compiled:
        if float in args and int in args[args.index(float) :]:
            # A float takes whole numbers too, and would round large ones.
            others = (arg for arg in args if arg is not int)
            args = tuple(
                found for arg in others for found in ((int, arg) if arg is float else (arg,))
            )
        members = [self.compile(arg) for arg in args]
        if any(reader is None for reader, _ in members):
            return None, {}
        readers = [reader for reader, _ in members if reader is not None]
        names = [_names(arg) for arg in args]

        def in_order(value: Any) -> Iterable[Read]:
            """First the members that have all keys of an object: fields that a class does not have are
            ignored, and would be lost."""
            if type(value) is not dict or not any(names):
                return readers
            has_rest = [bool(known) and not value.keys() <= known for known in names]
            pairs = sorted(zip(has_rest, readers, strict=True), key=lambda pair: pair[0])
            return [reader for _, reader in pairs]

        def read(value: Any, path: str, violations: Violations) -> Any:
            best: Violations | None = None
            for reader in in_order(value):
                tried: Violations = []
                made = reader(value, path, tried)
                if not tried:
                    return made
                # Report the violations of the member that matched furthest.
                if best is None or len(tried[0][0]) > len(best[0][0]):
                    best = tried
            violations.extend(best or [])
            return INVALID

        return read, {"anyOf": [schema for _, schema in members]}

    def _list(self, make: type, item: Any) -> Compiled:
        reader, schema = self.compile(item)

        def read(value: Any, path: str, violations: Violations) -> Any:
            if type(value) is not list:
                return mismatch(value, path, violations, "array")
            if reader is None:
                return value if make is list else construct(make, value, path, violations)
            made = [
                reader(found, f"{path}/{index}", violations) for index, found in enumerate(value)
            ]
            return made if make is list else construct(make, made, path, violations)

        return read, {"type": "array", "items": schema} if schema else {"type": "array"}

    def _named_tuple(self, kind: Any) -> Compiled:
        """Reads an array, because a ``NamedTuple`` is written as one."""
        made_by = typing.get_origin(kind) or kind
        hints, arguments = _hints(made_by), arguments_of(kind)
        items = (substitute(hints.get(name, Any), arguments) for name in made_by._fields)
        return self._tuple(tuple(items), made_by._make)

    def _tuple(
        self, args: tuple[Any, ...], make: Callable[[Iterable[Any]], Any] = tuple
    ) -> Compiled:
        if len(args) == 2 and args[1] is Ellipsis:
            return self._list(tuple, args[0])
        items = [self.compile(arg) for arg in args if arg != ()]

        def read(value: Any, path: str, violations: Violations) -> Any:
            if type(value) is not list:
                return mismatch(value, path, violations, "array")
            if len(value) != len(items):
                violations.append((path, f"has {len(value)} items instead of {len(items)}"))
                return INVALID
            return make(
                found if reader is None else reader(found, f"{path}/{index}", violations)
                for index, (found, (reader, _)) in enumerate(zip(value, items, strict=True))
            )

        prefix = [schema for _, schema in items]
        return read, {"type": "array", "prefixItems": prefix, "items": False}

    def _dict(self, key: Any, item: Any, make: Callable[[Any], Any] = dict) -> Compiled:
        if key not in (str, Any):
            raise TypeError(f"keys of JSON objects are strings, not {key!r}")
        reader, schema = self.compile(item)

        def read(value: Any, path: str, violations: Violations) -> Any:
            if type(value) is not dict:
                return mismatch(value, path, violations, "object")
            if reader is None:
                return value if make is dict else make(value)
            made = {
                name: reader(found, f"{path}/{escape(name)}", violations)
                for name, found in value.items()
            }
            return made if make is dict else make(made)

        if not schema:
            return read, {"type": "object"}
        return read, {"type": "object", "additionalProperties": schema}


def _scalar(annotation: Any) -> Compiled | None:
    """The converter of a type without parts; ``None`` for other types."""
    try:
        return SCALARS.get(annotation)
    except TypeError:
        # Metadata of `Annotated` in it need not be hashable.
        return None


def _fields(annotation: Any) -> list[_Field] | None:
    """The fields of a dataclass or ``TypedDict``, which may be generic; ``None`` for other classes."""
    kind = typing.get_origin(annotation) or annotation
    arguments = arguments_of(annotation)
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return [
            _Field(
                field.name,
                substitute(hints[field.name], arguments),
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING,
            )
            for field in dataclasses.fields(kind)
            if field.init
        ]
    if typing.is_typeddict(kind):
        hints = _hints(kind)
        required: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
        return [
            _Field(name, substitute(hint, arguments), _is_required(hint, name in required))
            for name, hint in hints.items()
        ]
    return None


def _hints(kind: Any) -> dict[str, Any]:
    """The annotations of a class.

    Raises:
        TypeError: One refers to an unknown name, or is not an expression.
    """
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception as error:
        raise TypeError(
            f"an annotation of {kind.__qualname__} can't be resolved: {error}; define what it names at "
            "the top of a module, before it is used"
        ) from error


def _names(annotation: Any) -> frozenset[str]:
    """The names of the fields of a class; none for other types."""
    kind = typing.get_origin(annotation) or annotation
    if not isinstance(kind, type):
        return frozenset()
    return frozenset(field.name for field in _fields(kind) or ())


def _is_required(hint: Any, otherwise: bool) -> bool:
    """Whether a key is required. ``__required_keys__`` ignores string annotations, so the hint
    decides."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _is_required(typing.get_args(hint)[0], otherwise)
    if origin in (typing.Required, typing.NotRequired):
        return origin is typing.Required
    return otherwise
