"""Two models combined at the logits: the formula, what is read off it, what it trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.reader import Reader
from palimpsest.benchmark.training.batches import collate
from palimpsest.benchmark.training.losses import language_model_loss, nll_sum
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.benchmark.training.trainer import Trainer
from tests.benchmark.kinds import logits, opening_probes
from tests.benchmark.model_folders import saved
from tests.conftest import Memorised


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


def test_a_head_that_is_no_matrix_is_still_a_module(difference: Subject) -> None:
    assert isinstance(difference.model.get_output_embeddings(), nn.Module)
    assert difference.model.get_input_embeddings().weight.shape == (4096, 64)


def test_rows_that_score_nothing_cost_a_difference_nothing(difference: Subject) -> None:
    group = collate([Row((1, 2, 3), scored_from=3)], slice(None), device())
    assert float(nll_sum(difference.model, group).detach()) == 0
