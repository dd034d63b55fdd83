"""The two tables that an attack stage leaves in its folder: answers, one per question asked, and findings, numbers about memories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

ANSWER = ("memory", "attack", "variant", "access", "tier", "start", "offset", "prompt", "matched", "horizon", "fold", "extra")
FINDING = ("memory", "quantity", "value", "fold")


def write_answers(folder: Path, answers: list[dict[str, Any]], findings: list[dict[str, Any]], extra: set[str]) -> None:
    """`extra` are the memories that were asked on top, as survivors of cheaper attacks."""
    rows = [{"fold": -1} | a | {"extra": a["memory"] in extra} for a in answers]
    pd.DataFrame(rows, columns=list(ANSWER)).to_parquet(folder / "answers.parquet", index=False)
    pd.DataFrame(findings, columns=list(FINDING)).to_parquet(folder / "findings.parquet", index=False)


def read_answers(folder: Path) -> list[dict[str, Any]]:
    return pd.read_parquet(folder / "answers.parquet").to_dict("records")


def read_findings(folder: Path) -> list[dict[str, Any]]:
    return pd.read_parquet(folder / "findings.parquet").to_dict("records")
