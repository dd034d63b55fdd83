"""What the pages of a Parquet file say that they unpack to, read from their headers: nothing is unpacked.

The footer tells the size of every column too, but whoever writes the file writes the footer, and a decoder goes by the pages. A page's
header is a struct in Thrift's compact protocol; of its fields those are looked at that name kinds, sizes, counts and encodings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..common.errors import UserError

PLAIN = (0, 2, 3, 8)  # plain, two of dictionaries, run lengths: others repeat texts without having them in the file
DATA, DICTIONARY, DATA_2 = 0, 2, 3  # kinds of pages
DETAILS = {DATA: (5, 2), DICTIONARY: (7, 2), DATA_2: (8, 4)}  # kind -> field of its own struct, and where that has the encoding
DEEPEST = 8  # structs in structs
Fields = dict[int, Any]


@dataclass(frozen=True)
class Page:
    """One page of a column: bytes when unpacked, and how many values of the column it holds (none, if it is a dictionary)."""

    unpacked: int
    values: int


def pages(chunk: bytes) -> Iterator[Page]:
    """The pages of one column of one row group, which lie one behind another; `UserError` for what is none, or is encoded in an odd way."""
    at = 0
    while at < len(chunk):
        header, at = _struct(chunk, at, DEEPEST)
        kind, unpacked, packed = (_count(header, i) for i in (1, 2, 3))
        of_kind, encoding = DETAILS.get(kind, (0, 0))
        told = header.get(of_kind)
        if not isinstance(told, dict):
            raise UserError(f"has a page of an odd kind ({kind})")
        if (found := _count(told, encoding)) not in PLAIN:
            raise UserError(f"has a page with an odd encoding ({found}); expected plain values or a dictionary")
        at += packed
        if at > len(chunk):
            raise UserError("has a page that ends behind its column")
        yield Page(unpacked, 0 if kind == DICTIONARY else _count(told, 1))


def _count(fields: Fields, name: int) -> int:
    """A whole number that a 32-bit field can hold; a larger one would be cut by other readers, and so mean something else to them."""
    value = fields.get(name)
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise UserError("has a page without a proper header")
    return value


def _struct(data: bytes, at: int, depth: int) -> tuple[Fields, int]:
    """The fields of a struct by number, and where it ends. Lists and maps, which no header has, are refused, and so is a field twice."""
    found: Fields = {}
    name = 0
    while kind := _byte(data, at):
        at += 1
        if kind >> 4:
            name += kind >> 4
        else:
            name, at = _zigzag(data, at)
        if name in found or not 0 < name < 1 << 15 or not depth:
            raise UserError("has a page without a proper header")
        found[name], at = _value(data, at, kind & 15, depth)
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return _byte(data, at), at + 1
    if kind in (4, 5, 6):
        return _zigzag(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind == 12:
        return _struct(data, at, depth - 1)
    raise UserError("has a page without a proper header")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(data, at)
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise UserError("has a page without a proper header")


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise UserError("has a page that ends behind its column")
    return data[at]
