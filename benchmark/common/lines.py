"""Text and JSON lines. What comes from anywhere is read with one message for what is wrong, with file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError

_ARRAY = re.compile(r"\s*\[\s*(\{|\]|$)")  # a list of objects where an object should be
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}  # what a file begins with in other encodings


def read_text(file: str | Path) -> str:
    """A UTF-8 file as it stands, without a byte-order mark; another encoding is named, with the line where it shows."""
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from None
    if other := _MARKS.get(data[:2]) or ("UTF-16 or binary" if b"\0" in data[:1000] else None):
        raise UserError(f"{file} is {other}; expected text in UTF-8. Save it again in UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}:{line} is not UTF-8 (byte 0x{data[error.start]:02x}), perhaps Latin-1 or Windows-1252. Save the file again in UTF-8."
        ) from None


def text_lines(file: str | Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank. A newline ends a line and nothing else does: U+2028 may stand in a text."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line and not line.isspace():
            yield number, line.removesuffix("\r")


def json_lines(file: str | Path) -> Iterator[tuple[int, Any]]:
    """Number and value of every line of a file of JSON lines."""
    for first, (number, line) in enumerate(text_lines(file)):
        if not first and _ARRAY.match(line):
            raise UserError(f"{file} holds a JSON array; expected one JSON object a line, without brackets and commas around them.")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = error if isinstance(error, ValueError) else "it is nested too deeply"
            raise UserError(f"{file}:{number} is not JSON: {why}. Expected one JSON object a line.") from None
        if "\\ud" in line.lower() and (half := lone_surrogate(value)):
            raise UserError(f"{file}:{number} holds {half}, half of a character, which no text can hold. Write the whole character.")
        yield number, value


def lone_surrogate(value: Any) -> str:
    """How the first surrogate without its other half is written, if there is one in a JSON value."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(error.object[error.start]):04x}"
    return ""


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines with sorted keys."""
    file.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), "utf-8")
