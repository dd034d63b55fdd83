"""Every hostile case is answered by one line that says what is wrong, and the document shows these lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile import Case, answer, cases, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hostile.md"


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.what)
def test_one_line_says_what_is_wrong(case: Case) -> None:
    found = answer(case)
    assert found.status == case.status, found
    assert case.says in (found.err if case.status else found.out)
    if case.status:
        assert found.err.startswith("Error: ")
        assert found.err.count("\n") == 1
    assert "Traceback" not in found.out + found.err


def test_the_document_shows_what_is_answered() -> None:
    assert PAGE.read_text("utf-8") == page(), "make it again: python -m tests.hostile"
