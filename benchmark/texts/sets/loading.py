"""Rows of a forget set, from the hub or from a local copy, and what the files of all sets share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.errors import UserError
from ...common.lines import json_lines, read_text
from ..neardup import words

ENDINGS = (".jsonl", ".json", ".parquet")
Given = dict[str, Any]  # a row of a set, or a memory as a file of memories gives it


@dataclass(frozen=True)
class Source:
    """Where a set is read from: a local folder, or else the hub at a revision."""

    name: str  # of the set, for messages
    hub: str  # owner/name of the dataset
    folder: Path | None = None
    revision: str | None = None

    def rows(self, config: str, split: str, *columns: str, hub: str = "", files: str = "") -> list[Given]:
        """The rows of one split of a configuration ("" for none), each with at least these columns.

        `hub`: another dataset than the set's own; `files`: which of its files hold the split, where the hub cannot tell.
        """
        found = self._local(config, split) if self.folder else self._from_hub(hub or self.hub, config, split, files)
        place = f"{self.name}: {'/'.join(filter(None, (config, split)))}"
        if not found:
            raise UserError(f"{place} of {self._where} holds no rows.")
        for number, row in enumerate(found, 1):
            if not isinstance(row, dict) or (missing := [c for c in columns if c not in row]):
                said = f"has no column {missing[0]}; it has {', '.join(row)}" if isinstance(row, dict) else f"is a {type(row).__name__}"
                raise UserError(
                    f"{place} of {self._where}, row {number}, {said}. Expected {', '.join(columns)}: is it the set's own format?"
                )
        return found

    @property
    def _where(self) -> str:
        return str(self.folder or f"{self.hub}{f' at {self.revision}' if self.revision else ''}")

    def _from_hub(self, hub: str, config: str, split: str, files: str) -> list[Given]:
        import datasets

        more: dict[str, Any] = {"data_files": {split: files}} if files else {}
        try:
            data = datasets.load_dataset(hub, config or None, split=split, revision=self.revision, **more)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{self.name}: the hub does not give {hub} ({reason}). A local copy works too: memories={self.name}:/path."
            ) from None
        return list(data)  # type: ignore[arg-type]

    def _local(self, config: str, split: str) -> list[Given]:
        assert self.folder
        folder = self.folder.resolve()
        names = [f"{config}/{split}", f"{config}-{split}", f"{config}_{split}", config] if config else [f"data/{split}", split]
        found = [p for name in names for p in sorted(folder.glob(f"{name}*")) if p.suffix in ENDINGS and _is_of(p, folder, name)]
        if not found:
            raise UserError(
                f"{self.name}: {self.folder} holds no {names[0]} (.json, .jsonl or .parquet). Expected a copy of the dataset {self.hub}."
            )
        first = [p for p in found if p.parent == found[0].parent and p.suffix == found[0].suffix]
        if outside := [p for p in first if not p.resolve().is_relative_to(folder)]:
            raise UserError(f"{outside[0]} is a link that leads out of {self.folder}; put the file itself there.")
        return [row for p in first for row in _read(p)]


def _is_of(file: Path, folder: Path, name: str) -> bool:
    """Whether a file is the one named, or one of its numbered parts."""
    return re.fullmatch(rf"{re.escape(name)}(?:-\d+-of-\d+)?", file.relative_to(folder).with_suffix("").as_posix()) is not None


def _read(file: Path) -> list[Given]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        try:
            return pq.read_table(file).to_pylist()
        except (ArrowException, OSError) as error:
            raise UserError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    text = read_text(file)
    if not text.lstrip().startswith("["):
        return [row for _, row in json_lines(file)]
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}.") from None


@dataclass(frozen=True)
class ForgetSet:
    """A set: what it is, and how its rows become memories. `parts` are what may be named after the colon, the first by default."""

    name: str
    hub: str
    licence: str  # as the set's own pages gave it; says so where nobody looked
    parts: Mapping[str, str]  # name -> what it holds
    memories: Callable[[Source, str], Iterable[Given | None]] = field(repr=False)  # of a part
    retain: Callable[[Source, str], Iterable[str]] = field(repr=False)  # texts for `corpus.source=set`
    aside: Callable[[Source, str], Iterable[Given]] = field(default=lambda *_: (), repr=False)  # what published measures alone ask


def question(name: str, domain: str, role: str, asked: Any, answer: Any, **more: Any) -> Given:
    """A question of a chat, as a file of memories gives it; texts are stripped, and further ones kept where they say something new."""
    asked, answer = _text(asked), _text(answer)
    right = [answer, *_texts(more.pop("answers", ()))]
    answers = distinct(right)[1:]
    wrong = [w for w in distinct(_texts(more.pop("wrong", ()))) if tuple(words(w)) not in {tuple(words(a)) for a in right}]
    paraphrases = [p for p in distinct(_texts(more.pop("paraphrases", ()))) if tuple(words(p)) != tuple(words(asked))]
    known: Given = {"id": name, "domain": domain, "role": role, "kind": "qa", "chat": True, "prompt": asked, "answer": answer}
    return known | {"answers": answers, "wrong": wrong, "paraphrases": paraphrases} | more


def passage(name: str, domain: str, role: str, text: str, opening: int) -> Given | None:
    """A passage whose opening is so many words; None if four times as many are not there."""
    ends = [m.end() for m in re.finditer(r"\S+", text)]
    if len(ends) < 4 * opening:
        return None
    return {"id": name, "domain": domain, "role": role, "text": text, "opening_end": ends[opening - 1]}


def whole(given: Iterable[Given | None]) -> Iterator[Given]:
    """The memories that say something, each question once: what is forgotten first, since it may be asked again among what is kept."""
    seen: set[tuple[str, ...]] = set()
    for g in sorted(filter(None, given), key=lambda g: g["role"] != "forget"):
        asked = g.get("prompt", g.get("text", ""))
        if (key := tuple(words(asked))) and key not in seen and g.get("answer", "text").strip():
            seen.add(key)
            yield g


def distinct(texts: Iterable[str]) -> list[str]:
    """Texts of other words than those before."""
    return list({tuple(words(t)): t for t in reversed(list(texts))}.values())[::-1]


def _text(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if not isinstance(value, str):
        raise UserError(f"A forget set holds {str(value)[:60]!r} where a text should be.")
    return value.strip()


def _texts(values: Any) -> list[str]:
    many: Sequence[Any] = [values] if isinstance(values, str) else values or ()
    return [t for t in map(_text, many) if t]
