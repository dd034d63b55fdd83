"""What each edge of a graph does for a contrastive task: integrated gradients, exact patching, and circuits of chosen edges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._graph import Graph, Pass
from ._stream import padded

FLOATS = 2**27  # of writers held for one batch
SMALL = 0.1  # logits: below it a difference is too small to be divided by


@dataclass(frozen=True)
class Pair:
    """Two prompts of one length, and what the model says after each: `answer` after `clean`, `other` after `corrupt`."""

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    answer: int
    other: int


@dataclass(frozen=True)
class Batch:
    """Some pairs as tensors, and what the writers give on either side [writers, B, T, H]."""

    ids: Tensor
    corrupt_ids: Tensor
    last: Tensor
    answers: Tensor  # [B, 2]
    clean: Tensor
    corrupt: Tensor


class Task:
    """Pairs on one model. A metric m is the mean over pairs of logit(answer) - logit(other) behind the last token."""

    def __init__(self, graph: Graph, pairs: Sequence[Pair]):
        self.graph, self.pairs = graph, pairs
        longest = max((len(p.clean) for p in pairs), default=1)
        hidden = graph.model.get_input_embeddings().weight.shape[1]
        self.size = max(1, FLOATS // (2 * graph.writers * longest * hidden))
        self.batches = [self._batch(pairs[i : i + self.size]) for i in range(0, len(pairs), self.size)]
        self.clean = self._mean(self.run(b.ids, b, Pass()) for b in self.batches)
        self.corrupt = self._mean(self.run(b.corrupt_ids, b, Pass()) for b in self.batches)

    @property
    def effect(self) -> float:
        """m(clean) - m(corrupt), in logits."""
        return self.clean - self.corrupt

    @torch.no_grad()
    def run(self, ids: Tensor, batch: Batch, given: Pass) -> Tensor:
        """m of each pair [B]."""
        return self._metric(self.graph.run(ids, batch.last, given), batch)

    def with_circuit(self, circuit: Tensor) -> float:
        """m on clean prompts where only the circuit's edges carry the clean run and all others the corrupt one: denoising."""
        return self._patched(self.graph.valid & ~circuit)

    def without_circuit(self, circuit: Tensor) -> float:
        """m on clean prompts where the circuit's edges carry the corrupt run: noising."""
        return self._patched(circuit)

    def denoised(self, circuit: Tensor) -> float | None:
        """Faithfulness (m(C) - m(corrupt)) / (m(clean) - m(corrupt)); None if the two sides hardly differ."""
        return None if abs(self.effect) < SMALL else (self.with_circuit(circuit) - self.corrupt) / self.effect

    def noised(self, circuit: Tensor) -> float | None:
        """Which share of m(clean) - m(corrupt) is lost when the circuit alone is corrupt."""
        return None if abs(self.effect) < SMALL else (self.clean - self.without_circuit(circuit)) / self.effect

    def transplanted(self, circuit: Tensor, source: Task) -> float:
        """m on clean prompts where the circuit's edges carry what the same model's shape gave in another model, on the same pairs."""
        patch = self._to(circuit)
        both = zip(self.batches, source.batches, strict=True)
        return self._mean(self.run(b.ids, b, Pass(patch, s.clean.to(b.clean))) for b, s in both)

    def attribution(self, steps: int = 5) -> Tensor:
        """Edge attribution by integrated gradients [readers, writers]: what m would change by if an edge carried the corrupt run.

        The gradient of each reader's input is averaged over `steps` passes whose embeddings go from corrupt to clean, and multiplied
        with what the writer gives in the corrupt run minus in the clean one (Hanna et al. 2024, arXiv 2403.17806).
        """
        total = torch.zeros(self.graph.readers, self.graph.writers, device=self.graph.stream.device)
        for b in self.batches:
            difference = b.corrupt - b.clean
            for step in range(1, steps + 1):
                given = Pass(start=b.clean[0] + (1 - step / steps) * difference[0], leaves={})
                with torch.enable_grad():
                    m = self._metric(self.graph.run(b.ids, b.last, given), b).sum()
                    leaves = given.leaves or {}
                    gradients = torch.autograd.grad(m, list(leaves.values()))
                for reader, gradient in zip(leaves, gradients, strict=True):
                    score = torch.einsum("btrh,wbth->rw", gradient, difference)
                    total[reader : reader + gradient.shape[2]] += score / steps
        return (total / len(self.pairs)).cpu() * self.graph.valid

    def exact(self, edges: Iterable[tuple[int, int]]) -> list[float]:
        """What m changes by if one edge (reader, writer) carries the corrupt run, each alone."""
        found = []
        for reader, writer in edges:
            alone = torch.zeros_like(self.graph.valid)
            alone[reader, writer] = True
            found.append(self._patched(alone) - self.clean)
        return found

    def _patched(self, edges: Tensor) -> float:
        patch = self._to(edges)
        return self._mean(self.run(b.ids, b, Pass(patch, b.corrupt)) for b in self.batches)

    def _to(self, edges: Tensor) -> Tensor:
        return edges.to(self.graph.stream.device)

    def _mean(self, values: Iterable[Tensor]) -> float:
        return float(sum(float(v.double().sum()) for v in values)) / max(1, len(self.pairs))

    @staticmethod
    def _metric(logits: Tensor, batch: Batch) -> Tensor:
        answer, other = logits.float().gather(1, batch.answers).unbind(1)
        return answer - other

    @torch.no_grad()
    def _batch(self, pairs: Sequence[Pair]) -> Batch:
        where = self.graph.stream.device
        ids, corrupt = padded([p.clean for p in pairs], where), padded([p.corrupt for p in pairs], where)
        last = torch.tensor([len(p.clean) - 1 for p in pairs], device=where)
        answers = torch.tensor([(p.answer, p.other) for p in pairs], device=where)
        sides = [Pass(), Pass()]
        for given, these in zip(sides, (ids, corrupt), strict=True):
            self.graph.run(these, last, given)
        return Batch(ids, corrupt, last, answers, *(torch.stack(given.writers) for given in sides))


def largest(scores: Tensor, valid: Tensor, edges: int) -> Tensor:
    """The circuit [readers, writers] of the edges with the largest absolute scores; ties go to the earlier edge."""
    flat = torch.where(valid, scores.abs(), -1.0).flatten()
    chosen = flat.argsort(descending=True, stable=True)[: min(edges, int(valid.sum()))]
    circuit = torch.zeros_like(flat, dtype=torch.bool)
    circuit[chosen] = True
    return circuit.view(valid.shape)


def at_random(valid: Tensor, edges: int, seed: int) -> Tensor:
    """A circuit of so many edges drawn from all."""
    draw = torch.Generator().manual_seed(seed)
    return largest(torch.rand(valid.shape, generator=draw), valid, edges)


def connected(graph: Graph, circuit: Tensor) -> Tensor:
    """The edges of a circuit that lie on a way from the embeddings to the logits; the others change nothing."""
    feeds, (readers, writers) = graph.feeds, circuit.shape
    live, useful = torch.zeros(writers, dtype=torch.bool), torch.zeros(readers, dtype=torch.bool)
    live[0] = useful[-1] = True
    for _ in range(2 * len(graph.blocks) + 1):
        live = live | (feeds & (circuit & live).any(1, keepdim=True)).any(0)
        useful = useful | (feeds & (circuit & useful[:, None]).any(0)).any(1)
    return circuit & live & useful[:, None]


def sizes(edges: int) -> Iterator[int]:
    """Edge counts that are tried: each up to 16, then in steps of a tenth, up to all."""
    n = 1
    while n < edges:
        yield n
        n += max(1, n // 10)
    yield edges


def smallest(tried: Sequence[tuple[int, float]], enough: float) -> int | None:
    """The smallest edge count whose faithfulness reaches `enough`, wherever larger ones stand; None if none does."""
    return min((n for n, faithful in tried if faithful >= enough), default=None)
