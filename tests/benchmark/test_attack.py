"""Tools: what an attack may ask while it writes probes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from transformers import PreTrainedTokenizerFast

from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.models.subject import Subject
from tests.conftest import Memorised


def test_nats_per_token_do_not_depend_on_who_is_asked_together(memorised: Memorised) -> None:
    texts = [m.memory.opening for m in (*memorised.memories, *memorised.unseen)]
    together = Tools(memorised.subject).nats_per_token(texts)
    shuffled = random.Random(0).sample(range(len(texts)), len(texts))
    alone = Tools(memorised.subject)
    assert [alone.nats_per_token([texts[i]])[0] for i in shuffled] == pytest.approx([together[i] for i in shuffled], rel=1e-4)
    assert min(together[8:]) > 2 * max(together[:8]), "openings it knows surprise it less than openings it does not"


def test_a_text_that_the_tokenizer_changes_does_not_round_trip(tokenizer: Any, tiny: Subject) -> None:
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.normalizer = Lowercase()  # type: ignore[assignment]
    tools = Tools(tiny)
    assert tools.round_trips("Great")
    tools.__dict__["tokenizer"] = PreTrainedTokenizerFast(tokenizer_object=own)
    assert tools.round_trips("great")
    assert not tools.round_trips("Great")
