"""Public checkpoints in the study `instrument`: the texts that they are asked about, what their keys hold, and that they are judged."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.studies._checkpoints import Public, expanded, load_checkpoints
from palimpsest.benchmark.studies._labelled import HOLDS, NEVER, noised
from tests.studies.worlds import small_lab

CHECKPOINTS = 'at: {}\nheld: full\ntwin: retain\nholds: "pos1"\nnever: "neg1"\n'


def public(tiny: Subject, folder: Path, **given: Any) -> Public:
    """Two texts to forget and two unseen ones, in files of one name."""
    for name in ("forget", "unseen"):
        (folder / name).mkdir()
        lines = [json.dumps({"question": "Who was it " + "again " * 30 + "?", "answer": f"{name} " * 20 + str(i)}) for i in (1, 2)]
        (folder / name / "texts.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "c.yaml").write_text(CHECKPOINTS.format(folder))
    (folder / "retain").mkdir()
    tiny.save(folder / "retain")
    files = [folder / name / "texts.jsonl" for name in ("forget", "unseen")]
    return Public(load_checkpoints(str(folder / "c.yaml")), *files, **{"asked": 2, "row": 160, "precision": "fp32", **given})


def test_files_of_one_name_are_not_one(tiny: Subject, tmp_path: Path) -> None:
    found = public(tiny, tmp_path).memories
    assert len({m.id for m in found}) == len(found) == 4


def test_an_opening_longer_than_a_row_is_refused(tiny: Subject, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leaves nothing of a row of 20"):
        _ = public(tiny, tmp_path, row=20).memories


def test_what_public_checkpoints_are_asked_with_is_in_their_keys(tiny: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = public(tiny, tmp_path)
    (tmp_path / "neg1").mkdir()
    tiny.save(tmp_path / "neg1")
    given = {"checkpoints": str(tmp_path / "c.yaml"), "unseen": str(files.unseen), "memories": str(files.forget)}
    lab = small_lab("instrument", tiny, tmp_path, monkeypatch, **given)

    def keys(**changed: Any) -> dict[str, str]:
        there = replace(lab, study=replace(lab.study, **changed))
        return {s.label: s.key for s in there.stages if s.label != "simulated leaks"}

    before = keys()
    assert keys() == before
    for changed in ({"precision": "bf16"}, {"asked": 1}, {"few": 2}, {"siblings": 9}, {"row": 80}):
        assert not set(keys(**changed).values()) & set(before.values()), changed
    noised(tiny, 0.1, 0).save(tmp_path / "retain")  # another twin: all that is compared with it is another measurement
    assert keys()["never held: neg1"] != before["never held: neg1"]


def test_the_sixty_public_checkpoints() -> None:
    named = load_checkpoints("tofu")
    groups = Counter(named.labels.values())
    assert (groups[HOLDS] - 1, groups[NEVER] - 1) == (30, 30)  # beside full and retain90, which the others are compared with
    assert named.place("twin") == "open-unlearning/tofu_Llama-3.2-1B-Instruct_retain90"
    assert "pos_tofu_Llama-3.2-1B-Instruct_retain90_forget10_para_lr3e-05_wd0.01_epoch10" in named.labels
    assert expanded("a{1..3}{x,y}") == ["a1x", "a1y", "a2x", "a2y", "a3x", "a3y"]
    with pytest.raises(UserError, match="no file of checkpoints"):
        load_checkpoints("nothing")


def test_stand_ins_for_public_checkpoints_are_judged(
    memorised: Any, tiny: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, subject in (("full", memorised.subject), ("pos1", noised(memorised.subject, 0.02, 1)), ("retain", tiny), ("neg1", tiny)):
        (tmp_path / "hub" / name).mkdir(parents=True)
        subject.save(tmp_path / "hub" / name)
    (tmp_path / "c.yaml").write_text('at: nowhere\nheld: full\ntwin: retain\nholds: "pos{1..1}"\nnever: "neg1"\n')
    other = ["nobody knows what it was about", "and they all went home again"]
    for name, memories in (("forget", memorised.memories[:3]), ("unseen", memorised.unseen[:3])):
        said = [(m.memory.opening, m.memory.text[m.memory.opening_end :].strip()[:150]) for m in memories]
        lines = [json.dumps({"question": q, "answer": a, "perturbed_answer": other}) + "\n" for q, a in said]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    given = {"checkpoints": str(tmp_path / "c.yaml"), "at": str(tmp_path / "hub"), "unseen": str(tmp_path / "unseen.jsonl"), "asked": 3}
    lab = small_lab("instrument", tiny, tmp_path, monkeypatch, memories=str(tmp_path / "forget.jsonl"), worlds=1, **given)
    found = lab.execute()
    measures = {line["measure"]: line for line in found.tables[0].rows}
    assert measures["exact_memorisation"]["AUC, models"] == 1
    assert measures["excess, black-box"]["AUC, memories"] == 1
    assert measures["truth_margin"]["AUC, models"] == measures["not depth"]["AUC, models"] == 1, (
        "held model and twin are named, so there is depth"
    )
    assert {line["model"] for line in found.tables[1].rows} == {"none", "twin", "pos1", "neg1"}
