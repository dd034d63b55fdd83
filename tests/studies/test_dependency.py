"""The study `dependency`: states and components are exchanged as they are said to be, and the page says what the rows hold."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.blocks import blocks
from palimpsest.benchmark.models.logits import hidden_states, logits_of
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.studies._interchange import dependence, lengths, swapped
from palimpsest.benchmark.studies._stream import Stream, parts
from palimpsest.benchmark.studies.pages import dependency as pages
from palimpsest.leaderboard.statistics import t_interval, welch, wilson
from palimpsest.leaderboard.study_report import StudyFacts, write_study
from tests.conftest import Memorised
from tests.studies.taken_apart import fast, subject_of

ROW = tuple(range(5, 29))


@torch.no_grad()
def by_hand(subject: Subject, row: tuple[int, ...], layer: int, place: int, put: Tensor) -> Tensor:
    """Greedy tokens [T] of a whole forward pass with one state replaced by a hook."""

    def swap(_: Any, args: Any, given: Any) -> Any:
        states = args[0].clone()
        states[0, place] = put
        return (states, *args[1:]), given

    hook = blocks(subject.model)[layer].register_forward_pre_hook(swap, with_kwargs=True)
    try:
        return logits_of(subject.model, hidden_states(subject.model, torch.tensor([row], device=device())))[0].argmax(-1)
    finally:
        hook.remove()


@pytest.mark.parametrize("name", ["GPT-NeoX", "Llama", "GPT-2", "Falcon, ALiBi", "Mamba"])
def test_going_on_from_a_layer_is_the_whole_forward_pass(name: str, tmp_path: Path, tokenizer: Any) -> None:
    stream = Stream(subject_of(name, tmp_path, tokenizer))
    ids = torch.tensor([ROW, ROW[::-1]], device=device())
    with torch.no_grad():
        whole = hidden_states(stream.model, ids)
        for layer, states in enumerate(stream.read(ids)):
            torch.testing.assert_close(stream.go_on(ids, layer, states), whole, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(hidden_states(stream.model, ids), whole)  # nothing stays behind


@pytest.mark.parametrize("name", ["GPT-NeoX", "Llama"])
def test_dependence_is_that_of_whole_passes_with_one_state_replaced(name: str, tmp_path: Path, tokenizer: Any) -> None:
    subject = subject_of(name, tmp_path, tokenizer)
    stream, sources, opening = Stream(subject), torch.randint(1, 4096, (3, 6), generator=torch.Generator().manual_seed(0)).to(device()), 6
    said = subject.generate([ROW[:opening]], 5)[0]
    row = ROW[:opening] + said
    found, others = dependence(stream, row, opening, 5, sources), stream.read(sources)
    expected = torch.zeros_like(found)
    for layer, place, s in itertools.product(range(len(found)), range(opening), range(3)):
        now = by_hand(subject, row[:-1], layer, place, others[layer][s, place])[opening - 1 :]
        expected[layer, place] += (now != torch.tensor(said, device=device())).float() / 3
    torch.testing.assert_close(found, expected)
    assert 0 < found.mean() < 1


def test_the_own_states_change_nothing(memorised: Memorised) -> None:
    m = memorised.memories[0]
    sources = torch.tensor([m.row[: m.opening]] * 10)
    assert dependence(Stream(memorised.subject), m.row, m.opening, 32, sources).max() == 0


def test_without_attention_only_the_first_token_depends_and_only_on_the_last_place(memorised: Memorised) -> None:
    """A planted model: what a place says is decided by its own token alone."""
    state = memorised.subject.fresh().state_dict()
    deaf = memorised.subject.with_state({k: v * 0 for k, v in state.items() if "attention.dense" in k})
    m = memorised.memories[0]
    said = m.row[: m.opening]
    for _ in range(8):
        said += deaf.generate([said[-1:]], 1)[0]
    sources = torch.randint(1, 4096, (10, m.opening), generator=torch.Generator().manual_seed(0))
    found = dependence(Stream(deaf), said, m.opening, 8, sources)
    assert (found[:, -1, 0] > 0.5).all()
    found[:, -1, 0] = 0
    assert found.max() == 0


def test_lengths_are_those_of_generation(memorised: Memorised) -> None:
    some = [*memorised.memories[:3], memorised.unseen[0]]
    for m, n in zip(some, lengths(Stream(memorised.subject), some, ()), strict=True):
        said = memorised.subject.generate([m.row[: m.opening]], len(m.target))[0]
        assert n == next((i for i, (a, b) in enumerate(zip(said, m.target, strict=True)) if a != b), len(m.target))


def test_components_of_oneself_change_nothing_and_all_of_another_are_the_other(memorised: Memorised) -> None:
    held, twin, some = Stream(memorised.subject), Stream(memorised.base), memorised.memories[:3]
    before = lengths(held, some, ())
    assert max(before) > 20
    assert all(told == before for _, _, told in swapped(held, parts(held), held, parts(held), some, ()))
    # the embeddings and the head stay, so make them the same: then all components of the other are the other
    shared = ("embed_in", "final_layer_norm", "embed_out", "lm_head")
    state = {k: v for k, v in memorised.base.fresh().state_dict().items() if not any(s in k for s in shared)}
    other = Stream(memorised.subject.with_state(state))
    told = {(c, layer): n for c, layer, n in swapped(other, parts(other), held, parts(held), some, ())}
    assert told["both", None] == before
    assert told["both", None] != lengths(other, some, ())
    back = {(c, layer): n for c, layer, n in swapped(held, parts(held), twin, parts(twin), some, ())}
    assert sum(back["both", None]) < sum(before)
    assert set(back) == {(c, layer) for c in ("attention", "mlp", "both") for layer in (0, 1, None)}


@pytest.mark.parametrize(
    ("name", "says"), [("Mamba", "MambaForCausalLM has no single attention"), ("Gemma 2", "Gemma2ForCausalLM adds more")]
)
def test_what_cannot_be_taken_apart_is_refused_by_name(name: str, says: str, tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=says):
        parts(Stream(subject_of(name, tmp_path, tokenizer)))


def test_a_combined_model_is_refused(memorised: Memorised) -> None:
    with pytest.raises(UserError, match="made of several models"):
        Stream(Subject.difference(memorised.base, memorised.subject))


# ---- the page


def rows_of(dependent: int, seeds: int = 3) -> list[dict[str, Any]]:
    """Ten tokens a seed, of which so many depend on a state at layer 0 by six of ten sources, one on another by one source."""
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        whose = {"seed": seed, "texts": "memorised", "memory": "m", "domain": "news"}
        for step in range(10):
            by_layer = [0.6 if step < dependent + (seed == 0) else 0.0, 0.1 if step == 9 else 0.0]
            rows.append({"kind": "token", **whose, "step": step, "by_layer": by_layer})
        rows += [{"kind": "state", **whose, "layer": n, "place": p, "changed": 0.1} for n in (0, 1) for p in (-2, -1)]
        for into in ("held", "twin"):
            for component, layer in (("none", "all"), ("attention", "1"), ("attention", "2"), ("mlp", "1"), ("mlp", "all")):
                swap = {"into": into, "component": component, "layer": layer, "memory": "m", "matched": 10 * seed}
                rows.append({"kind": "swap", "seed": seed, **swap})
    return rows


@pytest.mark.parametrize(("dependent", "says"), [(4, "agrees"), (10, "disagrees")])
def test_the_verdict_is_about_tokens_that_depend_on_nothing(dependent: int, says: str) -> None:
    found = pages.page(rows_of(dependent, 40), 0.5)  # a text each: of ten that agree a share of .28 could not be excluded
    assert [v.says for v in found.verdicts] == [says, "cannot tell"]  # there is no control


def test_tables_count_what_the_rows_hold() -> None:
    found = pages.page(rows_of(4), 0.5)
    none, by_layer, by_step, swaps = (t.rows for t in found.tables)
    assert [round(r["depend on none"], 4) for r in none] == [round(17 / 30, 4), round(14 / 30, 4)]
    assert [r["dependent"] for r in by_layer] == pytest.approx([13 / 30, 0])
    assert next(r for r in by_step if r["steps"] == "5–8" and r["layer"] == "any")["dependent"] == pytest.approx(1 / 12)
    assert {r["length"] for r in swaps} == {10.0}
    assert all(value == value for t in found.tables for r in t.rows for value in r.values())


def test_nothing_memorised_is_no_verdict() -> None:
    found = pages.page([], 0.5)
    assert [v.says for v in found.verdicts] == ["cannot tell"] * 2


def tokens(texts: str, shares: list[float], seed: int = 0) -> list[dict[str, Any]]:
    """A hundred tokens of each text, of which such a share depends on nothing."""
    whose = {"kind": "token", "seed": seed, "texts": texts, "domain": "news"}
    return [
        {**whose, "memory": f"{texts} {i}", "step": step, "by_layer": [0.0 if step < 100 * share else 1.0]}
        for i, share in enumerate(shares)
        for step in range(100)
    ]


def test_intervals_of_one_seed_are_over_texts_and_the_control_stands_beside() -> None:
    mine, never = [0.9, 1.0, 0.8, 0.9], [0.6, 0.8, 0.7]
    many, more = pages.page(tokens("memorised", mine) + tokens("never seen", never), 0.5).verdicts
    low, high = t_interval(mine)
    assert many.measured.startswith(f"0.9 of memorised tokens [{low:.3g}, {min(1, high):.3g}]")
    assert "0.7 of right tokens of texts never seen [" in many.measured
    low, high = welch(mine, never)
    assert more.measured == f"0.2 of tokens more [{low:.3g}, {high:.3g}]"
    assert (many.says, more.says) == ("agrees", "agrees")
    alike = pages.page(tokens("memorised", mine) + tokens("never seen", mine), 0.5).verdicts
    assert [v.says for v in alike] == ["agrees", "cannot tell"], "what texts never seen show too is not memory"


def test_texts_that_all_agree_are_not_taken_for_certain() -> None:
    row = pages.page(tokens("memorised", [1.0] * 8), 0.5).tables[0].rows[0]
    assert (row["depend on none"], row["of texts"]) == (1, 8)
    assert row["low"] == pytest.approx(wilson(8, 8)[0])


def test_over_several_seeds_the_interval_is_over_seeds() -> None:
    rows = [r for s, v in enumerate((0.8, 0.9, 1.0)) for r in tokens("memorised", [v, v], s) + tokens("never seen", [0.5, 0.6], s)]
    _, more = pages.page(rows, 0.5).verdicts
    low, high = t_interval([0.25, 0.35, 0.45])
    assert more.measured == f"0.35 of tokens more [{low:.3g}, {high:.3g}]"


def test_the_fast_form_writes_its_page(memorised: Memorised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = fast("dependency", memorised, tmp_path / "fast", monkeypatch)
    found = mine.execute()
    facts = StudyFacts("dependency", "?", "p", "a", "fast", "c", mine.seconds, "cpu")
    page = write_study(found, facts, tmp_path / "page")[0].read_text()
    assert "Many memorised tokens" in page
    assert "Components swapped" in page
    assert {f.name for f in found.figures} == {"states", "steps", "components"}
    assert found == mine.execute(lambda stage: pytest.fail(f"{stage.label} was made again"))
