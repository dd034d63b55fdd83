"""Rows of a forget set, from the hub or from a local copy, and what the files of all sets share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...common.errors import UserError, first_line, of_library
from ...common.lines import json_lines, lone_surrogate, read_text
from ..neardup import words
from .alike import alike, distinct
from .rows import Row

ENDINGS = (".jsonl", ".json", ".parquet")
PART = re.compile(r"-\d+-of-(\d+)$")  # at the end of a file's name: one of so many
ALONE = ("train", "test")  # splits that are all that a configuration has, so that a file may have its name
_SPACE = re.compile(r"\s*")
LONG, PIECE = 10_000, 2_000  # characters: longer retain texts are cut, into pieces of about so many
Given = dict[str, Any]  # a memory as a file of memories gives it


@dataclass(frozen=True)
class Source:
    """Where a set is read from: a local folder, or else the hub at a revision."""

    name: str  # of the set, for messages
    hub: str  # owner/name of the dataset
    folder: Path | None = None
    revision: str | None = None

    def beside(self, hub: str) -> Source:
        """A dataset that does not belong to the set: the revision is none of its."""
        return replace(self, hub=hub, revision=None)

    def rows(self, config: str, split: str, *columns: str, files: str = "") -> list[Row]:
        """The rows of one split of a configuration ("" for none), each with at least these columns.

        `files`: which of the dataset's files hold the split, where the hub cannot tell.
        """
        place = f"{self.name}: {'/'.join(filter(None, (config, split)))} of {self._where}"
        found = self._local(config, split) if self.folder else {place: self._from_hub(config, split, files)}
        rows = [_row(value, f"{where}, row {number}", columns) for where, values in found.items() for number, value in enumerate(values, 1)]
        if not rows:
            raise UserError(f"{place} holds no rows.")
        return rows

    @property
    def _where(self) -> str:
        return str(self.folder or f"{self.hub}{f' at {self.revision}' if self.revision else ''}")

    def _from_hub(self, config: str, split: str, files: str) -> list[Any]:
        import datasets

        more: dict[str, Any] = {"data_files": {split: files}} if files else {}
        try:
            data = datasets.load_dataset(self.hub, config or None, split=split, revision=self.revision, **more)
        except Exception as error:
            if not isinstance(error, OSError | ValueError) and not of_library(error, "datasets"):
                raise
            said = f"{self.name}: the hub does not give {self.hub} ({first_line(error)})"
            raise UserError(f"{said}. A local copy works too: memories={self.name}:/path.") from None
        return list(data)

    def has(self, config: str, split: str) -> bool:
        """Whether the local copy holds this split."""
        return bool(self.folder and self._files(config, split))

    def may_have(self, config: str, split: str) -> bool:
        """Whether the split is there: of a local copy as `has` says; the hub has all of a set."""
        return not self.folder or self.has(config, split)

    def _files(self, config: str, split: str) -> dict[tuple[Path, str], list[Path]]:
        """Files of one kind under one name, in one piece or in so many."""
        assert self.folder
        folder, found = self.folder.resolve(), dict[tuple[Path, str], list[Path]]()
        for name in _names(config, split):
            for file in sorted(folder.glob(f"{name}*")):
                if file.suffix in ENDINGS and _is_of(file, folder, name):
                    parts = PART.search(file.stem)
                    found.setdefault((folder / f"{name}{file.suffix}", parts[1] if parts else ""), []).append(file)
        return found

    def _local(self, config: str, split: str) -> dict[str, list[Any]]:
        """File -> its rows, of the one file that holds the split, or of all its numbered parts."""
        assert self.folder
        folder, names, found = self.folder.resolve(), _names(config, split), self._files(config, split)
        if not found:
            raise UserError(
                f"{self.name}: {self.folder} holds no {names[0]} or {names[-1]} (.json, .jsonl or .parquet). "
                f"Expected a copy of the dataset {self.hub}."
            )
        if len(found) > 1:
            several = " and ".join(files[0].relative_to(folder).as_posix() for files in found.values())
            raise UserError(f"{self.name}: {self.folder} holds {several}, and each may be {names[0]}; leave one of them there.")
        (named, many), files = found.popitem()
        if many and len(files) != int(many):
            raise UserError(f"{self.name}: {self.folder} holds {len(files)} of the {int(many)} parts of {named.name}; copy the others too.")
        if outside := [p for p in files if not p.resolve().is_relative_to(folder)]:
            raise UserError(f"{outside[0]} is a link that leads out of {self.folder}; put the file itself there.")
        return {f"{self.name}: {p}": _read(p) for p in files}


def _names(config: str, split: str) -> list[str]:
    """What a file may be called, within the folder and without its ending, that holds a split of a configuration."""
    names = [f"{config}/{split}", f"{config}-{split}", f"{config}_{split}"] if config else [f"data/{split}", split]
    return names + ([config] if config and split in ALONE else [])


def _row(value: Any, where: str, columns: tuple[str, ...]) -> Row:
    if not isinstance(value, dict):
        said = f"expected an object with {', '.join(columns) or 'columns'}"
        raise UserError(f"{where}, is a {type(value).__name__}; {said}: is it the set's own format?")
    row = Row(value, where)
    row.require(columns)
    return row


def _is_of(file: Path, folder: Path, name: str) -> bool:
    """Whether a file is the one named, or one of its numbered parts."""
    return PART.sub("", file.relative_to(folder).with_suffix("").as_posix()) == name


def _read(file: Path) -> list[Any]:
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
        rows = _lists(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}.") from None
    if half := lone_surrogate(rows):
        raise UserError(f"{file} holds {half}, half of a character, which no text can hold. Write the whole character.")
    return rows


def _lists(text: str) -> list[Any]:
    """The rows of lists that stand one after another, as `datasets` writes them a batch at a time."""
    rows, decoder, at = list[Any](), json.JSONDecoder(), 0
    while (begin := _SPACE.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        found, at = decoder.raw_decode(text, begin)
        if not isinstance(found, list):
            raise ValueError(f"expected a list at character {begin}")
        rows += found
    return rows


@dataclass(frozen=True)
class ForgetSet:
    """A set: what it is, and how its rows become memories. `parts` are what may be named after the colon, the first by default."""

    name: str
    hub: str  # OWNER/NAME of the dataset; {part} stands for the part's name, where each has a dataset of its own
    licence: str  # as the set's own pages gave it; says so where nobody looked
    parts: Mapping[str, str]  # name -> what it holds
    memories: Callable[[Source, str], Iterable[Given | None]] = field(repr=False)  # of a part
    retain: Callable[[Source, str], Iterable[str]] = field(repr=False)  # texts for `corpus.source=set`
    aside: Callable[[Source, str], Iterable[Given]] = field(default=lambda *_: (), repr=False)  # what published measures alone ask

    def hub_of(self, part: str) -> str:
        """The dataset that holds a part."""
        return self.hub.format(part=part.capitalize())


def question(
    name: str,
    domain: str,
    role: str,
    asked: str,
    answer: str,
    answers: Iterable[str] = (),
    wrong: Iterable[str] = (),
    paraphrases: Iterable[str] = (),
    **more: Any,
) -> Given:
    """A question of a chat, as a file of memories gives it; texts are stripped.

    Further answers and paraphrases are kept where they say something new. Wrong answers stay as given, also two that say the same:
    measures of other papers are means over all of them. Only one that is the same as a right answer is left out.
    """
    asked, answer = asked.strip(), answer.strip()
    known: Given = {"id": name, "domain": domain, "role": role, "kind": "qa", "chat": True, "prompt": asked, "answer": answer}
    known |= _answers(answer, _said(answers), map(str.strip, wrong))
    return known | {"paraphrases": distinct([asked, *_said(paraphrases)])[1:]} | more


def passage(name: str, domain: str, role: str, text: str, opening: int) -> Given | None:
    """A passage whose opening is so many words; None if four times as many are not there."""
    ends = [m.end() for m in re.finditer(r"\S+", text)]
    if len(ends) < 4 * opening:
        return None
    return {"id": name, "domain": domain, "role": role, "text": text, "opening_end": ends[opening - 1]}


def pieces(text: str) -> Iterator[str]:
    """A text in parts of whole lines of some `PIECE` characters, where it has more than `LONG`; else as it is."""
    if len(text) <= LONG:
        yield text
        return
    part = ""
    for line in text.splitlines(keepends=True):
        if part and len(part) + len(line) > PIECE:
            yield part
            part = ""
        part += line
    yield part


def whole(given: Iterable[Given | None]) -> Iterator[Given]:
    """The memories that say something, each question once: what is forgotten first, since it may be asked again among what is kept.

    What another row of its role answers to a question is accepted too. Passages of the same words are one, as for `neardup.doubles`.
    """
    kept: dict[str | tuple[str, ...], Given] = {}
    for g in sorted(filter(None, given), key=lambda g: g["role"] != "forget"):
        key = alike(g["prompt"]) if "prompt" in g else tuple(words(g["text"]))
        if not key or not g.get("answer", "text").strip():
            continue
        first = kept.setdefault(key, g)
        if first is not g and first.get("kind") == g.get("kind") == "qa" and first["role"] == g["role"]:
            more = [*first.get("answers", ()), g["answer"], *g.get("answers", ())]
            kept[key] = first | _answers(first["answer"], more, first.get("wrong", ()))
    return iter(kept.values())


def _answers(answer: str, answers: Iterable[str], wrong: Iterable[str]) -> Given:
    """Further answers that say something new, and wrong ones that are none of the right."""
    further = distinct([answer, *answers])[1:]
    right = {alike(a) for a in (answer, *further)}
    return {"answers": further, "wrong": [w for w in wrong if alike(w) not in right]}


def _said(texts: Iterable[str]) -> list[str]:
    """Texts without the white space around them, but for those that are empty."""
    return [t for t in map(str.strip, texts) if t]
