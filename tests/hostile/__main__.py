"""`python -m tests.hostile` writes docs/hostile.md."""

from __future__ import annotations

from pathlib import Path

from . import page

if __name__ == "__main__":
    (Path(__file__).resolve().parents[2] / "docs" / "hostile.md").write_text(page(), "utf-8")
