"""A token reading is what the model's own logits say, whoever else is read with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.subject import Subject
from tests.benchmark.windows import readings
from tests.conftest import Memorised


def test_a_token_reading_is_what_the_models_own_logits_say(memorised: Memorised) -> None:
    memory = memorised.unseen[0]
    found = readings(memorised.subject, [memory])[memory.id]
    with torch.no_grad():
        logits = memorised.subject.model(torch.tensor([memory.row], device=device())).logits[0, :-1].double().cpu()
    log_p, truth = logits.log_softmax(-1), torch.tensor(memory.row[1:])[:, None]
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    expected = {
        "log_probability": log_p.gather(1, truth)[:, 0],
        "mean": mean,
        "deviation": ((p * log_p.square()).sum(-1) - mean.square()).sqrt(),
        "rank": (logits > logits.gather(1, truth)).sum(-1),
        "top_mass": p.topk(40, -1).values.sum(-1).log(),
    }
    for name, values in expected.items():
        got = getattr(found, name)
        assert got.shape == (160,)
        assert got[0] == -1 if name == "rank" else np.isnan(got[0]), name
        np.testing.assert_allclose(got[1:], values.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)
    assert found.rank.dtype == np.int64


def test_a_token_reading_of_equal_logits_has_a_closed_form(constant: Subject, memorised: Memorised) -> None:
    memory = memorised.unseen[0]
    found = readings(constant, [memory])[memory.id]
    for values, expected in [(found.log_probability, -np.log(4096)), (found.mean, -np.log(4096)), (found.top_mass, np.log(40 / 4096))]:
        np.testing.assert_allclose(values[1:], expected, rtol=1e-5)
    np.testing.assert_allclose(found.deviation[1:], 0, atol=1e-4)
    assert set(found.rank[1:].tolist()) == {0}, "no logit is greater"


def test_with_a_token_before_every_text_the_first_token_is_read_too(
    memorised: Memorised, with_bos: Callable[[Path], Subject], tmp_path: Path
) -> None:
    subject, memory = with_bos(tmp_path), memorised.memories[0]
    found = readings(subject, [memory])[memory.id]
    with torch.no_grad():
        logits = subject.model(torch.tensor([subject.with_bos(memory.row)], device=device())).logits[0, :-1].cpu()
    expected = logits.log_softmax(-1).gather(1, torch.tensor(memory.row)[:, None])[:, 0]
    np.testing.assert_allclose(found.log_probability, expected.numpy(), atol=1e-4)
    assert (found.rank >= 0).all()


def test_a_token_reading_does_not_depend_on_its_mates(memorised: Memorised) -> None:
    everyone = [*memorised.memories, *memorised.unseen]
    together, halves = readings(memorised.subject, everyone), readings(memorised.subject, everyone[::-1], tokens_per_batch=400)
    for m in everyone:
        alone = readings(memorised.subject, [m])[m.id]
        for other in (together[m.id], halves[m.id]):
            for name in ("log_probability", "mean", "deviation", "top_mass"):
                np.testing.assert_allclose(getattr(alone, name), getattr(other, name), atol=1e-4)
            np.testing.assert_array_equal(alone.rank, other.rank)
