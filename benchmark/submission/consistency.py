"""Whether what a bundle's stages hold agrees with itself and with what can be derived without any model.

A record of the exact opening follows from what the model says about each token; a quality from its documents; who is asked what from the
suite. What does not follow (an answer to another prompt) cannot be judged here: that is what `spotcheck` is for.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..battery.answers import read_answers
from ..battery.shared_pass import Armed
from ..common.lines import json_lines
from ..common.types import BASE, HELD, HORIZON, TWIN, EncodedMemory, Record, TokenReading
from ..quality.documents import items
from ..reading.reader import copied
from ..running.model import Model
from ..running.who_is_asked import SHARED
from ..scoring.score import Score
from .bundle import hashes, weights_in
from .row import Row

BITS = "palimpsest_bits_per_byte"
CLOSE = 1e-6  # relative


def records_of(row: Row, model: Model) -> list[Record]:
    """A model's records, read once."""
    return row.once(("records", model.name, model.seed), lambda: list(row.attacking.records(model)))


def models_of(row: Row) -> list[Model]:
    return [row.model(m, seed) for seed in row.suite.seeds for m in (TWIN, *row.methods)]


def who_was_asked(row: Row) -> list[str]:
    """Every attack on every model: exactly the memories that it should be asked about, survivors marked, and the same questions for all."""
    wrong: list[str] = []
    for model in models_of(row):
        if strange := _strangers(row, model):
            wrong.append(strange)
            continue
        by_attack: dict[str, list[Record]] = defaultdict(list)
        for r in records_of(row, model):
            by_attack[r.attack].append(r)
        for armed in row.who.attacks:
            wrong += (f"{armed.name} on {model.label}: {why}" for why in _asked(row, model, armed, by_attack[armed.name]))
    return wrong or _questions(row)


def _strangers(row: Row, model: Model) -> str:
    """A memory or an attack in a model's answers that this seed or suite does not have; looked at before records are made of them."""
    ids, attacks = {m.id for m in model.memories}, {a.name for a in row.who.attacks}
    for stage in row.attacking.stages(model):
        for a in read_answers(row.store.ensure(stage)):
            if a.memory not in ids:
                return f"{stage.label}: answers about {a.memory}, which is no memory of this seed"
            if a.attack not in attacks:
                return f"{stage.label}: answers of {a.attack}, which the suite does not ask"
    return ""


def _asked(row: Row, model: Model, armed: Armed, answers: list[Record]) -> Iterator[str]:
    attack = armed.attack
    if any((a.access, a.tier) != (attack.access, attack.tier) for a in answers):
        yield "says another access level or tier than the attack has"
    if attack.tier <= SHARED and len({(a.memory, a.variant) for a in answers}) < len(answers):
        yield "answers one question twice"
    wanted, there = {m.id for m in row.who.asked(model, attack)}, {a.memory for a in answers}
    survivors = {m.id for m in row.attacking._survivors(model, attack)}
    if beyond := sorted(there - wanted - survivors):
        yield f"answers about {beyond[0]}, which it is not asked about"
    by_twin = {r.memory for r in records_of(row, row.model(TWIN, model.seed)) if r.attack == armed.name}
    if absent := sorted((wanted | survivors) & by_twin - there):
        yield f"leaves out {absent[0]}, about which the twin was asked"
    extra = {a.memory for a in answers if a.extra}
    on_top = there - wanted if attack.tier <= SHARED else row.who.extra([m for m in model.memories if m.id in there], model.seed)
    if extra != on_top:
        yield f"marks {len(extra)} memories as asked on top; expected {len(on_top)}"


def thresholds_of_null(row: Row) -> list[str]:
    """What counts as recovered, from the answers of held models and twins: it decides who is asked on."""
    if not row.who.needs_thresholds:
        return []
    null = [r for seed in row.suite.seeds for m in (HELD, TWIN) for r in records_of(row, row.model(m, seed))]
    found = {k: c.as_dict() for k, c in Score(null, TWIN, row.who.diagnostics).calibrations.items()}
    told = json.loads((row.store.ensure(row.attacking.thresholds) / "thresholds.json").read_text())
    apart = [k for k in found.keys() | told.keys() if json.loads(json.dumps(found.get(k))) != told.get(k)]
    return [f"thresholds of {k} are not those of the null" for k in sorted(apart)]


def _questions(row: Row) -> list[str]:
    """A memory is asked the same questions on every model, so far as attacks ask in shared passes."""
    asked: dict[tuple[int, str, str], dict[str, frozenset[tuple[Any, ...]]]] = defaultdict(dict)
    for model in models_of(row):
        found: dict[tuple[str, str], set[tuple[Any, ...]]] = defaultdict(set)
        for r in records_of(row, model):
            if r.tier <= SHARED and not r.extra:
                # A variant may have several windows, of which each model's best is on record: start and horizon may differ.
                exact = (r.start, r.offset, r.horizon, r.prompt) if r.asks == "exact" else ()
                found[r.attack, r.memory].add((r.variant, *exact))
        for (attack, memory), questions in found.items():
            asked[model.seed, attack, memory][model.name] = frozenset(questions)
    wrong = []
    for (seed, attack, memory), by_model in asked.items():
        if len(set(by_model.values())) > 1:
            wrong.append(f"{attack} asks {row.method} about {memory} (seed {seed}) with other questions than {HELD} and {TWIN}")
    answered: dict[tuple[int, str, str], set[str]] = {k: set(v) for k, v in asked.items()}
    for model in models_of(row):
        for armed in row.who.attacks:
            for m in row.who.asked(model, armed.attack) if armed.attack.tier <= SHARED else ():
                others = answered.get((model.seed, armed.name, m.id), set())
                if others and model.name not in others:
                    wrong.append(f"{armed.name} on {model.label} leaves out {m.id}, about which other models were asked")
    return wrong


def readings_and_records(row: Row) -> list[str]:
    """Records of true tokens in their own row, against what the model says about each of these tokens; and no model's readings twice."""
    wrong: list[str] = []
    for seed in row.suite.seeds:
        seen: dict[bytes, str] = {}
        for model in (row.model(m, seed) for m in (TWIN, *row.methods)):
            readings, roles = row.attacking.readings(model), {m.id: m for m in model.memories}
            if not readings:
                continue
            if readings.keys() != roles.keys():
                wrong.append(f"{model.label}: readings are not of the memories of this seed")
                continue
            if short := [m for m, r in readings.items() if len(r.rank) != len(roles[m].row)]:
                wrong.append(f"{model.label}: the readings of {short[0]} are not of its {len(roles[short[0]].row)} tokens")
                continue
            digest = b"".join(readings[m].log_probability.tobytes() for m in sorted(readings))
            if digest in seen and _weights(row, model) != _weights(row, row.model(seen[digest], seed)):
                wrong.append(f"the readings of {model.label} are those of {seen[digest]}, to the last digit")
            seen[digest] = model.name
            wrong += _against_readings(row, model, readings, roles)
    return wrong


def _weights(row: Row, model: Model) -> str:
    """The hash of a model's weights: two models of the same say the same."""
    if model.stage is None:
        return model.key
    manifest = row.store.manifest(model.stage)
    made = weights_in(manifest)
    return made[""] if [*made] == [""] else f"{hashes(made)} {manifest['files'].get('subject.json', model.key)}"


def _against_readings(row: Row, model: Model, readings: dict[str, TokenReading], roles: dict[str, EncodedMemory]) -> list[str]:
    wrong = []
    for r in records_of(row, model):
        plain = r.tier <= SHARED and r.asks in ("exact", "window") and r.access == "black-box" and not r.dose and r.start == 0
        if not plain:
            continue
        memory, rank = roles[r.memory], readings[r.memory].rank
        end = min(len(memory.row), r.offset + r.horizon)
        told = int(np.argmin(np.append(rank[r.offset : end] == 0, False)))
        copy = not memory.memory.lists and copied(memory.row[: r.offset], memory.row[r.offset : r.offset + told])
        matched = 0 if copy else told
        other = memory.accepted and r.offset == memory.opening and r.matched == r.horizon  # another answer than the one that was read
        if matched != r.matched and not other:
            what = f"{r.attack} {r.variant}".strip()
            wrong.append(f"{model.label}, {r.memory}: {what} is recorded with {r.matched} tokens, and the model's readings give {matched}")
    return wrong


def quality_of_documents(row: Row) -> list[str]:
    """Each task's value from its values by document, of as many documents as the suite asks for."""
    wrong: list[str] = []
    config, limit = row.suite.quality, row.suite.quality.documents
    bytes_of = [len(i["text"].encode()) for i in sorted(items(BITS, row.corpus, config), key=_line)] if BITS in config.tasks else []
    hashes: dict[str, set[str]] = defaultdict(set)
    base = row.model(BASE, row.suite.seeds[0])
    for model in [base, *models_of(row)]:
        lines = [q for _, q in json_lines(row.store.folder(row.quality_stage(model)) / "quality.jsonl")]
        if {q["task"] for q in lines} != set(config.tasks) and set(config.tasks) <= {BITS, "palimpsest_choice", "palimpsest_last_word"}:
            wrong.append(f"quality of {model.label}: not the tasks that the suite asks for")
        for q in lines:
            documents = np.asarray(q["documents"], float)
            hashes[q["task"]].add(f"{q['task_hash']} {len(documents)}")
            if not len(documents) or (limit is not None and len(documents) > limit):
                wrong.append(f"quality of {model.label}: {q['task']} has {len(documents)} documents; expected 1 to {limit}")
                continue
            weights = bytes_of if q["metric"] == "bits_per_byte" and len(bytes_of) == len(documents) else None
            own = q["metric"].startswith("acc") or weights is not None
            value = float(np.average(documents, weights=weights))
            if own and not math.isclose(value, q["value"], rel_tol=CLOSE, abs_tol=CLOSE):
                wrong.append(f"quality of {model.label}: {q['task']} {q['metric']} is {q['value']:.6g}, and its documents give {value:.6g}")
    unlike = [task for task, found in hashes.items() if len(found) > 1]
    return wrong + [f"quality: {task} was not asked with the same documents of every model" for task in unlike]


def texts_side_by_side(row: Row) -> list[str]:
    """Excerpts show the memories' own texts, and a model that is recorded to repeat one whole says it."""
    wrong: list[str] = []
    for seed in row.suite.seeds if row.suite.excerpts else ():
        chosen = {m.id: m for m in row.encoded(seed) if m.role == "forget"}
        lines = [e for _, e in json_lines(row.store.folder(row.excerpt_stage(seed)) / "excerpts.jsonl")]
        if [e["memory"] for e in lines] != [*chosen][: row.suite.excerpts]:
            wrong.append(f"texts of seed {seed}: not of the first {row.suite.excerpts} forget memories")
            continue
        exact = {(r.method, r.memory): r for m in models_of(row) if m.seed == seed for r in records_of(row, m) if r.asks == "exact"}
        for e in lines:
            m = chosen[e["memory"]]
            if (e["prompt"], e["truth"]) != (m.memory.opening, row.decode(m.target)):
                wrong.append(f"texts of seed {seed}: {m.id} is shown with another prompt or truth than it has")
            for name, said in e["said"].items():
                record = exact.get((name, m.id))
                if record and record.horizon == HORIZON and record.matched != HORIZON and said == e["truth"]:
                    wrong.append(f"{name}, seed {seed}: says {m.id} whole, and is recorded with {record.matched} tokens")
                if record and record.matched == HORIZON and said != e["truth"]:
                    wrong.append(f"{name}, seed {seed}: is recorded to say {m.id} whole, and says something else")
    return wrong


def said_and_read(row: Row) -> list[str]:
    """What `checks` found in generated texts, against the records of the exact opening."""
    wrong: list[str] = []
    for model in models_of(row):
        exact = {r.memory: r.matched for r in records_of(row, model) if r.asks == "exact" and r.tier == 0}
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for name, _, _, f in row.attacking.findings(model):
            if name == "checks":
                found[f.memory][f.quantity] = f.value
        for memory, told in found.items():
            differs = told.get("generated", math.nan) != exact.get(memory, math.nan)
            if memory and memory in exact and bool(told.get("generated_differs")) != differs:
                said = told.get("generated", math.nan)
                wrong.append(f"{model.label}, {memory}: generated {said:g} tokens and read {exact[memory]}, which checks deny")
    return wrong


def _line(item: dict[str, Any]) -> tuple[int, str]:
    """The order of documents in the task's file."""
    line = json.dumps(item) + "\n"
    return len(line), line
