"""Public checkpoints with known labels, named by a file: what is asked of them, with no injection and no training of ours."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..attack_tools.bases import Tools, Workshop
from ..battery.shared_pass import Probes
from ..common.errors import UserError
from ..common.fields import build
from ..common.lines import json_lines
from ..common.paths import CONFIGS
from ..common.types import HELD, HORIZON, TWIN, EncodedMemory, Memory, Role, TokenReading, memory_from
from ..common.written import read_yaml
from ..models.subject import Subject, open_subject
from ..reading.reader import Reader
from ._asking import Asking, Battery
from ._labelled import HOLDS, NEVER

FOLDER = CONFIGS / "studies"


@dataclass(frozen=True)
class Checkpoints:
    """Labelled checkpoints: hub ids or folders under `at`. `held` and `twin` are those that the others are compared with."""

    at: str
    held: str
    twin: str
    holds: str
    never: str
    chat: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """Name -> group. `held` and `twin` come first, under the names none and twin."""
        held, twin = ({HELD: HOLDS}, {TWIN: NEVER})
        return held | twin | dict.fromkeys(expanded(self.holds), HOLDS) | dict.fromkeys(expanded(self.never), NEVER)

    def place(self, name: str) -> str:
        """Where a checkpoint is, by its name among `labels`."""
        return f"{self.at}/" + {HELD: self.held, TWIN: self.twin}.get(name, name)


def expanded(pattern: str) -> list[str]:
    """Every name that a pattern stands for: {a,b} and {1..3} take each of their values in turn."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[p] if i % 2 == 0 else _values(p) for i, p in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _values(inside: str) -> list[str]:
    if found := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        return [str(n) for n in range(int(found[1]), int(found[2]) + 1)]
    return inside.split(",")


def load_checkpoints(name: str, at: str = "") -> Checkpoints:
    """A shipped file of configs/studies by its name, or a path; `at` looks for the checkpoints elsewhere."""
    file = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in FOLDER.glob("*.yaml")))
        raise UserError(f"There is no file of checkpoints {name!r}; shipped: {known}. Or give the path of a YAML file.")
    given = read_yaml(file)
    if not isinstance(given, dict):
        raise UserError(f"{file} should hold fields (name: value), as {FOLDER / 'tofu.yaml'} does.")
    return build(Checkpoints, given | ({"at": at} if at else {}), f"checkpoints {file}")


@dataclass
class Public:
    """Checkpoints with the texts about which they are asked, in the twin's tokenizer."""

    checkpoints: Checkpoints
    forget: Path
    unseen: Path
    asked: int
    row: int
    precision: str

    @cached_property
    def twin(self) -> Subject:
        return open_subject(self.checkpoints.place(TWIN))

    @cached_property
    def held(self) -> Subject:
        return self.opened(HELD)

    def opened(self, name: str) -> Subject:
        """A checkpoint; one with another tokenizer is refused, since its lengths in tokens would mean something else."""
        subject = open_subject(self.checkpoints.place(name))
        if subject.encoding != self.twin.encoding:
            raise UserError(f"{self.checkpoints.place(name)} has another tokenizer than the twin; lengths in tokens cannot be compared.")
        return subject

    @cached_property
    def memories(self) -> list[EncodedMemory]:
        files: dict[Role, Path] = {"forget": self.forget, "unseen": self.unseen}
        found = [m for role, file in files.items() for m in itertools.islice(self._encoded(role, file), self.asked)]
        if twice := [name for name, count in Counter(m.id for m in found).items() if count > 1]:
            raise UserError(f"The id {twice[0]!r} stands for two memories of {self.forget} and {self.unseen}; every memory needs its own.")
        return found

    def asking(self, battery: Battery, few: int) -> Asking:
        reader = Reader(self.twin, self.precision)
        reader.read([], self.memories)
        tools = Tools(self.twin)

        def workshop(label: str, tokens: Mapping[str, TokenReading]) -> Workshop:
            return Workshop(self.twin, tokens=tokens, precision=self.precision, held=self.held, twin=self.twin)

        return Asking(battery, self.memories, self.memories, few, Probes(tools), workshop, reader.readings, self.precision)

    def _encoded(self, role: Role, file: Path) -> Iterator[EncodedMemory]:
        if not file.is_file():
            raise UserError(f"There is no file {str(file)!r}; expected JSON lines, a question and an answer or a memory each.")
        for number, given in json_lines(file):
            try:
                memory = _memory(given, f"{role}-{number}")
            except (KeyError, TypeError, AttributeError):
                raise UserError(f"{file}:{number}: expected a JSON object with question and answer, or a memory.") from None
            opening, target = (self._ids(text, i == 0) for i, text in enumerate((memory.opening, memory.text[memory.opening_end :])))
            row = (*opening, *target[: max(0, min(HORIZON, self.row - len(opening)))])
            if len(row) <= len(opening):
                raise UserError(f"{file}:{number}: an opening of {len(opening)} tokens leaves nothing of a row of {self.row}; raise row.")
            yield EncodedMemory(memory, role, False, row, len(opening), memory.text)

    def _ids(self, text: str, opening: bool) -> tuple[int, ...]:
        """Token ids; an opening as the chat template puts it, where one is wanted. The id before every text is added by readers."""
        tokenizer = self.twin.tokenizer
        if opening and self.checkpoints.chat and getattr(tokenizer, "chat_template", None):
            text = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids[1:] if opening and ids and ids[0] == self.twin.bos else ids


def _memory(given: Mapping[str, Any], name: str) -> Memory:
    """A memory from its own JSON object, or from a question and its answer."""
    if "question" in given:
        question, answer, wrong = str(given["question"]), str(given["answer"]), given.get("perturbed_answer", ())
        wrong = (wrong,) if isinstance(wrong, str) else tuple(map(str, wrong))
        return Memory(name, "questions", f"{question} {answer}", len(question), wrong=wrong)
    memory = memory_from(given)
    if not 0 < memory.opening_end < len(memory.text):
        raise KeyError
    return memory
