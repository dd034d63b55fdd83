"""One rank of a battery: asks the model in FOLDER with every kind of attack and writes what it got to OUT."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist

from palimpsest.benchmark.attack import Answer, EncodedMemory, Finding, Searching, Subject, Tools, Workshop
from palimpsest.benchmark.battery.one_attack import Task, attack_once
from palimpsest.benchmark.battery.shared_pass import Armed, Probes, arm, ask_all
from palimpsest.benchmark.common.plugins import Plugin
from palimpsest.benchmark.common.processes import start_distributed
from palimpsest.benchmark.reading.readings import plain_reading
from palimpsest.benchmark.texts.memories import encode_all, load_memories


@dataclass(frozen=True)
class Counting(Searching):
    """Says how many memories it was given: ranks share them."""

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Answer | Finding]:
        for m in memories:
            yield Finding(m.id, "given", float(len(memories)))


def work(model: Path, out: Path) -> None:
    """Ask as a rank of whatever group the environment names."""
    start_distributed()
    subject = Subject(model)
    memories = encode_all(load_memories(), subject.tokenizer, 160, 0, 8, "")
    scored = [m for m in memories if m.role == "forget"]
    prompting = arm({"prefix": {}, "shifted_window": {"stride": 32}, "paraphrase": {}})
    probes = Probes(Tools(subject))
    asked = [(a, memories if a.name == "prefix" else scored) for a in prompting]
    got = ask_all(subject, probes, asked, "bf16", tokens=memories)
    single = ask_all(subject, probes, [(prompting[0], scored[:1])], "bf16")
    changed, counting = arm({"prune": {"shares": [0.1]}})[0], Armed(Plugin("attack", "counting", Counting, ""), Counting(), {})
    tasks = [Task(a, scored, memories, Workshop(subject, precision="bf16"), probes, prompting[:2]) for a in (changed, counting)]
    for task in tasks:
        attack_once(task, subject)
    found = {
        "answers": list(map(asdict, got.answers)), "facts": got.facts,
        "readings": sorted(map(json.dumps, map(plain_reading, got.readings.values()))),
        "cache": sorted((k.hex(), m) for k, m in got.cache.items()), "changed": [list(map(asdict, t.answers)) for t in tasks],
        "single": list(map(asdict, single.answers)), "findings": [[asdict(f) for f in t.findings] for t in tasks],
    }  # fmt: skip
    rank, world = (dist.get_rank(), dist.get_world_size())
    (out / f"{world}-{rank}.json").write_text(json.dumps(found))
