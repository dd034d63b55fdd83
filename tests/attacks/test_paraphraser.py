"""The paraphraser asks with what a local model says; it loads nothing but safetensors from a directory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from palimpsest.attacks.paraphraser import Paraphraser, first_line
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject
from tests.attacks.conftest import fresh_tools
from tests.conftest import Memorised


@pytest.fixture(scope="module")
def seq2seq(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained T5 that knows the shipped tokenizer's ids."""
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(1)
    shape = T5Config(
        vocab_size=4096, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0, pad_token_id=0, eos_token_id=0
    )
    T5ForConditionalGeneration(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_what_the_model_says_is_asked_and_the_same_each_time(kind: str, seq2seq: Path, tiny: Subject, memorised: Memorised) -> None:
    attack = Paraphraser(math.inf, model=str(seq2seq if kind == "seq2seq" else tiny.folder), tries=3)
    tools, first, second = fresh_tools(memorised), memorised.memories[0], memorised.memories[1]
    state = torch.get_rng_state()
    said, probes = list(attack.texts(first, tools)), list(attack.probes(first, tools))
    assert torch.equal(state, torch.get_rng_state()), "drawing leaves the global state alone"
    assert len(said) == 3
    assert [tools.decode(p.prompt) for p in probes] == [t for _, t in dict.fromkeys(said) if t and tools.round_trips(t)] != []
    assert all((p.target, p.offset, p.start, p.variants) == (first.target, first.opening, -1, ("reworded",)) for p in probes)
    again = fresh_tools(memorised)
    assert list(attack.texts(second, again)) != list(attack.texts(first, again)) == said
    assert list(attack.texts(first, fresh_tools(memorised, seed=4))) != said


def test_a_causal_model_is_read_after_the_instruction_and_the_opening(tiny: Subject, memorised: Memorised, tokenizer: Any) -> None:
    """A model that repeats a memory greedily says how the opening goes on when the instruction is the opening alone."""
    m = memorised.memories[0]
    attack = Paraphraser(math.inf, model=str(memorised.subject.folder), instruction="{opening}", tries=2, top_p=1e-6)
    ((_, text), (_, same)) = attack.texts(m, fresh_tools(memorised))
    assert text == same == first_line(tokenizer.decode(m.row[m.opening : 3 * m.opening + 16]))
    assert list(attack.probes(m, fresh_tools(memorised))) == [], "and that is the target, which no prompt may give away"


@pytest.mark.parametrize(
    ("said", "line"),
    [("\n  \n “So it was,” \nand more", "So it was,"), ("", ""), (' "Yes" ', "Yes"), ("one\ntwo", "one")],
)
def test_the_first_line_without_quotation_marks_counts(said: str, line: str) -> None:
    assert first_line(said) == line


def test_without_a_model_the_message_says_what_to_give(memorised: Memorised, tools: Tools) -> None:
    with pytest.raises(UserError, match=r"model is empty.*attacks\.paraphraser\.model="):
        list(Paraphraser().probes(memorised.memories[0], tools))


def test_a_name_that_is_no_directory_is_not_looked_for_elsewhere(memorised: Memorised, tools: Tools) -> None:
    with pytest.raises(UserError, match="not a local Hugging Face directory"):
        list(Paraphraser(model="some-lab/paraphraser").probes(memorised.memories[0], tools))


def test_pickled_weights_are_refused(seq2seq: Path, tmp_path: Path, memorised: Memorised, tools: Tools) -> None:
    for file in seq2seq.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(T5ForConditionalGeneration.from_pretrained(seq2seq).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="could not be loaded"):
        list(Paraphraser(model=str(tmp_path)).probes(memorised.memories[0], tools))
