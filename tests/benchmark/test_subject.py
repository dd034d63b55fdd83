"""A subject's kinds: two models combined at the logits, and a model behind an output filter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import EncodedMemory, Probe, Row
from palimpsest.benchmark.models.kinds import Filtered, Watcher
from palimpsest.benchmark.models.subject import Subject, open_subject
from palimpsest.benchmark.quality.harness import QualityBench
from palimpsest.benchmark.reading.reader import Reader
from palimpsest.benchmark.suites.config import QualityConfig
from palimpsest.benchmark.texts.corpus import Corpus
from palimpsest.benchmark.training.batches import collate
from palimpsest.benchmark.training.losses import language_model_loss, nll_sum
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.benchmark.training.trainer import Trainer
from tests.conftest import Memorised

INSTEAD = (11, 12, 13)


def logits(subject: Subject, rows: Sequence[tuple[int, ...]]) -> Tensor:
    with torch.no_grad():
        return subject.model(torch.tensor(rows, device=device())).logits.cpu()


def opening_probes(memories: Sequence[EncodedMemory]) -> list[Probe]:
    return [Probe(m.id, (), m.row, 0, (m.opening,), ("opening",), 0) for m in memories]


def saved(subject: Subject, folder: Path) -> Subject:
    folder.mkdir()
    subject.save(folder)
    return open_subject(str(folder))


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def difference(memorised: Memorised) -> Subject:
    """The memorised model as what is reinforced, the one that never saw the passages as the baseline."""
    return Subject.difference(memorised.base, memorised.subject, 2.0)


@pytest.fixture(scope="module")
def filtered(memorised: Memorised) -> Subject:
    """The memorised model, unchanged, that may not say what it was to forget."""
    return Subject.filtered(memorised.subject, [r.ids for r in memorised.forget], INSTEAD)


# ---- two models combined at the logits


def test_a_difference_has_the_logits_of_its_formula(memorised: Memorised, difference: Subject) -> None:
    rows = [m.row for m in memorised.memories[:3]]
    b, r = (logits(s, rows).double().numpy() for s in (memorised.base, memorised.subject))
    expected = b - 2.0 * np.maximum(r - b, 0)
    np.testing.assert_allclose(logits(difference, rows).numpy(), expected, atol=1e-4)
    assert np.abs(expected - b).max() > 1


def test_a_difference_of_a_model_with_itself_is_that_model(memorised: Memorised) -> None:
    itself = Subject.difference(memorised.subject, memorised.subject, 5.0)
    assert torch.equal(logits(itself, [memorised.memories[0].row]), logits(memorised.subject, [memorised.memories[0].row]))


def test_states_and_head_of_a_difference_give_its_logits(memorised: Memorised, difference: Subject) -> None:
    """What reading and training use is the same function as the model's own forward."""
    model, ids = difference.model, torch.tensor([memorised.memories[0].row], device=device())
    with torch.no_grad():
        out = model.base_model(input_ids=ids, use_cache=False, output_hidden_states=True)
        assert torch.equal(model.get_output_embeddings()(out.last_hidden_state), model(ids).logits)
    assert model.get_output_embeddings().weight.shape[0] == 4096
    assert [h.shape[-1] for h in out.hidden_states] == [128, 128, 128]
    assert len({id(p) for p in model.parameters()}) == len(model.state_dict())


def test_a_matched_length_read_off_a_difference_is_what_it_generates(memorised: Memorised) -> None:
    """With a negative alpha the reinforced model's text shows, so that lengths are not all 0."""
    mixed = Subject.difference(memorised.base, memorised.subject, -0.9)
    read = [n for (n,) in Reader(mixed, "fp32").read(opening_probes(memorised.memories))]
    said = mixed.generate([m.row[: m.opening] for m in memorised.memories], 64)
    matched = [
        next((i for i, (a, b) in enumerate(zip(s, m.target, strict=True)) if a != b), 64)
        for s, m in zip(said, memorised.memories, strict=True)
    ]
    assert read == matched
    assert max(read) >= 32


def test_the_loss_of_a_difference_is_the_cross_entropy_of_its_logits_and_trains_both_models(
    memorised: Memorised, difference: Subject
) -> None:
    group = collate(memorised.forget, slice(None), device())
    with torch.no_grad():
        found = nll_sum(difference.model, group).cpu()
    z = logits(difference, [r.ids for r in memorised.forget]).log_softmax(-1)
    expected = -z[:, :-1].gather(2, group.ids.cpu()[:, 1:, None]).sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)

    before = difference.fresh().state_dict()
    batch = {"text": memorised.forget}
    trained = Trainer("fp32").fit(difference, lambda step: batch, language_model_loss, Recipe(lr=1e-2, steps=2))
    after = trained.fresh().state_dict()
    changed = {k.split(".")[1] for k in after if not torch.equal(after[k], before[k])}
    assert changed == {"baseline", "reinforced"}
    with torch.no_grad():
        assert nll_sum(trained.model, group) < found


def test_two_vocabularies_make_no_difference(memorised: Memorised, tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="4096 tokens and reinforced 50"):
        _ = Subject.difference(memorised.subject, Subject(tmp_path)).model


def test_models_of_different_shape_and_with_a_tied_head_combine_and_come_back(memorised: Memorised, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=4096, n_embd=24, n_layer=1, n_head=2, n_positions=256)).save_pretrained(other)
    rows = [memorised.memories[0].row]
    mixed = Subject.difference(memorised.subject, Subject(other), 0.5)
    b, r = logits(memorised.subject, rows), logits(Subject(other), rows)
    torch.testing.assert_close(logits(mixed, rows), b - 0.5 * (r - b).clamp(min=0))
    assert torch.equal(logits(saved(mixed, tmp_path / "mixed"), rows), logits(mixed, rows))


# ---- a model behind an output filter


def test_a_filter_leaves_the_logits_and_the_readings_as_they_were(memorised: Memorised, filtered: Subject) -> None:
    rows = [m.row for m in memorised.memories]
    assert torch.equal(logits(filtered, rows), logits(memorised.subject, rows))
    probes = opening_probes(memorised.memories)
    read = Reader(filtered, "fp32").read(probes)
    assert read == Reader(memorised.subject, "fp32").read(probes)
    assert min(n for (n,) in read) >= 32
    state = filtered.fresh().state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in memorised.subject.fresh().state_dict().items()}


def test_a_filtered_model_says_something_else_and_never_a_blocked_run(memorised: Memorised, filtered: Subject) -> None:
    forget = [m for m in memorised.memories if m.role == "forget"]
    said = filtered.generate([m.row[: m.opening] for m in forget], 64)
    for m, ids in zip(forget, said, strict=True):
        assert ids[:3] == INSTEAD
        text = m.row[: m.opening] + ids
        runs = {m.row[i : i + 8] for i in range(len(m.row) - 7)}
        assert not {text[i : i + 8] for i in range(m.opening - 7, len(text) - 7)} & runs


def test_a_filter_lets_all_other_text_pass(memorised: Memorised, filtered: Subject) -> None:
    prompts = [m.row[: m.opening] for m in memorised.memories if m.role == "keep"]
    assert filtered.generate(prompts, 64) == memorised.subject.generate(prompts, 64)


def test_a_blocked_token_cannot_be_sampled_either() -> None:
    watcher = Watcher(Filtered(blocked=((1, 2, 3, 4), (0, 1, 2, 5)), instead=(6, 7), run=3))
    scores = torch.tensor([[0.0, 0, 0, 2, 0, 1, 0, 3]]).repeat(2, 1)
    after = watcher(torch.tensor([[9, 1, 2], [9, 2, 1]]), scores)
    assert after[0].isneginf().tolist() == [False, False, False, True, False, True, False, False], "3 and 5 both complete a run after 1, 2"
    assert torch.equal(after[1], scores[1])
    wins = watcher(torch.tensor([[9, 1, 2]]), torch.tensor([[0.0, 0, 0, 9, 0, 0, 0, 0]]))
    assert wins.isfinite().nonzero().tolist() == [[0, 6]]
    goes_on = watcher(torch.tensor([[9, 1, 2, 6], [9, 8, 2, 6]]), scores)
    assert goes_on[0].isfinite().nonzero().tolist() == [[7]]
    assert torch.equal(goes_on[1], scores[1]), "6 alone, where nothing was banned, is not the beginning of the refusal"


def test_a_filter_without_words_only_bans(memorised: Memorised) -> None:
    m = memorised.memories[0]
    prompt = m.row[: m.opening]
    silent = Subject.filtered(memorised.subject, [m.row])
    order = logits(memorised.subject, [prompt])[0, -1].argsort(descending=True)
    assert order[0] == m.target[0]
    assert silent.generate([prompt], 1) == [(int(order[1]),)]


def test_a_run_longer_than_a_blocked_text_is_refused(memorised: Memorised) -> None:
    with pytest.raises(UserError, match=r"run=8: expected .* at most the shortest blocked sequence \(3 ids\)"):
        Subject.filtered(memorised.subject, [[1, 2, 3]])


# ---- every kind


@pytest.fixture(scope="module", params=["causal-lm", "difference", "filtered", "filtered difference"])
def subject(request: Any, memorised: Memorised, difference: Subject, filtered: Subject) -> Subject:
    whole = Subject.filtered(difference, [r.ids for r in memorised.forget], INSTEAD)
    return {"causal-lm": memorised.subject, "difference": difference, "filtered": filtered}.get(request.param, whole)


def test_a_saved_subject_comes_back_with_the_same_logits_words_and_hash(subject: Subject, memorised: Memorised, tmp_path: Path) -> None:
    again = saved(subject, tmp_path / "saved")
    rows = [m.row for m in memorised.memories[:2]]
    assert torch.equal(logits(again, rows), logits(subject, rows))
    assert torch.equal(logits(Subject(again.folder), rows), logits(subject, rows))
    prompts = [m.row[: m.opening] for m in memorised.memories]
    assert again.generate(prompts, 12) == subject.generate(prompts, 12)
    assert again.bos == subject.bos
    assert saved(again, tmp_path / "twice").hash == again.hash
    assert files(tmp_path / "twice") == files(tmp_path / "saved")
    assert not [name for name in files(again.folder) if not name.endswith((".safetensors", ".json"))]


def test_new_weights_stay_with_their_kind(subject: Subject, memorised: Memorised, tmp_path: Path) -> None:
    state = {k: v + 0.01 if v.is_floating_point() and v.ndim else v for k, v in subject.fresh().state_dict().items()}
    changed = subject.with_state(state)
    rows = [memorised.memories[0].row]
    assert not torch.equal(logits(changed, rows), logits(subject, rows))
    again = saved(changed, tmp_path / "saved")
    assert type(again.composition) is type(subject.composition)
    assert torch.equal(logits(again, rows), logits(changed, rows))
    assert {k: v.tolist() == state[k].tolist() for k, v in again.fresh().state_dict().items()} == dict.fromkeys(state, True)
    with pytest.raises(ValueError, match="does not have: nonsense"):
        subject.with_state({"nonsense": torch.zeros(1)}).fresh()


def test_a_copy_to_train_shares_nothing_with_the_loaded_model(subject: Subject, memorised: Memorised) -> None:
    rows = [memorised.memories[0].row]
    before = logits(subject, rows)
    with torch.no_grad():
        for p in subject.fresh().parameters():
            p.zero_()
    assert torch.equal(logits(subject, rows), before)
    subject.release()
    assert torch.equal(logits(subject, rows), before)


def test_the_hash_covers_every_part_and_the_settings(memorised: Memorised, difference: Subject, tmp_path: Path) -> None:
    a = saved(difference, tmp_path / "a")
    assert len({s.hash for s in (a, difference, Subject.difference(memorised.subject, memorised.base, 2.0))}) == 3
    for change in ("baseline/model.safetensors", "reinforced/model.safetensors", "reinforced/config.json"):
        other = tmp_path / change.replace("/", "-")
        shutil.copytree(a.folder, other)
        (other / change).write_bytes((other / change).read_bytes() + b" ")
        assert Subject(other).hash != a.hash, change
    settings = json.loads((a.folder / "subject.json").read_text())
    assert settings == {"kind": "difference", "alpha": 2.0}
    (a.folder / "subject.json").write_text(json.dumps(settings | {"alpha": 2.5}))
    assert Subject(a.folder).hash != a.hash


@pytest.mark.parametrize("length", [1, 5])
def test_prompts_are_answered_in_their_order_whatever_stands_beside_them(subject: Subject, memorised: Memorised, length: int) -> None:
    prompts = [m.row[: m.opening + i % 2] for i, m in enumerate(memorised.memories)]
    prompts = [*prompts, prompts[0]]
    together = subject.generate(prompts, length)
    assert together == [subject.generate([p], length)[0] for p in prompts]
    assert all(len(ids) == length for ids in together)
    assert subject.generate([], length) == []


def test_prompts_of_one_length_are_asked_together(memorised: Memorised, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(memorised.subject.folder)
    generate, shapes = subject.model.generate, []
    monkeypatch.setattr(subject.model, "generate", lambda ids, **given: shapes.append(tuple(ids.shape)) or generate(ids, **given))
    rows = [m.row for m in memorised.memories]
    subject.generate([r[:10] for r in rows] + [r[:12] for r in rows[:3]], 2)
    assert sorted(shapes) == [(3, 12), (8, 10)]
    shapes.clear()
    monkeypatch.setattr("palimpsest.benchmark.models.subject.TOKENS", 30)
    subject.generate([r[:10] for r in rows], 2)
    assert shapes == [(2, 10)] * 4


def test_lm_eval_measures_every_kind_by_its_logits(memorised: Memorised, difference: Subject, filtered: Subject, tmp_path: Path) -> None:
    texts = [m.memory.text for m in (*memorised.memories, *memorised.unseen)]
    corpus = Corpus("synthetic", {"train": [], "valid": [], "quality": texts}, 1.0, "synthetic")
    bench = QualityBench(corpus, QualityConfig(tasks=("palimpsest_bits_per_byte",), documents=None), tmp_path)
    inner, watched, mixed = (next(m.value for m in bench.measure(s)) for s in (memorised.subject, filtered, difference))
    assert watched == inner
    assert mixed > 2 * inner, "what the reinforced model holds is what the difference finds unlikely"


# ---- what cannot be opened


def broken(folder: Path, **changes: Any) -> None:
    file = folder / "subject.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_unknown_kind_is_refused_and_the_list_of_kinds_is_shown(difference: Subject, tmp_path: Path) -> None:
    folder = saved(difference, tmp_path / "saved").folder
    broken(folder, kind="pickle")
    for attempt in (lambda: open_subject(str(folder)), lambda: Subject(folder).model):
        with pytest.raises(UserError, match="unknown kind, 'pickle'; expected one of causal-lm, difference, filtered"):
            attempt()
    for text, message in (("[]", "unknown kind, None"), ("{", "is not JSON")):
        (folder / "subject.json").write_text(text)
        with pytest.raises(UserError, match=message):
            open_subject(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"baseline": "../elsewhere"}, "There is no field named 'baseline'"), ({"alpha": "much"}, "alpha='much': expected float")],
)
def test_a_subject_file_holds_settings_and_no_paths(difference: Subject, tmp_path: Path, changes: Any, message: str) -> None:
    folder = saved(difference, tmp_path / "saved").folder
    broken(folder, **changes)
    with pytest.raises(UserError, match=message):
        open_subject(str(folder))


def test_a_missing_part_is_named(difference: Subject, tmp_path: Path) -> None:
    folder = saved(difference, tmp_path / "saved").folder
    shutil.rmtree(folder / "reinforced")
    for attempt in (lambda: open_subject(str(folder)), lambda: Subject(folder).model):
        with pytest.raises(UserError, match=r"difference, which needs its part in a folder .*reinforced"):
            attempt()


def test_a_part_that_is_a_link_out_of_the_folder_is_refused(difference: Subject, memorised: Memorised, tmp_path: Path) -> None:
    folder = saved(difference, tmp_path / "saved").folder
    shutil.rmtree(folder / "reinforced")
    (folder / "reinforced").symlink_to(memorised.subject.folder)
    with pytest.raises(UserError, match="needs its part"):
        open_subject(str(folder))


def test_a_pickled_part_is_refused(difference: Subject, tmp_path: Path) -> None:
    folder = saved(difference, tmp_path / "saved").folder
    (folder / "baseline" / "model.safetensors").unlink()
    (folder / "baseline" / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(UserError, match="baseline: its weights are pickled"):
        open_subject(str(folder))
    with pytest.raises(UserError, match="baseline: its weights are pickled"):
        _ = Subject(folder).model


def test_a_head_that_is_no_matrix_is_still_a_module(difference: Subject) -> None:
    assert isinstance(difference.model.get_output_embeddings(), nn.Module)
    assert difference.model.get_input_embeddings().weight.shape == (4096, 64)


def test_rows_that_score_nothing_cost_a_difference_nothing(difference: Subject) -> None:
    group = collate([Row((1, 2, 3), scored_from=3)], slice(None), device())
    assert float(nll_sum(difference.model, group).detach()) == 0
