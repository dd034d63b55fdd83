"""Reads the tables of answers and findings that stages leave, as strangers may have written them.

A Parquet file of a few kilobytes can unpack to as much as one likes: a text that stands once in a dictionary may fill a million rows. So
sizes are held against limits three times: as the footer tells them, as the pages tell them, and as they come, a batch of rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.compute import call_function

from ..battery.answers import ANSWER, FINDING
from ..common.errors import UserError
from ..common.types import HORIZON
from .pages import pages

MIB = 1 << 20
TEXT = 20_000  # characters of a text
BATCH = 1 << 16  # rows that are decoded at a time
GROUPS = 1_000  # of rows, and of whatever else the footer lists
CODECS = ("UNCOMPRESSED", "SNAPPY")  # of which the second packs at most some twenty times
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


@dataclass(frozen=True)
class Room:
    """How large a table may be."""

    file: int = 16 * MIB  # bytes as they lie in the archive
    rows: int = 500_000
    column: int = 128 * MIB  # bytes of a column, unpacked, its texts written out in every row
    whole: int = 256 * MIB  # of all columns


ROOM = Room()  # some hundred times what the pocket track takes


@dataclass(frozen=True)
class Taken:
    """Rows and unpacked bytes of tables."""

    rows: int = 0
    whole: int = 0

    def and_more(self, other: Taken) -> Taken:
        """Both together; raises where a bundle has no room for them."""
        both = Taken(self.rows + other.rows, self.whole + other.whole)
        if both.rows > BUNDLE.rows or both.whole > BUNDLE.whole:
            raise UserError(
                f"brings all tables together to {both.rows:,} rows and {both.whole:,} bytes, unpacked; "
                f"expected at most {BUNDLE.rows:,} and {BUNDLE.whole:,}"
            )
        return both


BUNDLE = Taken(rows=4_000_000, whole=1024 * MIB)


def check_table(file: Path, room: Room = ROOM) -> Taken:
    """A table of answers or findings: its size, its columns and their types, and matched lengths within what could match.

    Returns how many rows and bytes it has, unpacked.
    """
    if (size := file.stat().st_size) > room.file:
        raise UserError(f"has {size:,} bytes; expected at most {room.file:,}")
    if not (wanted := TABLES.get(file.name)):
        raise UserError(f"is no table that a stage leaves; expected {' or '.join(TABLES)}")
    try:
        opened = pq.ParquetFile(
            file, memory_map=False, thrift_string_size_limit=MIB, thrift_container_size_limit=GROUPS,
            read_dictionary=[name for name, kind in wanted.items() if kind == "text"],  # a text that is repeated is held once
        )  # fmt: skip
        with opened:
            _check_footer(opened, wanted, room)
            _check_pages(file.read_bytes(), opened.metadata, room)
            return Taken(opened.metadata.num_rows, _check_content(opened, wanted, room))
    except (pa.ArrowException, OSError, ValueError, KeyError, RecursionError) as error:
        raise UserError(f"is no Parquet table that can be read ({str(error).splitlines()[0][:100]})") from None


def _check_footer(opened: pq.ParquetFile, wanted: dict[str, str], room: Room) -> None:
    """What the file says of itself."""
    told, schema = opened.metadata, opened.schema_arrow
    rows = [told.row_group(i).num_rows for i in range(told.num_row_groups)]
    if sum(rows) != told.num_rows or min(rows, default=0) < 0:
        raise UserError(f"has {sum(rows):,} rows in its groups; expected {told.num_rows:,}")
    if told.num_rows > room.rows or told.num_row_groups > GROUPS:
        raise UserError(f"has {told.num_rows:,} rows in {told.num_row_groups:,} groups; expected at most {room.rows:,} in {GROUPS:,}")
    if schema.names != [*wanted]:
        raise UserError(f"has the columns {', '.join(schema.names)[:200]}; expected {', '.join(wanted)}")
    for name, kind in wanted.items():
        found = schema.field(name).type
        found = found.value_type if kind == "text" and pa.types.is_dictionary(found) else found  # as it was asked to be read
        if told.num_rows and not KINDS[kind](found):
            raise UserError(f"column {name} holds {found}; expected {kind}")
    if (schema.pandas_metadata or {}).get("index_columns"):
        raise UserError("keeps a column as an index, where readers would not look for it")
    for name, chunks in _columns(told).items():
        if odd := {c.compression for c in chunks} - {*CODECS}:
            raise UserError(f"column {name} is compressed in an odd way ({odd.pop()}); expected {' or '.join(CODECS)}")
    sizes = {name: [c.total_uncompressed_size for c in chunks] for name, chunks in _columns(told).items()}
    if min((s for found in sizes.values() for s in found), default=0) < 0:
        raise UserError("has a column of less than no bytes")
    _hold({name: sum(found) for name, found in sizes.items()}, room, "as its footer tells")


def _check_pages(content: bytes, told: pq.FileMetaData, room: Room) -> None:
    """What its pages say, which a footer may deny: sizes, encodings, and as many values as there are rows."""
    sizes: dict[str, int] = {}
    for name, chunks in _columns(told).items():
        sizes[name] = 0
        for group, chunk in enumerate(chunks):
            values, rows = 0, told.row_group(group).num_rows
            if rows == chunk.num_values == 0:  # then no page is read
                continue
            begin = min(at for at in (chunk.data_page_offset, chunk.dictionary_page_offset) if at is not None)
            end = begin + chunk.total_compressed_size
            if not 0 < begin <= end <= len(content):
                raise UserError(f"column {name} does not lie in the file")
            for page in pages(content[begin:end]):
                values += page.values
                sizes[name] += page.unpacked
                _hold(sizes, room, "as its pages tell")
            if not values == chunk.num_values == rows:
                raise UserError(f"column {name} has {values:,} values in its pages; expected one for each of {rows:,} rows")


def _columns(told: pq.FileMetaData) -> dict[str, list[pq.ColumnChunkMetaData]]:
    groups = [told.row_group(i) for i in range(told.num_row_groups)]
    return {told.schema.column(j).path: [g.column(j) for g in groups] for j in range(told.num_columns)}


def _hold(sizes: dict[str, int], room: Room, told: str) -> None:
    """Raise where a column, or all of them together, are larger than there is room for."""
    name, largest = max(sizes.items(), key=lambda item: item[1], default=("", 0))
    if largest > room.column:
        raise UserError(f"column {name} unpacks to {largest:,} bytes, {told}; expected at most {room.column:,} (a decompression bomb?)")
    if (whole := sum(sizes.values())) > room.whole:
        raise UserError(f"unpacks to {whole:,} bytes, {told}; expected at most {room.whole:,} (a decompression bomb?)")


def _check_content(opened: pq.ParquetFile, wanted: dict[str, str], room: Room) -> int:
    """Decode it a batch at a time; bytes of all columns."""
    sizes = dict.fromkeys(wanted, 0)
    for batch in opened.iter_batches(BATCH):
        batch.validate(full=True)
        for name, kind in wanted.items():
            sizes[name] += _check_column(name, kind, batch.column(name))
        _hold(sizes, room, "with its texts written out")
        if "matched" in wanted:
            _check_lengths(batch)
    return sum(sizes.values())


def _check_column(name: str, kind: str, column: Any) -> int:
    """A column of a batch; its bytes."""
    if column.null_count and kind != "number":  # of which an empty cell is one that could not be measured
        raise UserError(f"column {name} has empty cells")
    if kind != "text" or not len(column):
        return column.nbytes
    characters, sizes = (call_function(f, [column.dictionary]).to_numpy() for f in ("utf8_length", "binary_length"))
    if characters.max() > TEXT:
        raise UserError(f"column {name} has a text of more than {TEXT:,} characters")
    return int(sizes[column.indices.to_numpy()].sum(dtype=np.int64))


def _check_lengths(batch: pa.RecordBatch) -> None:
    matched, horizon = (batch.column(name).to_numpy() for name in ("matched", "horizon"))
    if (odd := np.flatnonzero(~((matched >= 0) & (matched <= horizon) & (horizon <= HORIZON)))).size:
        at = odd[0]
        raise UserError(f"has a matched length of {matched[at]} of {horizon[at]}; expected 0 to {HORIZON}")
