"""A model behind an output filter: its logits are as they were, and it never says a blocked run."""

from __future__ import annotations

import pytest
import torch

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.kinds import Filtered, Watcher
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.reader import Reader
from tests.benchmark.kinds import INSTEAD, logits, opening_probes
from tests.conftest import Memorised


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
