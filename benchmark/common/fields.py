"""From plain values to typed dataclasses: unknown fields, wrong types and values out of bounds are the user's errors."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, TypeVar

from .errors import UserError, unknown
from .limits import hold

T = TypeVar("T")


def build(cls: type[T], given: Mapping[str, Any], where: str) -> T:
    """An instance of a dataclass from plain values, with clear errors for unknown fields and wrong types."""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]
    values = {}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"{where}: {unknown('field', str(key), known)}")
        values[key] = _coerce(hints[key], value, f"{where}: {key}")
    if missing := [k for k, f in known.items() if k not in values and f.default is MISSING and f.default_factory is MISSING]:
        raise UserError(f"{where}: missing {', '.join(missing)}.")
    made = cls(**values)
    hold(made, f"{where}: ")
    return made


def plain(value: Any) -> Any:
    """A dataclass as JSON values."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _coerce(next(a for a in arguments if a is not type(None)), value, where)
    if is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"{where}={value!r}: expected fields, for example {where.split()[-1]}.{fields(hint)[0].name}=….")
        return build(typing.cast(type, hint), value, where)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_coerce(arguments[0], v, where) for v in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where}={value!r}: expected a mapping of names to fields.")
        return {str(k): _coerce(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            pass
    if hint is Any or (isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    raise UserError(f"{where}={value!r}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__}.")
