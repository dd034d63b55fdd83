"""The stress test: kinds of prompts, what they add beyond the twin, verdicts of known rows, and a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.battery.answers import BestAnswer
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.studies.pages.stress import extracted, page, quality_loss, raised
from palimpsest.benchmark.studies.stress import Stress, by_kind
from tests.studies.laboratory import fast, made_up_corpus, written


def answer(attack: str, variant: str, matched: int) -> BestAnswer:
    return BestAnswer("m", attack, variant, "black-box", 0, 0, 0, "", matched, 64)


def test_the_best_of_each_kind_of_prompt() -> None:
    answers = [
        answer("prefix", "opening", 3), answer("prefix", "k32", 9), answer("shifted_window", "k8", 12), answer("longer_prefix", "+4", 1),
        answer("word_substitution", "single", 5), answer("paraphrase", "+0", 2),
    ]  # fmt: skip
    assert by_kind(answers) == {
        "exact": 3, "position": 12, "semantic": 5, "position_by": "shifted_window k8", "semantic_by": "word_substitution single",
    }  # fmt: skip
    assert by_kind(answers[:1])["semantic"] is None, "an opening that nothing can be replaced in"


def row(method: str, seed: int, memory: str, exact: int, position: int, semantic: int | None) -> dict[str, Any]:
    return {"method": method, "seed": seed, "memory": memory, "exact": exact, "position": position, "semantic": semantic}


def answers(more: int) -> list[dict[str, Any]]:
    """Three seeds of two memories that are held and one that is not; other positions add `more` after gradient ascent, 2 on the twin."""
    out = []
    for seed in (0, 1, 2):
        for memory, held in (("a", 64), ("b", 60), ("c", 10)):
            out += [
                row("none", seed, memory, held, 64, 64),
                row("twin", seed, memory, 0, 2, 1),
                row("gradient_ascent", seed, memory, 1, 1 + more + seed % 2, 2 if memory == "a" else None),
            ]
    return out


QUALITY = [
    {"method": m, "seed": s, "bits": bits + 0.01 * s}
    for m, bits in (("none", 1.0), ("twin", 0.95), ("gradient_ascent", 1.1))
    for s in (0, 1, 2)
]


@pytest.mark.parametrize(("more", "says"), [(12, "agrees"), (0, "disagrees"), (2, "cannot tell")])
def test_what_prompts_add_is_read_against_the_twin(more: int, says: str) -> None:
    found = page(answers(more), QUALITY, ("gradient_ascent",), 50)
    assert [v.says for v in found.verdicts] == [says, "agrees"]
    assert "beyond 1 tokens" in found.verdicts[0].measured
    assert "6 of 9" in found.tables[0].caption


def test_a_method_that_forgot_nothing_leaves_nothing_to_be_added() -> None:
    """It says 60 of 64 tokens after the exact opening: prompts can add at most 4."""
    held = [r | ({"exact": 60, "position": 60 + r["seed"] % 2} if r["method"] == "gradient_ascent" else {}) for r in answers(12)]
    (raised_by, _) = page(held, QUALITY, ("gradient_ascent",), 50).verdicts
    assert raised_by.says == "cannot tell"
    assert raised_by.measured.endswith("beyond 60 tokens [60, 60] after the exact opening, no room for more")


def test_numbers_of_known_rows() -> None:
    rows = [{**r, "perturbed": r["position"]} for r in answers(12)]
    assert raised(rows, "gradient_ascent", "position").value == pytest.approx(12 + 1 / 3 - 2)
    assert extracted(rows, "gradient_ascent", "semantic").count == 3, "what could not be asked is left out"
    assert quality_loss(QUALITY, "gradient_ascent").value == pytest.approx(9.9, abs=0.2)


def test_nothing_held_is_nothing_told() -> None:
    found = page(answers(12), QUALITY, ("gradient_ascent",), 65)
    assert found.verdicts[0].says == "cannot tell"
    assert not found.figures


def test_references_are_no_methods() -> None:
    with pytest.raises(UserError, match="none is a reference"):
        Stress(methods=("none",))
    assert {"npo", "goldfish_retrain", "sparse_finetuning"} <= set(Stress().asked)


def test_the_fast_form_writes_its_page(tiny: Subject, tmp_path: Path) -> None:
    with made_up_corpus(tmp_path):
        lab = fast("stress", tmp_path, model=str(tiny.folder), methods=("gradient_ascent",), per_role=2)
        text = written(lab, lab.execute(), tmp_path / "out")
    assert "After gradient_ascent, perturbed prompts" in text.replace("\\", "")
    assert (tmp_path / "out" / "stress-extracted.svg").is_file()
    assert [s.kind for s in lab.stages].count("method") == 1
