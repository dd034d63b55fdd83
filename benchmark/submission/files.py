"""Reads the kinds of files that stages leave, as strangers may have written them: shape, types, ranges, and nothing larger than it says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..battery.answers import ANSWER, FINDING
from ..common.errors import UserError
from ..common.strict import parse
from ..common.types import HORIZON, Excerpt

ROWS, GROUPS = 1_000_000, 1_000  # of a table
TEXT = 20_000  # characters of a text in a table
LINE = 4 << 20  # bytes of a line of JSON
HEADER, TENSORS, ELEMENTS = 4 << 20, 100_000, 100_000  # of tokens.safetensors: bytes of its header, arrays, numbers in an array
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
TABLES: dict[str, dict[str, str]] = {
    "answers.parquet": dict.fromkeys(ANSWER, "text")
    | dict.fromkeys(("tier", "start", "offset", "matched", "horizon", "fold"), "whole")
    | {"extra": "flag"},
    "findings.parquet": dict.fromkeys(FINDING, "text") | {"value": "number", "fold": "whole", "step": "whole"},
}
KINDS = {
    "text": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
    "whole": pa.types.is_integer,
    "flag": pa.types.is_boolean,
    "number": pa.types.is_floating,
}


def check_table(file: Path) -> None:
    """A table of answers or findings: its columns and their types, its size, and matched lengths within what could match."""
    try:
        opened = pq.ParquetFile(file, memory_map=False, thrift_string_size_limit=1 << 20, thrift_container_size_limit=1 << 16)
        told, schema = opened.metadata, opened.schema_arrow
        if told.num_rows > ROWS or told.num_row_groups > GROUPS:
            raise UserError(f"has {told.num_rows:,} rows; expected at most {ROWS:,}")
        wanted = TABLES[file.name]
        if schema.names != [*wanted]:
            raise UserError(f"has the columns {', '.join(schema.names)[:200]}; expected {', '.join(wanted)}")
        for name, kind in wanted.items():
            if told.num_rows and not KINDS[kind](schema.field(name).type):
                raise UserError(f"column {name} holds {schema.field(name).type}; expected {kind}")
        texts = [name for name, kind in wanted.items() if kind == "text"]
        table = pq.read_table(file, read_dictionary=texts, memory_map=False)  # a text that is repeated is held once
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(f"is no Parquet table that can be read ({str(error).splitlines()[0][:100]})") from None
    for name in wanted:
        _check_column(name, wanted[name], table.column(name))
    if "matched" in wanted:
        for matched, horizon in zip(table.column("matched").to_pylist(), table.column("horizon").to_pylist(), strict=True):
            if not 0 <= matched <= horizon <= HORIZON:
                raise UserError(f"has a matched length of {matched} of {horizon}; expected 0 to {HORIZON}")


def _check_column(name: str, kind: str, column: pa.ChunkedArray) -> None:
    if column.null_count and kind != "number":  # of which an empty cell is one that could not be measured
        raise UserError(f"column {name} has empty cells")
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray) and any(len(t) > TEXT for t in chunk.dictionary.to_pylist()):
            raise UserError(f"column {name} has a text of more than {TEXT:,} characters")


def check_safetensors(file: Path, small: bool) -> None:
    """A safetensors file whose header tells all of it and no more; `small`: one of readings, whose arrays are short and flat."""
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if not 2 <= length <= min(HEADER if small else 100 << 20, size - 8):
            raise UserError(f"is no safetensors file: a header of {length:,} bytes in a file of {size:,}")
        header = parse(content.read(length), "its header")
    if not isinstance(header, dict):
        raise UserError("is no safetensors file: its header is no object")
    header.pop("__metadata__", None)
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
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if len(line) > LINE:
            raise UserError(f"line {number} has more than {LINE:,} bytes")
        value = parse(line, f"line {number}") if line.strip() else {}
        if not isinstance(value, dict):
            raise UserError(f"line {number} is no object")
        if value and file.name == "excerpts.jsonl" and not _is_excerpt(value):
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
