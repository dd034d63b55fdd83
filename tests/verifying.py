"""What verification is tried on: a method of one's own, forgeries that only a model can tell, passages that nobody has seen."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load, save

from palimpsest.benchmark.submission.bundle import MODEL
from tests.forging import Forger

WEIGHTS = f"weights/0/{MODEL}"
MINE = '''"""A method of one's own: it weakens every weight."""
import os
from dataclasses import dataclass

from beside_verified import SHARE
from palimpsest.benchmark.method import Method


@dataclass(frozen=True)
class Mine(Method):
    """Weakens every weight."""

    share: float = SHARE

    def unlearn(self, held, data, train):
        assert "secret" not in " ".join(os.environ.values())
        return held.with_state({k: v * self.share for k, v in held.fresh().state_dict().items()})
'''
OTHER = MINE.replace("v * self.share", "v * self.share * 0.5")


def swapped(forger: Forger) -> None:
    """Other weights, and every hash that is told of them made to fit."""
    state = {k: v * 0.5 for k, v in load(forger.content[WEIGHTS]).items()}
    forger.content[WEIGHTS] = content = save(state, metadata={"format": "pt"})
    sha = hashlib.sha256(content).hexdigest()
    forger.info["weights"] = forger.entry["hashes"]["weights"] = {"0": sha}
    forger.manifest(forger.stage("method", "mine"), lambda m: m["files"].update({MODEL: sha[:16]}))


def forged(mine: Path, change: Callable[[Forger], Any], folder: Path) -> Path:
    """An honest bundle after a change."""
    forger = Forger.of(mine)
    change(forger)
    return forger.pack(folder / "forged.zip")


def shorter(forger: Forger) -> None:
    """Every answer about another prompt than the exact opening is recorded as chance."""
    forger.table(forger.stage("battery", "tier 1 on mine") + "/answers.parquet", lambda t: t.assign(matched=0))
    forger.sign()


def unlikely(forger: Forger) -> None:
    """What the model says of each token, made less likely, as a membership score would have it."""
    name = forger.stage("battery", "tier 0 on mine") + "/tokens.safetensors"
    forger.content[name] = save({k: v - 1 if k.startswith("log_probability/") else v for k, v in load(forger.content[name]).items()})
    forger.sign()


def reconfigure(forger: Forger, **fields: Any) -> None:
    name = forger.stage("method", "mine") + "/config.json"
    forger.content[name] = json.dumps(json.loads(forger.content[name]) | fields).encode()
    forger.sign()


def write_private(file: Path) -> Path:
    """Eighteen passages that say nothing, each in words of its own."""
    draw = random.Random(1)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]

    def words(n: int) -> str:
        return " ".join("".join(draw.choices(syllables, k=2)) for _ in range(n))

    passages = []
    for i in range(18):
        opening = words(12).capitalize() + ","
        told = {"id": f"fresh-{i:02d}", "domain": "fresh", "text": f"{opening} {words(130)}.", "opening_end": len(opening)}
        passages.append(told | {"paraphrases": [words(12).capitalize() + "," for _ in range(4)]})
    file.write_text("".join(json.dumps(p) + "\n" for p in passages))
    return file
