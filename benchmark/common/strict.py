"""Reads JSON that strangers wrote: no key twice, no NaN, nothing that its type does not name.

Writes it so that the same value gives the same bytes.
"""

from __future__ import annotations

import json
import math
import types
import typing
import unicodedata
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, TypeVar

from .errors import UserError, unknown
from .limits import hold

T = TypeVar("T")
WIDTH = 140  # characters that a line of a written file may have, but for a list of plain values, which stands on one line
LARGEST = 2**63  # of whole numbers
DIGITS = 300  # of a whole number; a float holds numbers of 308
VALUES = 4_000_000  # of a text: two characters can make a list, which takes thirty times as much memory
PLAIN = (str, int, float, bool, type(None))


def parse(text: str | bytes, where: str) -> Any:
    """The JSON value of a text in UTF-8; keys that stand twice, NaN, infinities, too deep nesting and too many values are refused."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise UserError(f"{where}: the key {key!r} stands twice.")
            found[key] = value
        return found

    def no_number(word: str) -> Any:
        raise UserError(f"{where} holds {word}, which is no JSON number; expected null and a reason.")

    def finite(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else no_number(digits[:20])

    def whole(digits: str) -> int:
        return int(digits) if len(digits) <= DIGITS else no_number(f"{digits[:20]}…")

    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        if (values := sum(map(text.count, "[{,"))) > VALUES:
            raise UserError(f"{where} holds some {values:,} values; expected at most {VALUES:,}.")
        return json.loads(text, object_pairs_hook=once, parse_constant=no_number, parse_float=finite, parse_int=whole)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where} is not JSON: {why}.") from None


def typed(hint: type[T], value: Any, where: str) -> T:
    """A JSON value as this type, dataclasses within: fields that are unknown or missing, wrong types and values out of bounds are named.

    Nothing is converted, but for whole numbers where a float is expected.
    """
    return _typed(hint, value, where)


def written(value: Any) -> str:
    """JSON laid out for people: what fits stands on one line, and so does a list of plain values. A newline ends it.

    Mappings keep their order: that of a suite's attacks is part of what a stage is.
    """
    return _laid_out(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value, 0) + "\n"


def visible(text: str) -> str:
    """A text that `typed` takes: what it could not hold is replaced."""
    return "".join("\ufffd" if _is_odd(c) else c for c in text)


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _typed(arguments[0], value, where)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _typed(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value in arguments and isinstance(value, str):
            return value
        raise UserError(f"{where}: expected {' or '.join(map(repr, arguments))}, got {_short(value)}.")
    if is_dataclass(hint):
        return _fields(hint, _of_type(dict, "an object", value, where), where)
    if origin is tuple:
        return tuple(_typed(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(_of_type(list, "a list", value, where)))
    if origin is dict:
        items = _of_type(dict, "an object", value, where).items()
        return {_text(k, where): _typed(arguments[1], v, f"{where}.{k}") for k, v in items}
    if hint is Any:
        return _anything(value, where)
    if hint is str:
        return _text(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST:
        return float(value)
    if type(value) is not hint or (hint is int and abs(value) >= LARGEST):
        raise UserError(f"{where}: expected {hint.__name__}, got {_short(value)}.")
    return value


def _fields(cls: Any, given: Mapping[str, Any], where: str) -> Any:
    hints, known = typing.get_type_hints(cls), {f.name: f for f in fields(cls) if f.init}
    if strange := [k for k in given if k not in known]:
        raise UserError(f"{where}: {unknown('field', strange[0][:80], known)}")
    if missing := [k for k, f in known.items() if k not in given and f.default is MISSING and f.default_factory is MISSING]:
        raise UserError(f"{where}: missing {', '.join(missing)}.")
    values = {k: _typed(hints[k], v, f"{where}.{k}") for k, v in given.items()}
    try:
        made = cls(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    hold(made, f"{where}: ")
    return made


def _of_type(kind: type[T], name: str, value: Any, where: str) -> T:
    if not isinstance(value, kind):
        raise UserError(f"{where}: expected {name}, got {_short(value)}.")
    return value


def _text(value: Any, where: str) -> str:
    """A text without control characters and halves of characters, which could be something else on a terminal or a page."""
    text = _of_type(str, "a text", value, where)
    if odd := next(filter(_is_odd, text), ""):
        raise UserError(f"{where}: holds the control character U+{ord(odd):04X}, which no text here can hold.")
    return text


def _is_odd(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"


def _anything(value: Any, where: str) -> Any:
    """Any JSON value; its texts and numbers are held to the same rules."""
    if isinstance(value, dict):
        return {_text(k, where): _anything(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_anything(v, where) for v in value]
    return _text(value, where) if isinstance(value, str) else value


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:40] + '…'}"


def _laid_out(value: Any, depth: int) -> str:
    compact = json.dumps(value, ensure_ascii=False, allow_nan=False)
    plain = isinstance(value, (list, tuple)) and all(isinstance(v, PLAIN) for v in value)
    if plain or not value or not isinstance(value, (dict, list, tuple)) or len(compact) + depth <= WIDTH:
        return compact
    if isinstance(value, dict):
        inner = [f"{json.dumps(k, ensure_ascii=False)}: {_laid_out(v, depth + 1)}" for k, v in value.items()]
    else:
        inner = [_laid_out(v, depth + 1) for v in value]
    lines, pad = ",\n".join(" " * (depth + 1) + item for item in inner), " " * depth
    return f"{{\n{lines}\n{pad}}}" if isinstance(value, dict) else f"[\n{lines}\n{pad}]"
