"""The records of a tiny fixed run, as they were when somebody last vouched for them.

`python -m tests.benchmark.golden` runs it, compares with golden.json and prints a digest of every number; `--write` pins what it finds.

Processors differ in the last bits of a sum, and training makes that more. So golden.json holds what is the same on all of them: which
memory was asked what, with which prompt; per model and attack the mean matched length, compared within 2 tokens where everything or
nothing comes back and loosely elsewhere; and bits per byte within 10%. The printed digest is over every bit: on one machine it is the
same before and after a change if nothing at all has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).with_name("golden.json")
SHARE = 0.1  # by which bits per byte may differ
TOKENS, WAVERING = 2.0, 20.0  # by so many a mean length: where everything or nothing comes back, and elsewhere
STEADY = {f"{model} {role} prefix" for model in ("none", "twin") for role in ("forget", "keep", "unseen")}


def run(folder: Path) -> tuple[dict[str, Any], str]:
    """What every machine should find, and the digest of all that this one found."""
    from transformers import AutoTokenizer

    from palimpsest.benchmark.common.paths import CONFIGS
    from palimpsest.benchmark.running.assemble import results
    from palimpsest.benchmark.running.plan import Run
    from palimpsest.benchmark.running.store import Store
    from tests.conftest import save_tiny
    from tests.micro import micro_suite, write_corpus

    torch.set_num_threads(1)
    for name in ("texts", "model"):
        (folder / name).mkdir()
    save_tiny(folder / "model", AutoTokenizer.from_pretrained(CONFIGS / "models" / "tokenizer"))
    bound = Run(micro_suite(folder / "model", write_corpus(folder / "texts", 500), occurrences=100), Store(folder / "store"))
    bound.execute()
    found = results(bound)
    asked = sorted([r.method, r.memory, r.role, r.attack, r.variant, r.access, r.tier, r.offset, r.horizon] for r in found.records)
    written = sorted({(r.memory, r.prompt) for r in found.records if r.variant == "opening"})
    lengths: dict[str, list[int]] = defaultdict(list)
    for r in found.records:
        lengths[f"{r.method} {r.role} {r.attack}"].append(r.matched)
    robust = {
        "asked": hashlib.sha256(json.dumps([asked, written]).encode()).hexdigest()[:16],
        "lengths": {k: round(sum(v) / len(v), 2) for k, v in sorted(lengths.items())},
        "quality": {f"{q.method} {q.task} {q.metric}": round(q.value, 4) for q in found.quality if q.metric == "bits_per_byte"},
    }
    every = [*sorted(map(repr, found.records)), *map(repr, found.values), *(repr((q, q.documents)) for q in found.quality)]
    keys = [s.key for s in bound.plan]
    text = "\n".join(every)
    for i, key in enumerate(keys):  # a key is no result
        text = text.replace(key, f"stage {i}")
    return robust, hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(found: dict[str, Any], golden: dict[str, Any]) -> list[str]:
    """What is not as it was pinned."""
    out = [] if found["asked"] == golden["asked"] else ["which memories were asked what"]
    for what in ("lengths", "quality"):
        mine, theirs = found[what], golden[what]
        out += [f"{k}: in only one of them" for k in sorted(mine.keys() ^ theirs.keys())]
        out += [f"{k}: {theirs[k]} → {mine[k]}" for k in theirs if k in mine and abs(mine[k] - theirs[k]) > allowed(k, theirs[k])]
    return out


def allowed(name: str, value: float) -> float:
    """By how much a mean length, or a value of quality, may differ from one processor to another."""
    if "bits_per_byte" in name:
        return SHARE * value
    return TOKENS if name in STEADY else WAVERING


def golden() -> dict[str, Any]:
    return json.loads(FILE.read_text("utf-8"))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PALIMPSEST_CACHE"] = f"{folder}/cache"
        found, digest = run(Path(folder))
    print(f"digest of every number on this machine: {digest}")
    if "--write" in sys.argv:
        FILE.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(f"{FILE.name} written")
        return 0
    wrong = differences(found, golden())
    print("\n".join(wrong) if wrong else "The records are what they were.")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
