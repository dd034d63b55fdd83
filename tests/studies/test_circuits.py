"""The study `circuits`: edges are patched as they are said to be, and planted edges are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.logits import hidden_states, logits_of
from palimpsest.benchmark.studies._attribution import Pair, Task, at_random, connected, largest, sizes, smallest
from palimpsest.benchmark.studies._divergence import divergences, maintenance
from palimpsest.benchmark.studies._graph import Graph, Pass
from tests.conftest import Memorised
from tests.studies.taken_apart import subject_of

CLEAN, CORRUPT = tuple(range(5, 17)), (5, 900, *range(7, 17))  # they differ in the second token alone
OTHER = tuple(range(900, 900 + len(CLEAN)))
LAST = torch.tensor([len(CLEAN) - 1], device=device())


@pytest.fixture(scope="module", params=["GPT-NeoX", "GPT-NeoX, serial", "Llama"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Graph:
    return Graph(subject_of(request.param, tmp_path_factory.mktemp("graph"), tokenizer))


def edge(graph: Graph, writer: str, reader: str) -> tuple[int, int]:
    return graph.reader_names.index(reader), graph.writer_names.index(writer)


def only(graph: Graph, *edges: tuple[str, str]) -> Tensor:
    found = torch.zeros_like(graph.valid)
    for writer, reader in edges:
        found[edge(graph, writer, reader)] = True
    return found


@torch.no_grad()
def said(graph: Graph, ids: tuple[int, ...], given: Pass | None = None) -> Tensor:
    return graph.run(torch.tensor([ids], device=device()), LAST, given or Pass())[0]


@torch.no_grad()
def written(graph: Graph, ids: tuple[int, ...]) -> Tensor:
    given = Pass()
    graph.run(torch.tensor([ids], device=device()), LAST, given)
    return torch.stack(given.writers)


@torch.no_grad()
def own(graph: Graph, ids: tuple[int, ...]) -> Tensor:
    """Logits behind the last token, without any graph."""
    return logits_of(graph.model, hidden_states(graph.model, torch.tensor([ids], device=device())))[0, -1]


# ---- the graph


def test_the_graph_says_what_the_model_says_and_leaves_nothing_behind(graph: Graph) -> None:
    before = own(graph, CLEAN)
    torch.testing.assert_close(said(graph, CLEAN), before, atol=1e-3, rtol=1e-4)
    said(graph, CLEAN, Pass(graph.valid, written(graph, CORRUPT)))
    assert torch.equal(own(graph, CLEAN), before)


def test_patching_with_the_own_run_changes_nothing(graph: Graph) -> None:
    torch.testing.assert_close(said(graph, CLEAN, Pass(graph.valid, written(graph, CLEAN))), own(graph, CLEAN), atol=1e-3, rtol=1e-4)


def test_all_edges_are_the_other_run_and_so_are_all_that_lead_to_the_logits(graph: Graph) -> None:
    """What the logits read is a sum over edges, so patching each summand is patching the sum."""
    to_logits = torch.zeros_like(graph.valid)
    to_logits[-1] = True
    assert (own(graph, CLEAN) - own(graph, CORRUPT)).abs().max() > 0.05
    for patch in (graph.valid, to_logits):
        torch.testing.assert_close(said(graph, CLEAN, Pass(patch, written(graph, CORRUPT))), own(graph, CORRUPT), atol=2e-3, rtol=1e-3)


def test_an_edge_from_mlp_to_mlp_is_that_made_by_hand(graph: Graph) -> None:
    """The second MLP reads the stream with the first one's output exchanged; nothing else does."""
    found = said(graph, CLEAN, Pass(only(graph, ("m0", "m1")), written(graph, OTHER)))
    writer = graph.writer_names.index("m0")
    difference = written(graph, OTHER)[writer] - written(graph, CLEAN)[writer]
    norm = graph.blocks[1].before["mlp"]
    hook = norm.register_forward_pre_hook(lambda _, args: (args[0] + difference,))
    expected = own(graph, CLEAN)
    hook.remove()
    assert (found - own(graph, CLEAN)).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_an_edge_to_one_head_s_queries_is_that_made_by_hand(tmp_path: Path, tokenizer: Any) -> None:
    graph = Graph(subject_of("Llama", tmp_path, tokenizer))
    found = said(graph, CLEAN, Pass(only(graph, ("m0", "a1.2.q")), written(graph, OTHER)))
    block, writer = graph.model.model.layers[1], graph.writer_names.index("m0")
    difference, heads = written(graph, OTHER)[writer] - written(graph, CLEAN)[writer], slice(16, 24)  # the third of four, of 8 each
    stream = graph.stream.read(torch.tensor([CLEAN], device=device()))[1]

    def swap(_: Any, __: Any, out: Tensor) -> Tensor:
        new = torch.nn.functional.linear(block.input_layernorm(stream + difference), block.self_attn.q_proj.weight)
        return torch.cat([out[..., :16], new[..., heads], out[..., 24:]], -1)

    hook = block.self_attn.q_proj.register_forward_hook(swap)
    expected = own(graph, CLEAN)
    hook.remove()
    assert (found - own(graph, CLEAN)).abs().max() > 1e-4
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_edges_go_from_earlier_to_later_and_queries_keys_and_values_are_apart(tmp_path: Path, tokenizer: Any) -> None:
    parallel = Graph(subject_of("GPT-NeoX", tmp_path / "a", tokenizer))
    serial = Graph(subject_of("Llama", tmp_path / "b", tokenizer))
    assert not parallel.valid[edge(parallel, "a0.0", "m0")]
    assert serial.valid[edge(serial, "a0.0", "m0")]
    assert parallel.valid.sum() == 1 * 13 + 6 * 13 + 11
    assert serial.valid.sum() == 8 + 5 + 6 * 8 + 10 + 11  # two heads' keys and values for four heads' queries
    assert serial.feeds[serial.reader_names.index("a0.1.k")].nonzero().flatten().tolist() == [3, 4]


@pytest.mark.parametrize(
    ("name", "says"), [("GPT-2", "GPT2LMHeadModel has no maps"), ("Mamba", "MambaForCausalLM has no single attention")]
)
def test_what_has_no_such_graph_is_refused_by_name(name: str, says: str, tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=says):
        Graph(subject_of(name, tmp_path, tokenizer))


def test_maps_that_are_not_laid_out_by_heads_are_refused(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries of all heads first, as GPT-2 has them, under a name that elsewhere means head by head."""
    subject = subject_of("GPT-NeoX", tmp_path, tokenizer)

    def other(self: Any, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        q, k, v = (x.unflatten(-1, (4, 8)).transpose(1, 2) for x in self.query_key_value(hidden_states).chunk(3, -1))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dense(out.transpose(1, 2).flatten(2)), None

    monkeypatch.setattr(type(subject.model.gpt_neox.layers[0].attention), "forward", other)
    with pytest.raises(UserError, match="not laid out head by head"):
        Graph(subject)


# ---- attribution


def planted(folder: Path, tokenizer: Any, name: str) -> Graph:
    """Only the second head of the second block writes anything."""
    subject = subject_of(name, folder, tokenizer)
    state = {}
    for key, value in subject.fresh().state_dict().items():
        out = any(s in key for s in ("attention.dense", "dense_4h_to_h", "o_proj", "down_proj"))
        state[key] = value * 0 if out else value
        if out and ("layers.1.attention.dense.weight" in key or "layers.1.self_attn.o_proj.weight" in key):
            state[key][:, 8:16] = value[:, 8:16]
    return Graph(subject.with_state(state))


@pytest.mark.parametrize(("name", "kv"), [("GPT-NeoX", 1), ("Llama", 0)])
def test_a_planted_edge_is_found_and_is_the_whole_circuit(name: str, kv: int, tmp_path: Path, tokenizer: Any) -> None:
    graph = planted(tmp_path, tokenizer, name)
    task = Task(graph, [Pair(CLEAN, CORRUPT, *(int(own(graph, ids).argmax()) for ids in (CLEAN, CORRUPT)))] * 2)
    if task.pairs[0].answer == task.pairs[0].other:
        first, second = (own(graph, CLEAN) - own(graph, CORRUPT)).argsort()[[-1, 0]].tolist()
        task = Task(graph, [Pair(CLEAN, CORRUPT, first, second)] * 2)
    truth = only(graph, ("input", f"a1.{kv}.k"), ("input", f"a1.{kv}.v"), ("a1.1", "logits"))
    scores, edges = task.attribution(5), graph.valid.nonzero().tolist()
    exact = task.exact(edges)
    assert {tuple(e) for e, v in zip(edges, exact, strict=True) if abs(v) > 1e-5} <= {tuple(e) for e in truth.nonzero().tolist()}
    assert torch.equal(scores.abs() > 1e-5 * scores.abs().max(), truth)
    assert torch.equal(largest(scores, graph.valid, 3), truth)
    assert task.denoised(truth) == pytest.approx(1, abs=1e-3)
    assert task.noised(truth) == pytest.approx(1, abs=1e-3)
    assert task.denoised(graph.valid & ~truth) == pytest.approx(0, abs=1e-3)
    assert torch.equal(connected(graph, graph.valid), graph.valid)
    assert torch.equal(connected(graph, truth | only(graph, ("input", "m0"), ("m1", "logits"))), truth)


def test_attribution_follows_exact_patching_on_a_model_that_has_memorised(memorised: Memorised) -> None:
    found = divergences(memorised.subject, memorised.memories, 50, 50, 0.3)
    pairs = list(maintenance(memorised.subject, found).values())
    task = Task(Graph(memorised.subject), pairs)
    scores, edges = task.attribution(5), task.graph.valid.nonzero().tolist()
    assert np.corrcoef([scores[r, w] for r, w in edges], task.exact(edges))[0, 1] > 0.8
    every = task.graph.valid
    assert task.denoised(every) == pytest.approx(1, abs=1e-4)
    assert task.noised(every) == pytest.approx(1, abs=1e-3)
    assert task.denoised(~every) == pytest.approx(0, abs=1e-3)
    assert task.transplanted(every, task) == pytest.approx(task.clean, abs=1e-3)


def test_pairs_of_different_lengths_do_not_see_each_other(memorised: Memorised) -> None:
    graph, row = Graph(memorised.subject), memorised.memories[0].row
    pairs = [Pair((*row[:n], 7), (*row[:n], 9), 3, 4) for n in (5, 19)]
    both, apart = Task(graph, pairs), [Task(graph, [p]) for p in pairs]
    assert both.effect == pytest.approx(np.mean([t.effect for t in apart]), abs=1e-4)
    torch.testing.assert_close(both.attribution(2), sum(t.attribution(2) for t in apart) / 2, atol=1e-4, rtol=1e-3)


def test_sizes_and_the_smallest_that_is_faithful() -> None:
    assert list(sizes(4)) == [1, 2, 3, 4]
    assert list(sizes(300))[-1] == 300
    assert smallest([(1, 0.2), (2, 0.9), (3, 0.5), (4, 0.95)], 0.85) == 2  # although a larger one is not faithful
    assert smallest([(1, 0.2)], 0.85) is None
    valid = torch.ones(3, 4, dtype=torch.bool)
    assert at_random(valid, 5, 0).sum() == 5
    assert not torch.equal(at_random(valid, 5, 0), at_random(valid, 5, 1))
