"""The study `circuits`: edges are patched as they are said to be, planted edges are found, and the page says what the rows hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.logits import hidden_states, logits_of
from palimpsest.benchmark.studies import _circuits_page as pages
from palimpsest.benchmark.studies._attribution import Pair, Task, at_random, connected, largest, sizes, smallest
from palimpsest.benchmark.studies._circuit_rows import _splits
from palimpsest.benchmark.studies._divergence import argmax, bleu4, divergences, initiation, maintenance
from palimpsest.benchmark.studies._graph import Graph, Pass
from palimpsest.leaderboard.statistics import Estimate
from palimpsest.leaderboard.study_report import StudyFacts, write_study
from tests.conftest import Memorised
from tests.studies.taken_apart import fast, subject_of

CLEAN, CORRUPT = tuple(range(5, 17)), (5, 900, *range(7, 17))  # they differ in the second token alone
OTHER = tuple(range(900, 900 + len(CLEAN)))
LAST = torch.tensor([len(CLEAN) - 1])


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
    return graph.run(torch.tensor([ids]), LAST, given or Pass())[0]


@torch.no_grad()
def written(graph: Graph, ids: tuple[int, ...]) -> Tensor:
    given = Pass()
    graph.run(torch.tensor([ids]), LAST, given)
    return torch.stack(given.writers)


@torch.no_grad()
def own(graph: Graph, ids: tuple[int, ...]) -> Tensor:
    """Logits behind the last token, without any graph."""
    return logits_of(graph.model, hidden_states(graph.model, torch.tensor([ids])))[0, -1]


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
    stream = graph.stream.read(torch.tensor([CLEAN]))[1]

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


# ---- divergence


def test_bleu() -> None:
    assert bleu4([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == pytest.approx(1)
    assert bleu4([1, 2, 3, 9, 9], [1, 2, 3, 4, 5]) == 0
    assert bleu4([1, 2, 3, 4, 9], [1, 2, 3, 4, 5]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_divergence_is_the_longest_context_that_fails_both_ways(memorised: Memorised) -> None:
    subject = memorised.subject
    found = divergences(subject, [*memorised.memories, *memorised.unseen], 50, 50, 0.3)
    assert found
    assert {d.memory.id for d in found} <= {m.id for m in memorised.memories}
    for d in found[:2]:
        fails = []
        for cut in range(1, 50):
            went_on = subject.generate([d.memory.row[:cut]], 50)[0]
            fails.append(went_on[0] != d.memory.row[cut] and bleu4(went_on, d.memory.row[cut : cut + 50]) < 0.7)
        assert d.cut == 1 + max(i for i, f in enumerate(fails) if f)
        assert d.own == subject.generate([d.context], 1)[0][0] != d.true


def test_pairs_are_verified(memorised: Memorised) -> None:
    subject = memorised.subject
    found = {d.memory.id: d for d in divergences(subject, memorised.memories, 50, 50, 0.3)}
    kept = maintenance(subject, list(found.values()))
    assert kept
    for name, p in kept.items():
        assert p.clean == (*found[name].context, found[name].true)
        assert p.corrupt == (*found[name].context, found[name].own)
        assert argmax(subject, [p.clean, p.corrupt]) == [p.answer, p.other]
        assert p.answer == found[name].memory.row[found[name].cut + 1] != p.other
    d = next(iter(found.values()))
    samples = [m.row for m in memorised.memories if m.id != d.memory.id]
    started = initiation(subject, list(found.values()), samples)
    for name, p in started.items():
        assert len(p.clean) == len(p.corrupt) == found[name].cut
        assert argmax(subject, [p.clean, p.corrupt]) == [p.answer, p.other] == [found[name].own, found[name].true]


def test_splits_are_apart_and_fair_to_domains(memorised: Memorised) -> None:
    split = _splits([*memorised.memories, *memorised.unseen], 0)
    assert sorted(split) == sorted(m.id for m in (*memorised.memories, *memorised.unseen))
    assert sorted(list(split.values()).count(s) for s in ("attribution", "choice", "test")) == [4, 4, 4]
    assert split != _splits([*memorised.memories, *memorised.unseen], 1)


# ---- the page


def rows_of(
    maintains: float = 0.9, initiates: float = 0.1, prevents: float = 0.8, induces: float = 0.2, left: float = 0.9, control: float = 0.5
) -> list[dict[str, Any]]:
    """Three seeds in which circuits do so much across tasks and domains, and an unlearned model keeps `left` of the maintenance circuit."""
    rows: list[dict[str, Any]] = []
    for seed in range(3):
        jitter = 0.01 * seed
        for task, edges, across, on in (("maintenance", 10, initiates, "initiation"), ("initiation", 40, maintains, "maintenance")):
            rows.append({"kind": "chosen", "task": task, "edges": edges + seed, "connected": 5, "of": 90, "reached": True, "dips": 1})
            alike = ("random", on, 1 - control) if task == "initiation" else ("initiation", on, control)
            for circuit, where, value in ((task, task, 0.9), ("random", task, 0.1), (task, on, across), alike):
                told = {"kind": "test", "on": where, "circuit": circuit, "draw": 0, "edges": edges + seed, "pairs": 4}
                rows.append(told | {"denoised": value + jitter, "noised": value - jitter})
            ways = (induces, prevents) if task == "maintenance" else (prevents, induces)
            for source, place in (("news", "verse"), ("news", "news")):
                told = {"kind": "domain", "task": task, "from": source, "on": place, "pairs": 2}
                rows.append(told | {"denoised": ways[0] + jitter, "noised": ways[1] + jitter})
            rows += [{"kind": "exact", "task": task, "edge": str(i), "score": 1.0 * i, "exact": i**3.0} for i in range(-3, 4)]
            rows += [{"kind": "size", "task": task, "edges": n, "faithful": n / 40} for n in (10, 20, 40)]
            for model, effect in (("none", 8.0), ("twin", 1.0), ("npo", 1 + 7 * left + jitter)):
                same = {"denoised": 0.9, "noised": 0.8, "alike": 0.5, "same_edges": 0.5, "restored": None, "restored_random": 0.1}
                rows.append({"kind": "model", "model": model, "task": task, "role": "forget", "pairs": 4, "effect": effect, **same})
        for model, opening in (("none", 60), ("twin", 2), ("npo", 5)):
            rows.append(
                {
                    "kind": "behaviour",
                    "model": model,
                    "memory": "m",
                    "role": "forget",
                    "opening": opening + seed / 9,
                    "inside": opening / 64,
                }
            )
        rows.append(
            {"kind": "memory", "memory": "m", "domain": "news", "role": "forget", "cut": 7, "maintenance": True, "initiation": False}
        )
        rows = [r if "seed" in r else {"seed": seed, **r} for r in rows]
    return rows


def test_verdicts_follow_the_rows() -> None:
    assert [v.says for v in pages.page(rows_of(), 0.85).verdicts] == ["agrees"] * 5
    told = pages.page(rows_of(maintains=0.1, initiates=0.9, prevents=0.1, induces=0.4), 0.85).verdicts
    assert [v.says for v in told] == ["disagrees"] * 4 + ["agrees"]
    assert {v.says for v in pages.page([], 0.85).verdicts} == {"cannot tell"}


def test_what_size_alone_explains_is_no_agreement() -> None:
    """Random edges maintain as well as the initiation circuit does; the initiation circuit, cut to size, initiates no better either."""
    told = pages.page(rows_of(control=0.1), 0.85).verdicts
    assert [v.says for v in told[:2]] == ["cannot tell", "cannot tell"]
    assert "random edges of the same number 0.91" in told[0].measured
    both = pages.page(rows_of(maintains=0.1, initiates=0.9, control=0.1), 0.85).verdicts
    assert [v.says for v in both[:2]] == ["disagrees", "disagrees"]  # which needs no control


@pytest.mark.parametrize(("left", "says"), [(0.9, "only the trigger"), (0.1, "the circuit"), (0.5, "cannot tell")])
def test_what_was_removed(left: float, says: str) -> None:
    (row,) = pages.retained_rows(*([r for r in rows_of(left=left) if r["kind"] == kind] for kind in ("model", "behaviour")))
    assert row["removed"] == says
    assert row["maintenance"] == pytest.approx(left, abs=0.01)
    assert row["trigger"] == pytest.approx(3 / 58, abs=1e-3)
    assert pages.removed(Estimate(0.9, 0.8, 1.0), Estimate(0.9, 0.8, 1.0)) == "neither"


def test_tables_hold_no_nan_and_correlations_are_those_of_the_rows() -> None:
    found = pages.page(rows_of(), 0.85)
    assert all(value == value for t in found.tables for r in t.rows for value in r.values())
    checked = next(t for t in found.tables if "exact" in t.title).rows
    assert {round(r["Spearman"], 6) for r in checked} == {1.0}
    x = np.arange(-3.0, 4)
    assert checked[0]["Pearson"] == pytest.approx(np.corrcoef(x, x**3)[0, 1])
    assert {f.name for f in found.figures} == {"sizes", "exact", "unlearned"}


def test_the_fast_form_writes_its_page(memorised: Memorised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = fast("circuits", memorised, tmp_path / "fast", monkeypatch)
    found = mine.execute()
    page = write_study(found, StudyFacts("circuits", "?", "p", "a", "fast", "c", mine.seconds, "cpu"), tmp_path / "page")[0].read_text()
    assert "Initiation circuits also maintain." in page
    assert "Divergence points and pairs" in page
    pairs = found.tables[0].rows[0]
    assert pairs["taught"] == 8
    assert pairs["maintenance pairs"] > 0
    assert found == mine.execute(lambda stage: pytest.fail(f"{stage.label} was made again"))
