"""The rows of the study `circuits`: pairs, scores of edges, circuits on tests, and the same on other models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from ..common.seeds import derive, rng
from ..common.types import EncodedMemory, opening_probe
from ..models.subject import Subject
from ..reading.reader import Reader
from ._attribution import SMALL, Pair, Task, at_random, connected, largest, sizes, smallest
from ._divergence import Divergence, initiation, maintenance
from ._graph import Graph

Row = Mapping[str, Any]
TASKS = ("maintenance", "initiation")
SPLITS = ("attribution", "choice", "test")
DIGITS = 6
LOST = 0.1  # of the held model's own difference: less of it lost is nothing that could be restored
RANDOM = 5  # draws of as many edges


def pair_rows(
    subject: Subject, asked: Sequence[EncodedMemory], found: Sequence[Divergence], pool: Sequence[tuple[int, ...]], seed: int
) -> Iterator[Row]:
    """A row `memory` for each memory, and a row `pair` for each contrastive pair that it gave."""
    cuts, splits = {d.memory.id: d.cut for d in found}, _splits([d.memory for d in found], seed)
    made = {"maintenance": maintenance(subject, found), "initiation": initiation(subject, found, pool)}
    for m in asked:
        whose = {"memory": m.id, "domain": m.memory.domain, "role": m.role}
        yield {"kind": "memory", **whose, "cut": cuts.get(m.id), **{task: m.id in made[task] for task in TASKS}}
        for task in TASKS:
            if pair := made[task].get(m.id):
                sides = {"clean": list(pair.clean), "corrupt": list(pair.corrupt), "answer": pair.answer, "other": pair.other}
                yield {"kind": "pair", "task": task, **whose, "split": splits[m.id], **sides}


def _splits(memories: Sequence[EncodedMemory], seed: int) -> dict[str, str]:
    """Memory -> split, dealt round within domains and roles in a drawn order."""
    groups: dict[tuple[str, str], list[str]] = {}
    for m in memories:
        groups.setdefault((m.memory.domain, m.role), []).append(m.id)
    dealt = [i for key in sorted(groups) for i in rng(seed, "circuits", *key).permutation(sorted(groups[key])).tolist()]
    return {i: SPLITS[n % 3] for n, i in enumerate(dealt)}


def pairs_of(rows: Iterable[Row], task: str, **only: str | Sequence[str]) -> list[Pair]:
    """The pairs of a task, of the splits, domain or role that are named."""
    chosen = [
        r
        for r in rows
        if r["kind"] == "pair" and r["task"] == task and all(r[k] in ([v] if isinstance(v, str) else v) for k, v in only.items())
    ]
    return [Pair(tuple(r["clean"]), tuple(r["corrupt"]), r["answer"], r["other"]) for r in chosen]


def score_rows(graph: Graph, examples: Sequence[Row], steps: int, checked: int, texts: int, seed: int) -> Iterator[Row]:
    """Rows `scores`: of all edges, by task, on the attribution split and on each domain's; rows `exact`: scores beside exact patching."""
    domains = sorted({r["domain"] for r in examples})
    edges = graph.valid.nonzero().tolist()
    drawn = sorted(rng(seed, "circuits", "exact").choice(len(edges), min(checked, len(edges)), replace=False).tolist())
    for task in TASKS:
        groups = {"all": pairs_of(examples, task, split="attribution")}
        groups |= {d: pairs_of(examples, task, split=SPLITS[:2], domain=d) for d in domains}
        for group, pairs in groups.items():
            if pairs:
                scores = Task(graph, pairs).attribution(steps)[graph.valid]
                yield {"kind": "scores", "task": task, "group": group, "pairs": len(pairs), "scores": _list(scores)}
        if some := groups["all"][:texts]:
            on = Task(graph, some)
            scores = on.attribution(steps)
            for (reader, writer), exact in zip((edges[i] for i in drawn), on.exact(edges[i] for i in drawn), strict=True):
                edge = f"{graph.writer_names[writer]} → {graph.reader_names[reader]}"
                yield {"kind": "exact", "task": task, "edge": edge, "score": float(scores[reader, writer]), "exact": exact}


def scores_of(graph: Graph, rows: Iterable[Row], task: str, group: str = "all") -> Tensor | None:
    """The matrix [readers, writers] of a row `scores`; None if there is none."""
    for r in rows:
        if r["kind"] == "scores" and (r["task"], r["group"]) == (task, group):
            found = torch.zeros(graph.valid.shape)
            found[graph.valid] = torch.tensor(r["scores"], dtype=torch.float32)
            return found
    return None


def tested_rows(graph: Graph, examples: Sequence[Row], scored: Sequence[Row], enough: float, draws: int, seed: int) -> Iterator[Row]:
    """Circuits: sizes tried on the choice split, then the chosen ones on the test split, across tasks and domains, beside random edges."""
    scores = {task: s for task in TASKS if (s := scores_of(graph, scored, task)) is not None}
    chosen: dict[str, int] = {}
    for task in scores:
        tried = list(_tried(Task(graph, pairs_of(examples, task, split="choice")), scores[task]))
        yield from ({"kind": "size", "task": task, "edges": n, "faithful": f} for n, f in tried)
        if tried:
            n = smallest(tried, enough)
            chosen[task] = n or max(tried, key=lambda t: t[1])[0]
            dips = sum(f < enough for size, f in tried if n and size > n)
            kept = int(connected(graph, largest(scores[task], graph.valid, chosen[task])).sum())
            told = {"edges": chosen[task], "connected": kept, "of": int(graph.valid.sum()), "reached": n is not None, "dips": dips}
            yield {"kind": "chosen", "task": task, **told}
    for task in chosen:
        on = Task(graph, pairs_of(examples, task, split="test"))
        yield from _on_test(graph, on, task, scores, chosen, draws, seed)
        yield from _across_domains(graph, examples, scored, task, chosen[task])


def _tried(task: Task, scores: Tensor) -> Iterator[tuple[int, float]]:
    for n in sizes(int(task.graph.valid.sum())):
        if task.pairs and (faithful := task.denoised(largest(scores, task.graph.valid, n))) is not None:
            yield n, faithful


def _on_test(
    graph: Graph, on: Task, task: str, scores: Mapping[str, Tensor], chosen: Mapping[str, int], draws: int, seed: int
) -> Iterator[Row]:
    """Each task's circuit at each task's size on the test split of one task, and random circuits of those sizes."""
    for size in sorted(set(chosen.values())):
        circuits = {(name, 0): largest(scores[name], graph.valid, size) for name in chosen}
        circuits |= {("random", d): at_random(graph.valid, size, derive(seed, "circuits", size, d)) for d in range(draws)}
        for (name, draw), circuit in circuits.items():
            yield {
                "kind": "test",
                "on": task,
                "circuit": name,
                "draw": draw,
                "edges": size,
                "pairs": len(on.pairs),
                **faithfulness(on, circuit),
            }


def _across_domains(graph: Graph, examples: Sequence[Row], scored: Sequence[Row], task: str, size: int) -> Iterator[Row]:
    """Each domain's circuit on each domain's test split."""
    domains = sorted({r["domain"] for r in examples})
    found = {d: largest(s, graph.valid, size) for d in domains if (s := scores_of(graph, scored, task, d)) is not None}
    for d in domains:
        if pairs := pairs_of(examples, task, split="test", domain=d):
            on = Task(graph, pairs)
            for source, circuit in found.items():
                yield {"kind": "domain", "task": task, "from": source, "on": d, "pairs": len(pairs), **faithfulness(on, circuit)}


def faithfulness(on: Task, circuit: Tensor) -> dict[str, float | None]:
    """Of a circuit on a task, both ways; None where clean and corrupt hardly differ."""
    return {"denoised": on.denoised(circuit), "noised": on.noised(circuit)}


def model_rows(
    graph: Graph, held: Graph, examples: Sequence[Row], scored: Sequence[Row], tested: Sequence[Row], steps: int
) -> Iterator[Row]:
    """The held model's pairs of the test split on another model: is the difference still there, and do the same edges carry it?"""
    for r in (r for r in tested if r["kind"] == "chosen"):
        task, scores = r["task"], scores_of(held, scored, r["task"])
        assert scores is not None
        circuit = largest(scores, held.valid, r["edges"])
        for role in ("forget", "keep"):
            if pairs := pairs_of(examples, task, split="test", role=role):
                here, there = Task(graph, pairs), Task(held, pairs)
                own = here.attribution(steps)
                same = (largest(own, graph.valid, r["edges"]) & circuit).sum() / circuit.sum()
                yield {
                    "kind": "model", "task": task, "role": role, "pairs": len(pairs), "clean": here.clean, "corrupt": here.corrupt,
                    "effect": here.effect, **faithfulness(here, circuit), "same_edges": round(float(same), DIGITS),
                    "alike": _correlation(own[graph.valid], scores[held.valid]), **_transplant(here, there, circuit),
                }  # fmt: skip


def _transplant(here: Task, there: Task, circuit: Tensor) -> dict[str, float | None]:
    """Which share of what m(clean) lost against the held model comes back when its edges of the circuit are put in; or random ones.

    None where less was lost than a tenth of the held model's own difference: shares of next to nothing are noise.
    """
    missing = there.clean - here.clean
    if not missing > max(SMALL, LOST * there.effect):
        return {"restored": None, "restored_random": None}
    random = [at_random(here.graph.valid, int(circuit.sum()), draw) for draw in range(RANDOM)]
    mine, *others = ((here.transplanted(edges, there) - here.clean) / missing for edges in (circuit, *random))
    return {"restored": mine, "restored_random": float(np.mean(others))}


def behaviour_rows(subject: Subject, asked: Sequence[EncodedMemory], precision: str) -> Iterator[Row]:
    """What the model says of each memory from its opening alone (the trigger), and inside the text when all before was given."""
    reader = Reader(subject, precision)
    for m, (matched,) in zip(asked, reader.read([opening_probe(m) for m in asked], asked), strict=True):
        inside = float((reader.readings[m.id].rank[m.opening : m.opening + len(m.target)] == 0).mean())
        yield {"kind": "behaviour", "memory": m.id, "role": m.role, "opening": matched, "inside": round(inside, DIGITS)}


def _correlation(a: Tensor, b: Tensor) -> float | None:
    """Spearman's, of scores with their signs; None if one of them does not vary."""
    if len(a) < 3 or not a.std() > 0 or not b.std() > 0:
        return None
    return float(np.corrcoef(rankdata(a.numpy()), rankdata(b.numpy()))[0, 1])


def _list(values: Tensor) -> list[float]:
    return [float(f"{v:.6g}") for v in values.tolist()]
