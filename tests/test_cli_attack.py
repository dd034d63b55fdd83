"""`palimpsest attack`: a model from elsewhere is read, compared with a reference, or refused with one message."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from palimpsest.benchmark.models.subject import Subject, open_subject
from palimpsest.benchmark.running import outside
from tests.command import Command, write_memories
from tests.conftest import Memorised


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def passages(memorised: Memorised, tmp_path: Path) -> str:
    return write_memories(tmp_path / "passages.jsonl", [m.memory for m in memorised.memories[:4]])


def test_attack_reads_a_model_and_subtracts_a_reference(palimpsest: Command, memorised: Memorised, passages: str, tmp_path: Path) -> None:
    model, reference = str(memorised.subject.folder), str(memorised.base.folder)
    options = ("--attacks", "prefix,paraphrase", "--out", "answers.parquet")
    code, out, _ = palimpsest("attack", model, "--memories", passages, "--reference", reference, *options)
    assert code == 0
    assert "4 memories, rows of 160 tokens, 52 probes per model." in out
    answers = pd.read_parquet(tmp_path / "answers.parquet")
    assert len(answers) == 2 * 4 * (5 + 3)
    columns = ["memory", "attack", "variant", "access", "tier", "start", "offset", "prompt", "matched", "horizon", "target", "model"]
    assert list(answers) == columns, "the table says nothing about suites"
    best = answers.groupby(["model", "attack", "memory"]).matched.max().groupby(["model", "attack"]).mean()
    assert best["model", "prefix"] == 64
    assert best["reference", "prefix"] < 8
    (row,) = [line.split() for line in out.splitlines() if line.startswith("prefix")]
    assert row == ["prefix", "4", "64.0", "100%", f"{best['reference', 'prefix']:.1f}", f"{64 - best['reference', 'prefix']:+.1f}"]
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("paraphrase", "worst case"))] == ["paraphrase", "worst"]


def test_attack_asks_those_to_forget_and_names_what_it_does_not_ask(palimpsest: Command, memorised: Memorised, tmp_path: Path) -> None:
    few = [replace(m.memory, role=role) for m, role in zip(memorised.memories, ("forget", "keep", "forget", "unseen"), strict=False)]
    few[0] = replace(few[0], paraphrases=())
    file = write_memories(tmp_path / "roles.jsonl", few)
    model, reference = str(memorised.subject.folder), str(memorised.base.folder)
    asking = ("attack", model, "--memories", file, "--attacks", "prefix,paraphrase,alias")
    code, out, err = palimpsest(*asking, "--reference", reference)
    assert code == 0, err
    assert "2 memories to forget (of 4), rows of 160 tokens" in out
    assert "Not asked: alias (the memories bring no question for them" in out
    said = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.startswith(("prefix", "paraphrase"))}
    assert said == {"prefix": "2", "paraphrase": "1"}, "how many memories each was asked about"
    alone = " ".join(palimpsest(*asking)[1].split())
    assert "Not asked: paraphrase, alias" in alone, "to a model that knows an opening by heart no other is as plausible"
    assert "or the model itself, since there is no reference, finds all of them much less plausible" in alone
    none = write_memories(tmp_path / "none.jsonl", few[1:2])
    assert "None of the 1 memories" in palimpsest("attack", model, "--memories", none)[2]


def test_attack_shows_that_the_models_are_alive_and_warns_of_one_that_is_not(
    palimpsest: Command, memorised: Memorised, passages: str, tmp_path: Path
) -> None:
    def life(subject: Subject) -> list[str]:
        subject.save(_made(tmp_path / "model"))
        options = ("--reference", "pocket/step256", "--attacks", "prefix", "--precision", "fp32")
        code, out, _ = palimpsest("attack", str(tmp_path / "model"), "--memories", passages, *options)
        shutil.rmtree(tmp_path / "model")
        assert code == 0, "a warning is no error"
        lines = out.splitlines()
        (sign,) = [line for line in lines if line.startswith("Sign of life, on the beginnings of 32 docstrings of installed packages: ")]
        assert re.search(r"the reference needs \d\.\d\d nats per token, \d\.\d\d bits per byte; a uniform guess 8\.32 nats", sign)
        return [line for line in lines if line.startswith("Warning")]

    healthy = open_subject("pocket/step256")
    assert life(healthy) == []
    rng = torch.Generator().manual_seed(0)
    hurt = {
        k: w + 1.5 * w.std() * torch.randn(w.shape, generator=rng) if w.ndim == 2 else w for k, w in healthy.fresh().state_dict().items()
    }
    (warning,) = life(healthy.with_state(hurt))
    assert "This model is broken, not forgetful" in warning
    (warning,) = life(memorised.base)
    assert re.search(
        r"This model is broken, not forgetful: ordinary text costs it 8\.\d\d nats per token, and a uniform guess 8\.32", warning
    )


def test_attack_makes_the_folder_of_its_answers_and_says_before_work_where_it_cannot(
    palimpsest: Command, memorised: Memorised, passages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("attack", str(memorised.subject.folder), "--memories", passages, "--attacks", "prefix", "--precision", "fp32", "--out")
    assert palimpsest(*asked, "not/there/answers.parquet")[0] == 0
    assert len(pd.read_parquet(tmp_path / "not" / "there" / "answers.parquet")) == 4 * 5
    monkeypatch.setattr(outside, "attack_model", lambda *_: pytest.fail("it was asked before"))
    for out, message in (("passages.jsonl/answers.parquet", "cannot be written"), ("not/there", "not/there is a folder; name a file")):
        code, _, err = palimpsest(*asked, out)
        assert (code, err.count("\n")) == (1, 1)
        assert message in err


def test_attack_without_a_reference_lowers_the_row_to_the_shortest_memory(
    palimpsest: Command, memorised: Memorised, tmp_path: Path
) -> None:
    first = memorised.memories[0].memory
    short = replace(first, id="short", text=memorised.subject.tokenizer.decode(memorised.memories[0].row[:120]))
    file = write_memories(tmp_path / "m.jsonl", [first, short])
    code, out, _ = palimpsest("attack", str(memorised.subject.folder), "--memories", file, "--attacks", "prefix", "--precision", "fp32")
    assert code == 0
    assert "2 memories, rows of 120 tokens" in out
    assert "reference" not in out


def test_attack_refuses_what_it_cannot_do_with_one_message(
    palimpsest: Command, memorised: Memorised, passages: str, tmp_path: Path
) -> None:
    model = str(memorised.subject.folder)
    short = replace(memorised.memories[0].memory, text=memorised.memories[0].memory.text[:200])
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((memorised.subject.folder / "config.json").read_text())
    torch.save({}, pickled / "pytorch_model.bin")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.jsonl").write_text("\n")
    cases = [
        ((model, "--memories", write_memories(tmp_path / "short.jsonl", [short])), "do not fit a row of"),
        ((model, "--memories", "missing.jsonl"), "There is no memories file 'missing.jsonl'"),
        ((model, "--memories", "nothing.jsonl"), "nothing.jsonl holds no memory"),
        ((model, "--memories", passages, "--attacks", "prefix,prefx"), "There is no attack named 'prefx'"),
        ((model, "--memories", passages, "--attacks", "priming"), "none of these attacks has a question"),
        ((model, "--memories", passages, "--precision", "int8"), "precision='int8': expected auto, bf16, fp32"),
        ((str(pickled), "--memories", passages), "its weights are pickled (pytorch_model.bin), which could run code"),
        ((str(tmp_path / "empty"), "--memories", passages), "has no config.json"),
    ]
    for arguments, message in cases:
        code, _, err = palimpsest("attack", *arguments)
        assert code == 1, arguments
        assert message in err
        assert err.startswith("Error: ")
        assert err.count("\n") == 1


def test_damaged_weights_are_one_message(palimpsest: Command, memorised: Memorised, passages: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    Subject(memorised.subject.folder).save(_made(damaged))
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, _, err = palimpsest("attack", str(damaged), "--memories", passages)
    assert code == 1
    assert "could not be loaded as a causal language model" in err
