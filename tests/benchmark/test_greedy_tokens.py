"""Which tokens count as the likeliest in measures of other papers: by the rule of matched lengths, of equals the lower id, of NaN none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import EncodedMemory
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.oracle import likeliest
from palimpsest.benchmark.reading.published import read_off
from palimpsest.benchmark.studies._measures import exact_memorisation, extraction_strength
from tests.benchmark.windows import readings
from tests.conftest import Memorised


def hits(subject: Subject, m: EncodedMemory, precision: str = "fp32") -> list[bool]:
    return read_off(subject, [(m, "")], len(m.row), precision)[0]["likeliest"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("which", ["memorised", "blurred"])
def test_they_are_those_that_no_logit_exceeds(which: str, precision: str, memorised: Memorised, blurred: Subject) -> None:
    subject = blurred if which == "blurred" else memorised.subject
    for m in (memorised.memories[0], memorised.unseen[0]):
        found = hits(subject, m, precision)
        assert found == (readings(subject, [m])[m.id].rank[m.opening :] == 0).tolist()
        assert found == [a == b for a, b in zip(likeliest(subject, m.row)[m.opening :], m.row[m.opening :], strict=True)]


def test_a_model_that_finds_all_tokens_alike_has_memorised_nothing(constant: Subject, memorised: Memorised) -> None:
    m = memorised.memories[0]
    found = hits(constant, m)
    assert found == [i == 0 for i in m.row[m.opening :]]
    assert exact_memorisation(found) == extraction_strength(found) == 0
    zeros = replace(m, row=(*m.row[: m.opening], 0, 7, 0))
    assert hits(constant, zeros) == [True, False, True], "greedy decoding says the lowest id"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_read_off_logits_that_are_not_numbers(memorised: Memorised, precision: str) -> None:
    subject = Subject(memorised.subject.folder)
    with torch.no_grad():
        subject.model.get_output_embeddings().weight.fill_(float("nan"))
    m = memorised.memories[0]
    with pytest.raises(UserError, match="logits are not finite"):
        hits(subject, m, precision)
    with pytest.raises(UserError, match=rf"logits are not finite .*no probabilities .*{m.id}.* did not diverge"):
        readings(subject, [m], precision=precision)
