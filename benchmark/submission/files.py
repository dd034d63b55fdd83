"""Reads the kinds of files that stages leave, as strangers may have written them: shape, types, ranges, and nothing larger than it says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.strict import parse
from ..common.types import Excerpt

LINE, LINES = 4 << 20, 100_000  # bytes of a line of JSON, lines of a file
HEADER, TENSORS = 16 << 20, 100_000  # of a safetensors file: bytes of its header, arrays
ELEMENTS = 100_000  # of tokens.safetensors: numbers in an array
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def check_safetensors(file: Path, small: bool) -> None:
    """A safetensors file whose header tells all of it and no more; `small`: one of readings, whose arrays are short and flat."""
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if not 2 <= length <= min(HEADER, size - 8):
            raise UserError(f"is no safetensors file: a header of {length:,} bytes in a file of {size:,}")
        header = parse(content.read(length), "its header")
    if not isinstance(header, dict):
        raise UserError("is no safetensors file: its header is no object")
    remarks = header.pop("__metadata__", {})
    if not isinstance(remarks, dict) or not all(isinstance(v, str) for v in remarks.values()):
        raise UserError("is no safetensors file: its __metadata__ is no object of texts")
    if len(header) > TENSORS:
        raise UserError(f"holds {len(header):,} arrays; expected at most {TENSORS:,}")
    at = 0
    for name, (begin, end, shape, width) in sorted(_tensors(header), key=lambda item: item[1]):
        if small and (len(shape) != 1 or shape[0] > ELEMENTS):
            raise UserError(f"the array {name[:60]!r} has the shape {shape}; expected one of at most {ELEMENTS:,} numbers")
        if begin != at or end - begin != math.prod(shape) * width:
            raise UserError(f"the array {name[:60]!r} does not lie where its shape says")
        at = end
    if at != size - 8 - length:
        raise UserError("has bytes that belong to no array")


def _tensors(header: dict[str, Any]) -> Iterator[tuple[str, tuple[int, int, list[int], int]]]:
    for name, told in header.items():
        try:
            begin, end = told["data_offsets"]
            shape, width = told["shape"], WIDTHS[told["dtype"]]
            whole = all(type(v) is int and 0 <= v < 1 << 48 for v in (begin, end, *shape))
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise UserError(f"the array {name[:60]!r} is not described as safetensors does")
        yield name, (begin, end, shape, width)


def check_lines(file: Path) -> None:
    """JSON lines: objects, none of them too long; texts side by side also typed."""
    with file.open("rb") as content:
        for number, line in enumerate(content, 1):
            if number > LINES:
                raise UserError(f"has more than {LINES:,} lines")
            _check_line(file.name, number, line)


def _check_line(file: str, number: int, line: bytes) -> None:
    if len(line) > LINE:
        raise UserError(f"line {number} has more than {LINE:,} bytes")
    value = parse(line, f"line {number}") if line.strip() else {}
    if not isinstance(value, dict):
        raise UserError(f"line {number} is no object")
    if value and file == "excerpts.jsonl" and not _is_excerpt(value):
        raise UserError(f"line {number} is no memory with texts side by side")


def _is_excerpt(value: dict[str, Any]) -> bool:
    """Whether a line has the fields of an `Excerpt`. What a model says may hold any character."""
    texts = [value.get(k) for k in ("memory", "role", "prompt", "truth")]
    said = value.get("said")
    typed = isinstance(said, dict) and all(isinstance(t, str) for t in (*texts, *said.values())) and type(value.get("seed")) is int
    return typed and value.keys() == set(Excerpt.__dataclass_fields__)


def check_json(file: Path) -> Any:
    """A JSON file, strictly; a model's configuration that names code of its own is refused."""
    value = parse(file.read_bytes(), "its content")
    if '"auto_map"' in json.dumps(value):
        raise UserError("names code of its own (auto_map), which is never run")
    return value
