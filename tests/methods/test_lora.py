"""Every loss-based method trains with adapters too, whole or in parts, under ZeRO 0 and 3; those that train no matrix say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.method import Trainer, UnlearningData, alternatives
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.models.weights import linear_weights
from palimpsest.benchmark.suites.config import load_suite
from palimpsest.benchmark.training.lora import Lora
from tests.conftest import Memorised

from .harness import DESCENTS

RANK = 2
NOTHING_TO_ADAPT = ("neuron_pruning", "sparse_finetuning")  # train gates or a mask, and none of the matrices themselves
ADAPTABLE = [n for n in DESCENTS if n not in NOTHING_TO_ADAPT]
RETAIN = [Row(tuple(range(100 * i, 100 * i + 60)), name=f"r{i}") for i in range(3)]


@pytest.fixture(scope="module")
def data(memorised: Memorised) -> UnlearningData:
    forget = memorised.forget[:2]
    return UnlearningData(
        forget, memorised.shown, lambda k: RETAIN[k % 3], seed=4, openings={m.id: m.opening for m in memorised.memories},
        alternatives=alternatives(memorised.memories, memorised.base),
    )  # fmt: skip


def unlearned(name: str, memorised: Memorised, data: UnlearningData, stage: int = 0) -> Subject:
    method = find("method", name).make({"lr": 1e-2, "epochs": 3, "batch": 2, "lora": {"rank": RANK}})
    return method.unlearn(memorised.subject, data, Trainer("fp32", f"zero{stage}", seed=1))


def weights(subject: Subject) -> dict[str, Tensor]:
    """Of what was trained: of two models that are combined, the one that was taught the text."""
    trained = subject.made_of[1]["reinforced"] if subject.made_of else subject
    return {k: v.detach() for k, v in trained.fresh().state_dict().items()}


def furthest(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


@pytest.mark.parametrize("name", ADAPTABLE)
def test_adapters_change_matrices_by_their_rank_under_zero_0_and_3(name: str, memorised: Memorised, data: UnlearningData) -> None:
    before, after = weights(memorised.subject), weights(unlearned(name, memorised, data))
    changes = {k: after[k] - before[k] for k in before if not torch.equal(before[k], after[k])}
    assert changes
    assert changes.keys() <= linear_weights(memorised.subject.fresh()).keys()
    assert all(int(torch.linalg.matrix_rank(c.double(), rtol=1e-3)) <= RANK for c in changes.values())
    assert max(float(c.abs().max()) for c in changes.values()) > 1e-3
    assert furthest(weights(unlearned(name, memorised, data, stage=3)), after) < 1e-3


@pytest.mark.parametrize("name", NOTHING_TO_ADAPT)
def test_a_method_that_trains_no_matrix_refuses_adapters(name: str, memorised: Memorised, data: UnlearningData) -> None:
    with pytest.raises(UserError, match="no matrix of attention and MLPs is trained"):
        unlearned(name, memorised, data)


def test_rank_and_alpha_are_set_on_the_command_line() -> None:
    suite = load_suite("quick", ["method=npo", "methods.npo.lora.rank=4", "methods.npo.lora.alpha=8"])
    assert find("method", "npo").make(suite.methods["npo"]).lora == Lora(4, 8.0)
    assert find("method", "npo").make({}).lora is None


@pytest.mark.parametrize(
    ("given", "message"), [({"lora": 8}, "lora.rank"), ({"lora": {"rank": 0}}, "at least 1"), ({"lora": {"r": 8}}, "rank")]
)
def test_wrong_values_are_answered_with_what_is_expected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find("method", "npo").make(given)
