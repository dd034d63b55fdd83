"""A subject of every kind: it comes back from saving, trains on copies, answers prompts, and is refused where it is broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject, open_subject
from palimpsest.benchmark.quality.harness import QualityBench
from palimpsest.benchmark.suites.config import QualityConfig
from palimpsest.benchmark.texts.corpus import Corpus
from tests.benchmark.kinds import INSTEAD, logits
from tests.benchmark.model_folders import saved
from tests.conftest import Memorised


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


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


@pytest.mark.parametrize(
    ("config", "generation", "more"), [(7, None, {7}), ([7, 9], 11, {7, 9, 11}), (None, [11, 7], {7, 11}), (None, None, set[int]())]
)
def test_text_ends_with_all_ids_that_files_name(config: Any, generation: Any, more: set[int], tmp_path: Path, memorised: Memorised) -> None:
    """Models of a chat name several; the class's own default, where a file names none, is no end."""
    saved(memorised.subject, tmp_path / "m")
    for name, value in (("config", config), ("generation_config", generation)):
        file = tmp_path / "m" / f"{name}.json"
        known = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**known, "eos_token_id": value}))
    subject, own = Subject(tmp_path / "m"), memorised.subject.tokenizer.eos_token_id
    assert subject.ends == {own} | more
    assert subject.ended((1, 2, own, 3)) == (1, 2)
    assert subject.ended((1, 2, 3)) == (1, 2, 3)
    assert all(subject.ended((1, i, 2)) == (1,) for i in more)


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
