"""A micro suite whose every input is a file that may be edited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from palimpsest.benchmark.common import sources
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import Suite

METHOD = '''"""A method."""
from dataclasses import dataclass
from typing import ClassVar
from beside import AMOUNT
from palimpsest.benchmark.method import Method

@dataclass(frozen=True)
class Forget(Method):
    """Forgets."""
    amount: float = AMOUNT

    def unlearn(self, held, data, train):
        return held  # nothing
'''


@dataclass
class World:
    """A micro suite whose every input is a file that may be edited."""

    folder: Path
    suite: Suite
    patch: pytest.MonkeyPatch

    def keys(self) -> dict[tuple[str, str], str]:
        """(kind, label) -> key, as a new process finds them."""
        find.cache_clear()
        return {(s.kind, s.label): s.key for s in Run(self.suite, Store(self.folder / "store")).plan}

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        assert old in text
        (self.folder / file).write_text(text.replace(old, new))

    def tokenizer(self, change: Callable[[Any], Any]) -> None:
        it = AutoTokenizer.from_pretrained(self.folder / "model")
        change(it)
        it.save_pretrained(self.folder / "model")

    def pretend(self, what: str, file: str) -> None:
        """As if a file of the tree held something else."""
        before = getattr(sources, what)
        self.patch.setattr(sources, what, lambda f, *rest, **how: before(f, *rest, **how) + ("x" if f.name == file else ""))
