"""The study of repetition: lengths in ids and characters, which texts meet which counts, verdicts of known rows, and a whole run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.studies import repetition
from palimpsest.benchmark.studies._templates import FORMS, templates
from palimpsest.benchmark.studies._verbatim import beginning, common, normal, text_memory, verbatim
from palimpsest.benchmark.studies.pages.repetition import difference, likelihood_and_length, page
from tests.conftest import Memorised
from tests.studies.laboratory import fast, made_up_corpus, written

COUNTS = (1, 4, 64)


def test_what_a_model_holds_is_read_in_ids_and_in_characters(memorised: Memorised) -> None:
    held, never = memorised.memories[0], memorised.unseen[0]
    a, b = verbatim(memorised.subject, [held, never], 16, "fp32")
    assert a.tokens == a.apparent == 64
    assert b.tokens < 16
    assert a.characters > 100
    assert a.again >= 60
    assert b.characters < 60


def test_a_copy_of_the_prompt_counts_as_nothing_but_is_seen(tiny: Subject) -> None:
    """A model with equal logits says token 0 for ever: after eight zeros the four that follow, which stand in the prompt."""
    constant = tiny.with_state({"lm_head.weight": torch.zeros(4096, 64)})
    (zeros,) = verbatim(constant, [text_memory("zeros", "", [0] * 12 + [5] * 148, 12)], 16, "fp32")
    assert (zeros.tokens, zeros.apparent) == (0, 4)


def test_normalised_text() -> None:
    assert normal("It's 12:30, Ann.") == "its1230ann"
    assert common("abcd", "abxd") == 2
    assert common("ab", "abc") == 2
    assert beginning("A, b; c", 2) == "A, b"
    assert beginning("abc", 0) == ""


def test_templates_are_long_enough_and_differ(tiny: Subject) -> None:
    made = templates(tiny, len(FORMS) + 1, 160, 0)
    assert {len(m.row) for m in made} == {160}
    assert len({m.row for m in made}) == len(made)
    assert [m.row for m in templates(tiny, 2, 160, 0)] == [m.row for m in made[:2]]


def test_counts_go_round_the_domains(memorised: Memorised) -> None:
    """Eight memories of two domains and two counts: each domain meets each count twice."""
    one = memorised.memories[0]
    memories = [replace(one, memory=replace(one.memory, id=f"{d}{i}", domain=d)) for d in "ab" for i in range(4)]
    for seed in (0, 1):
        order = repetition.arranged(memories, 2, seed)
        assert sorted(m.id for m in order) == sorted(m.id for m in memories)
        met = Counter((m.memory.domain, i % 2) for i, m in enumerate(order))
        assert set(met.values()) == {2}


# ---- verdicts of rows whose answer is known


def row(model: str, seed: int, kind: str, count: int, memory: str, tokens: int, nats: float = 3.0) -> dict[str, Any]:
    known = {"model": model, "seed": seed, "kind": kind, "count": count, "memory": memory, "tokens": tokens}
    return {**known, "apparent": tokens, "characters": 4 * tokens, "again": tokens, "base_nats": nats}


def repeated(one: int, late: int) -> list[dict[str, Any]]:
    """Three seeds: `one` tokens after one sight; the late model holds `late` more of natural text, and as many fewer of shuffled text."""
    out = []
    for seed in (0, 1, 2):
        for model, more in (("early", 0), ("late", late)):
            for kind, sign in (("natural", 1), ("shuffled", -1)):
                for count, length in ((0, 2), (1, one), (4, 20), (64, 50)):
                    pairs = ((f"{kind}{count}{i}", length + sign * more * (count > 0) - i + 0.1 * seed, 3.0 + i) for i in range(3))
                    out += [row(model, seed, kind, count, name, length, nats) for name, length, nats in pairs]  # type: ignore[arg-type]
    return out


def once(control: int, template: int) -> list[dict[str, Any]]:
    lengths = {("natural", True): 10, ("natural", False): control, ("template", True): 30, ("template", False): template}
    lengths |= {("held-out text", True): 5, ("held-out text", False): 5}
    return [
        {"seed": s, "treated": t, "kind": kind, "memory": f"{kind}{i}", "stop": stop, "tokens": 1, "characters": 4, "again": 1}
        | {"apparent": n + s * {"natural": 0.1, "template": 0.2, "held-out text": 0}[kind] + 0.1 * i}
        for s in (0, 1, 2)
        for (kind, t), n in lengths.items()
        for stop in (0, 1, 100)
        for i in range(2)
    ]


def said(*given: Any) -> list[str]:
    found = page(*given, checkpoints=("early", "late"), smaller=(), counts=COUNTS)
    return [v.says for v in found.verdicts]


def test_verdicts_follow_the_numbers() -> None:
    assert said(repeated(3, 1), once(9, 28)) == ["agrees"] * 7
    assert said(repeated(30, -5), once(1, 0)) == ["disagrees", "disagrees", "disagrees", "agrees", "disagrees", "disagrees", "disagrees"]


def test_templates_do_not_outweigh_memories() -> None:
    """Of memories the control says a tenth of what the treated model says, of templates, which are long, nearly all: 29 of 40 tokens."""
    assert said(repeated(3, 1), once(1, 28))[4:] == ["disagrees", "agrees", "agrees"]


def test_differences_are_over_the_same_texts_and_correlation_is_within_counts() -> None:
    rows = repeated(3, 5)
    assert difference(rows, "late", "early", "natural").value == pytest.approx(5)
    assert likelihood_and_length([r for r in rows if r["model"] == "late" and r["seed"] == 0 and r["kind"] == "natural"]) < -0.9
    assert str(likelihood_and_length(rows[:1])) == "nan"


def test_numbers_that_do_not_rise_are_refused() -> None:
    with pytest.raises(UserError, match="counts"):
        repetition.Repetition(counts=(4, 1))


def test_models_are_told_apart_by_name_and_revision(tiny: Subject, tmp_path: Path) -> None:
    """Rows hold the name of a model, and checkpoints of the hub are revisions of one name."""
    (tmp_path / "same").symlink_to(tiny.folder, target_is_directory=True)
    with made_up_corpus(tmp_path):
        lab = fast("repetition", tmp_path, model=str(tiny.folder), per_role=4)
        study = lab.study
        assert isinstance(study, repetition.Repetition)
        one, other = (study.repeated(lab, name, 0) for name in (str(tiny.folder), str(tmp_path / "same")))
        assert one.key != other.key
        suite = study.run(lab, "lab/model@step1000").suite
    assert (suite.model, suite.revision, suite.injection.occurrences) == ("lab/model", "step1000", (1, 4))


# ---- a whole run


def test_the_fast_form_writes_its_page(tiny: Subject, tmp_path: Path) -> None:
    with made_up_corpus(tmp_path):
        lab = fast("repetition", tmp_path, model=str(tiny.folder), per_role=4, stride=64)
        text = written(lab, lab.execute(), tmp_path / "out")
        rows = [r for s in lab.stages for r in lab.rows(s)]
    assert "One sight is not enough" in text
    assert {r["count"] for r in rows if "count" in r} == {0, 1, 4}
    assert {(r["kind"], r["count"]) for r in rows if "count" in r} == {(k, c) for k in ("natural", "shuffled") for c in (0, 1, 4)}
    assert {(r["treated"], r["stop"]) for r in rows if "stop" in r} == {(t, s) for t in (True, False) for s in (0, 1)}
    before = [[r["apparent"] for r in rows if r.get("stop") == 0 and r["treated"] is t] for t in (True, False)]
    assert before[0] == before[1], "before the shot, treated and control are one model"
    assert (tmp_path / "out" / "repetition-by-count.svg").is_file()
