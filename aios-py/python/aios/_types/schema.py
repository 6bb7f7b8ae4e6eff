"""Compiles Python types to converters from JSON and to JSON Schemas."""

from __future__ import annotations

import collections
import collections.abc as abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from .._secret import SECRET_SCHEMA, Secret
from .constraints import (
    check_metadata,
    checked,
    described,
    holds_bytes,
    is_left_to_library,
    is_of_pydantic,
    libraries_of,
)
from .definitions import hoisted
from .fields import Field, bound_hints_of, fields_of, is_pydantic, shape_of
from .generics import (
    TupleItems,
    bare,
    is_alias,
    is_qualified,
    title_of,
    tuple_items,
    value_of,
)
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
    literal,
    mismatch,
    msgspec_struct,
    pydantic_check,
    pydantic_model,
)
from .unions import check_told_apart

#: Types of any JSON value, including return types of functions that do not return, and `Final` by itself.
_ANY: tuple[Any, ...] = (Any, object, typing.NoReturn, typing.Never, typing.Final)
#: Types that are constructed from a list or from a dictionary; others are read as these.
_LISTS: tuple[Any, ...] = (list, set, frozenset, collections.deque)
_ABSTRACT_LISTS: tuple[Any, ...] = (
    abc.Collection,
    abc.Sequence,
    abc.MutableSequence,
    abc.Set,
    abc.MutableSet,
    abc.Iterable,
    abc.Iterator,
)
_NUMBERS: tuple[Any, ...] = (float, decimal.Decimal, datetime.timedelta)
_DICTS: tuple[Any, ...] = (dict, collections.OrderedDict, collections.Counter)


class Compiler:
    """Compiles types. The schemas of classes with fields are collected in :attr:`definitions`."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._known: dict[Any, tuple[list[Read | None], str]] = {}
        #: The aliases that contain themselves.
        self._recursive: set[Any] = set()

    def compile(self, annotation: Any) -> Compiled:
        if annotation in _ANY or isinstance(annotation, typing.TypeVar):
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
        if is_alias(annotation):
            return self._alias(annotation)
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._generic(annotation, origin, typing.get_args(annotation))
        if hasattr(annotation, "__supertype__"):
            return self.compile(annotation.__supertype__)
        if isinstance(annotation, type):
            return self._class(annotation)
        raise TypeError(f"{annotation!r} can't be read from JSON; annotate with a supported type")

    def _alias(self, alias: Any) -> Compiled:
        """A type with a name. It is a definition only if it contains itself."""
        if alias not in self._known:
            definitions, known = dict(self.definitions), dict(self._known)
            readers, name = self._define(alias)
            try:
                reader, schema = self.compile(value_of(alias))
            except TypeError:
                self.definitions, self._known = definitions, known
                if not is_of_pydantic(value_of(alias)):
                    raise
                # It may name itself by a text, as `pydantic.JsonValue` does.
                return self._foreign(pydantic_model(alias))
            if alias not in self._recursive:
                del self._known[alias], self.definitions[name]
                return reader, schema
            readers.append(reader)
            self.definitions[name] = schema
        self._recursive.add(alias)
        return self._reference(alias)

    def _define(self, kind: Any) -> tuple[list[Read | None], str]:
        """Adds a definition, which is empty until its type is compiled."""
        name = title_of(kind)
        while name in self.definitions:
            name += "_"
        self.definitions[name] = {}
        self._known[kind] = ([], name)
        return self._known[kind]

    def _reference(self, kind: Any) -> Compiled:
        """A type with a definition."""
        readers, name = self._known[kind]

        def read(value: Any, path: str, violations: Violations) -> Any:
            reader = readers[0]
            return value if reader is None else reader(value, path, violations)

        return read, {"$ref": f"#/$defs/{name}"}

    def _foreign(self, compiled: Compiled) -> Compiled:
        """A type whose schema another library made, with definitions of its own."""
        reader, schema = compiled
        return reader, hoisted(schema, self.definitions)

    def _annotated(self, annotation: Any, kind: Any, *metadata: Any) -> Compiled:
        """A type with a description, or with constraints that its library checks."""
        if is_of_pydantic(annotation):
            return self._checked_by_pydantic(annotation, kind, metadata)
        if "msgspec" in libraries_of(annotation):
            made, schema = self._foreign(msgspec_struct(annotation))
            return self._checked(kind, made, made), schema
        reader, schema = self.compile(kind)
        # A `Doc` of `typing_extensions`, or a text.
        texts = [getattr(found, "documentation", found) for found in metadata]
        texts = [text for text in texts if isinstance(text, str)]
        return reader, {**schema, "description": texts[-1]} if texts else schema

    def _checked_by_pydantic(
        self, annotation: Any, kind: Any, metadata: tuple[Any, ...]
    ) -> Compiled:
        check_metadata(annotation, metadata)
        otherwise, schema = pydantic_model(annotation)
        if is_left_to_library(annotation, metadata):
            return self._foreign((otherwise, schema))
        check = pydantic_check(annotation)
        if not holds_bytes(kind):
            otherwise, schema = self._foreign((otherwise, schema))
            return self._checked(kind, check, otherwise), schema
        reader, schema = self.compile(kind)
        made = check if reader is None else checked(reader, check, None)
        return made, described(schema, metadata)

    def _checked(self, kind: Any, check: Read | None, otherwise: Read | None) -> Read | None:
        """The reader of a type whose schema another library has made."""
        if check is None:
            return None
        definitions, known = dict(self.definitions), dict(self._known)
        try:
            reader, _ = self.compile(kind)
        except TypeError:
            # Of a class that only the library knows, or a union that it tells apart.
            reader = None
        self.definitions, self._known = definitions, known
        return otherwise if reader is None else checked(reader, check, otherwise)

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
        if is_qualified(annotation):
            return self.compile(args[0])
        if origin is tuple:
            return self._tuple(tuple_items(args) if args else TupleItems(()))
        if is_pydantic(annotation) or is_pydantic(origin):
            return self._foreign(pydantic_model(annotation))
        if hasattr(origin, "__struct_fields__"):
            return self._foreign(msgspec_struct(annotation))
        if not isinstance(origin, type):
            raise TypeError(
                f"{annotation!r} can't be read from JSON; annotate with a supported type"
            )
        is_list = issubclass(origin, abc.Collection) or origin in _ABSTRACT_LISTS
        if is_list and not issubclass(origin, (abc.Mapping, tuple)):
            return self._list(origin if origin in _LISTS else list, args[0])
        if issubclass(origin, abc.Mapping) and not typing.is_typeddict(origin):
            item = int if origin is collections.Counter else args[1]
            return self._dict(args[0], item, origin if origin in _DICTS else dict)
        if issubclass(origin, tuple):
            return self._named_tuple(annotation)
        fields = fields_of(annotation)
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
        has_fields = typing.is_typeddict(kind) or dataclasses.is_dataclass(kind)
        if issubclass(kind, abc.Mapping) and not has_fields:
            return self._dict(str, Any, kind if kind in _DICTS else dict)
        if issubclass(kind, enum.Enum):
            return enumeration(kind)
        if issubclass(kind, pathlib.PurePath):
            return converted(str, kind, "path"), {"type": "string"}
        if is_pydantic(kind):
            return self._foreign(pydantic_model(kind))
        if hasattr(kind, "__struct_fields__"):
            return self._foreign(msgspec_struct(kind))
        fields = fields_of(kind)
        if fields is None:
            raise TypeError(
                f"{kind.__qualname__} can't be read from JSON; use a dataclass, a TypedDict, or a "
                "pydantic or msgspec model"
            )
        return self._named(kind, fields)

    def _named(self, kind: Any, fields: list[Field]) -> Compiled:
        if kind not in self._known:
            readers, name = self._define(kind)
            made, self.definitions[name] = self._object(kind, fields)
            readers.append(made)
        return self._reference(kind)

    def _object(self, kind: Any, fields: list[Field]) -> tuple[Read, Schema]:
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
        later = [field.name for field in fields if field.is_set_later]

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
            values = {name: made.pop(name) for name in later if name in made}
            found = construct(make, made, path, violations)
            if found is not INVALID:
                for name, part in values.items():
                    object.__setattr__(found, name, part)
            return found

        return read, schema

    def _union(self, args: tuple[Any, ...]) -> Compiled:
        args = _integers_first(args)
        members = [self.compile(arg) for arg in args]
        if any(reader is None for reader, _ in members):
            return None, {}
        readers = [reader for reader, _ in members if reader is not None]
        check_told_apart(args)
        shapes = [shape_of(arg) for arg in args]
        names = [frozenset[str]() if shape is None else shape.fields.keys() for shape in shapes]

        def in_order(value: Any) -> Iterable[Read]:
            """First the members with exactly the keys of an object, and last those without some of them:
            what a class does not have would be lost."""
            if type(value) is not dict or not any(names):
                return readers
            keys = value.keys()
            ranks = [(not keys <= known, len(known - keys)) for known in names]
            pairs = sorted(zip(ranks, readers, strict=True), key=lambda pair: pair[0])
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
        hints = bound_hints_of(kind)
        items = tuple(hints.get(name, Any) for name in made_by._fields)
        defaults = len(made_by._field_defaults)
        return self._tuple(TupleItems(items), lambda found: made_by(*found), defaults)

    def _tuple(
        self,
        items: TupleItems,
        make: Callable[[Iterable[Any]], Any] = tuple,
        defaults: int = 0,
    ) -> Compiled:
        if items.rest is not None and not items.before and not items.after:
            return self._list(tuple, items.rest)
        before, after = ([self.compile(it) for it in part] for part in (items.before, items.after))
        rest = None if items.rest is None else self.compile(items.rest)
        least, most = len(before) + len(after) - defaults, len(before)

        def read(value: Any, path: str, violations: Violations) -> Any:
            if type(value) is not list:
                return mismatch(value, path, violations, "array")
            count = len(value)
            if count < least or (rest is None and count > most):
                violations.append((path, f"has {count} items instead of {least or most}"))
                return INVALID
            between = [] if rest is None else [rest] * (count - least)
            readers = [reader for reader, _ in (*before, *between, *after)]
            return make(
                found if reader is None else reader(found, f"{path}/{index}", violations)
                for index, (found, reader) in enumerate(zip(value, readers, strict=False))
            )

        prefix = [schema for _, schema in before]
        schema: Schema = {"type": "array"}
        if prefix:
            schema["prefixItems"] = prefix
        if least:
            schema["minItems"] = least
        if rest is None:
            schema["maxItems"] = most
        elif rest[1] and not after:
            schema["items"] = rest[1]
        return read, schema

    def _dict(self, key: Any, item: Any, make: Callable[[Any], Any] = dict) -> Compiled:
        read_key, names = self._key(key)
        reader, schema = self.compile(item)

        def read(value: Any, path: str, violations: Violations) -> Any:
            if type(value) is not dict:
                return mismatch(value, path, violations, "object")
            made = value
            if reader is not None:
                made = {
                    name: reader(found, f"{path}/{escape(name)}", violations)
                    for name, found in value.items()
                }
            if read_key is not None:
                made = {
                    read_key(name, f"{path}/{escape(name)}", violations): found
                    for name, found in made.items()
                }
            return made if make is dict else make(made)

        return read, {
            "type": "object",
            **({"propertyNames": names} if names else {}),
            **({"additionalProperties": schema} if schema else {}),
        }

    def _key(self, key: Any) -> Compiled:
        """The keys of a dictionary: any strings, those of a literal, or the members of an enum."""
        kind = bare(key)
        if kind in (str, *_ANY) or isinstance(kind, typing.TypeVar):
            return None, {}
        texts = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
        is_text = isinstance(kind, type) and issubclass(kind, enum.Enum) and issubclass(kind, str)
        if is_text or (texts and all(isinstance(it, str) for it in texts)):
            return self.compile(kind)
        raise TypeError(f"keys of JSON objects are strings, not {key!r}")


def _scalar(annotation: Any) -> Compiled | None:
    """The converter of a type without parts; ``None`` for other types."""
    try:
        return SCALARS.get(annotation)
    except TypeError:
        # Metadata of `Annotated` in it need not be hashable.
        return None


def _integers_first(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The members of a union, with ``int`` before those that take whole numbers too."""
    first = next((index for index, arg in enumerate(args) if arg in _NUMBERS), None)
    if first is None or int not in args[first:]:
        return args
    others = tuple(arg for arg in args if arg is not int)
    return (*others[:first], int, *others[first:])
