"""A newline ends a line and nothing else does; what is not UTF-8 or not JSON is named with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.lines import json_lines, read_text, text_lines


def write(folder: Path, content: bytes) -> Path:
    (folder / "f").write_bytes(content)
    return folder / "f"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n \t\n", b"\n\n"])
def test_marks_and_line_ends_make_no_difference(mark: bytes, end: bytes, tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\u2029c\x85d\x0be\x1cf\rg"}, {"text": "é \U0001f600"}]
    content = mark + end.join(json.dumps(row, ensure_ascii=False).encode() for row in rows) + end
    assert [row for _, row in json_lines(write(tmp_path, content))] == rows


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    assert list(text_lines(write(tmp_path, b"\n1\r\n\n  \nx\x0by"))) == [(2, "1"), (5, "x\x0by")]


def test_a_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    assert list(json_lines(write(tmp_path, b'"\\ud83d\\ude00 \\\\ud83d"'))) == [(1, "\U0001f600 \\ud83d")]


@pytest.mark.parametrize("content", [rb'{"a": ["\ud83d"]}', rb'{"\uDE00": 1}'])
def test_half_of_a_character_is_refused_wherever_it_stands(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"f:1 holds \\u(d83d|de00), half of a character"):
        list(json_lines(write(tmp_path, content)))


def test_lists_may_be_lines_where_lists_are_meant(tmp_path: Path) -> None:
    assert [row for _, row in json_lines(write(tmp_path, b'["a", "b"]\n["c", "d"]\n'))] == [["a", "b"], ["c", "d"]]


def test_a_file_that_is_a_folder_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_text(tmp_path)
