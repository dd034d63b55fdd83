"""What an attack stage leaves in its folder: a table of answers, one per question asked, and one of findings, numbers about memories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd

from ..common.processes import gathered, is_alone
from ..common.types import Answer, Finding


@dataclass(frozen=True)
class BestAnswer:
    """The best answer to one variant of one attack on one memory: the fields of a record that say nothing about a run."""

    memory: str
    attack: str
    variant: str
    access: str
    tier: int
    start: int
    offset: int
    prompt: str
    matched: int
    horizon: int
    fold: int = -1
    extra: bool = False
    dose: str = ""
    inner: str = ""


ANSWER, FINDING = (tuple(f.name for f in fields(cls)) for cls in (BestAnswer, Finding))  # columns
T = TypeVar("T", BestAnswer, Answer, Finding)


def write_answers(folder: Path, answers: Sequence[BestAnswer], findings: Sequence[Finding], extra: set[str]) -> None:
    """`extra` are the memories that were asked on top, as survivors of cheaper attacks."""
    rows = [vars(replace(a, extra=a.memory in extra)) for a in answers]
    pd.DataFrame(rows, columns=list(ANSWER)).to_parquet(folder / "answers.parquet", index=False)
    pd.DataFrame(map(vars, findings), columns=list(FINDING)).to_parquet(folder / "findings.parquet", index=False)


def read_answers(folder: Path) -> list[BestAnswer]:
    return [BestAnswer(**row) for row in _rows(folder / "answers.parquet")]


def read_findings(folder: Path) -> list[Finding]:
    return [Finding(**row) for row in _rows(folder / "findings.parquet")]


def _rows(file: Path) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], pd.read_parquet(file).to_dict("records"))


def of_all_ranks(kind: type[T], items: list[T]) -> list[T]:
    """The items of every rank, on every rank; between ranks they are JSON, which knows lists only."""
    if is_alone():
        return items
    rows: list[dict[str, Any]] = gathered([asdict(item) for item in items])
    lists = [{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
    return [kind(**row) for row in cast(list[dict[str, Any]], lists)]
