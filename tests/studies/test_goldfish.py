"""The study of the goldfish loss: divergence against dropped tokens, verdicts of known rows, and a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.studies._goldfish_answers import FAR, divergence, same
from palimpsest.benchmark.studies._verbatim import text_memory
from palimpsest.benchmark.studies.goldfish import Goldfish
from palimpsest.benchmark.studies.pages.goldfish import BEFORE, STANDARD, name_of, page, size
from palimpsest.leaderboard.statistics import Estimate
from palimpsest.leaderboard.study_results import Verdict
from tests.studies.laboratory import fast, made_up_corpus, written

ROW = text_memory("m", "", range(84), 20)  # the target is tokens 20 to 83


@pytest.mark.parametrize(("matched", "gap"), [(0, 2), (2, 0), (3, 1), (30, FAR), (64, None)])
def test_where_a_text_diverges_behind_dropped_tokens(matched: int, gap: int | None) -> None:
    """Tokens 18 and 22 of the row are dropped: the first of the target lies two behind one, the third is one."""
    found = divergence(ROW, matched, [i in (18, 22) for i in range(84)])
    assert found["gap"] == gap
    assert sum(found["gaps"]) == 64
    assert found["gaps"][:3] == [1, 1, 2]


def test_a_row_without_dropped_tokens_is_far_from_them() -> None:
    assert divergence(ROW, 5, [False] * 84)["gaps"][FAR] == 64
    assert divergence(ROW, 5, None) == {"gap": None, "gaps": None}


def test_common_beginning() -> None:
    assert same((1, 2, 3), (1, 2, 4)) == 2
    assert same((1, 2), (1, 2)) == 2


def test_the_size_of_a_difference() -> None:
    assert (size(Estimate(-2, -3, -1)).low, size(Estimate(-2, -3, -1)).high) == (1, 3)
    assert (size(Estimate(1, -1, 3)).low, size(Estimate(1, -1, 3)).high) == (0, 3)


def test_every_mask_is_trained_where_it_is_asked_for() -> None:
    study = Goldfish()
    assert study.losses == (
        (3, "hash"), (4, "hash"), (4, "hash-table"), (4, "static"), (4, "random"), (8, "hash"), (32, "hash"),
    )  # fmt: skip


# ---- verdicts of rows whose answer is known


def rows(exact: int, at: bool, beam3: int, beam4: int, auc_gap: float, longer: float) -> list[dict[str, Any]]:
    """Three seeds of thirty met and thirty unmet memories, for the standard loss and k of 3 and 4 (and that longer).

    `exact` of thirty are repeated with k = 4; all diverge at a dropped token if `at`. `auc_gap`: how much lower the met ones score.
    """
    losses = {STANDARD: (30, 64, 0.0, 4.0), name_of(3, "hash"): (0, beam3, 0.0, 4.02), name_of(4, "hash"): (exact, beam4, auc_gap, 4.02)}
    losses[f"{name_of(4, 'hash')}, longer"] = (exact, beam4, auc_gap, longer)
    out: list[dict[str, Any]] = []
    for seed in (0, 1, 2):
        out.append({"row": "held-out", "trained": BEFORE, "seed": seed, "nats": 3.9})
        for loss, (whole, beam, less, nats) in losses.items():
            out.append({"row": "held-out", "trained": loss, "seed": seed, "nats": nats + 0.002 * seed * (nats != 4.0)})
            for met in (True, False):
                for i in range(30):
                    full = met and i < whole
                    score = (2.0 - less if met else 0.05 * seed) + np.sin(13 * i + seed)
                    out.append({
                        "row": "memory", "trained": loss, "seed": seed, "memory": f"{i}", "met": met, "exact": int(full),
                        "rouge": 1.0 if full else 0.3,
                        "matched": 64 if full else i % 10, "beam": beam + (i + seed) % 2 if met else None,
                        "in_beams": int(beam > 60) if met else None, "loss": score, "zlib_ratio": score, "gap": None, "gaps": None,
                    })  # fmt: skip
                    if not full and loss != STANDARD:
                        out[-1] |= {"gap": 0 if at else 3, "gaps": [16, 16, 16, 16] + [0] * (FAR - 3)}
    return out


def said(*given: Any) -> list[str]:
    found = page(rows(*given), (3, 4), ("hash",), (4,), (4,), 30)
    assert [f.name for f in found.figures] == ["rouge-l", "matched", "divergence"]
    return [v.says for v in found.verdicts]


def test_verdicts_follow_the_numbers() -> None:
    assert said(0, True, 5, 9, 0.01, 4.001) == ["agrees"] * 7
    assert said(19, False, 64, 9, 2.0, 4.2) == ["disagrees"] * 7


def verdict(found: list[dict[str, Any]], words: str) -> Verdict:
    return next(v for v in page(found, (3, 4), ("hash",), (4,), (4,), 30).verdicts if words in v.claim)


def test_where_the_standard_loss_repeats_nothing_nothing_was_prevented() -> None:
    nothing = [r | {"exact": 0, "in_beams": 0} if r["row"] == "memory" and r["met"] else r for r in rows(0, True, 5, 9, 0.01, 4.001)]
    assert verdict(nothing, "repeated exactly").says == verdict(nothing, "finds next to nothing whole").says == "cannot tell"
    assert "with the standard loss" in verdict(nothing, "repeated exactly").measured


def test_aucs_of_1_in_every_seed_have_an_interval_over_texts() -> None:
    """Ninety met and ninety unmet texts, told apart whole under both losses, at another level in each seed."""
    apart = [r | {"loss": 10.0 * r["met"] + 100 * r["seed"]} if r["row"] == "memory" else r for r in rows(0, True, 5, 9, 0.01, 4.001)]
    found = verdict(apart, "inference by loss")
    assert found.says == "agrees"
    low, high = (float(x) for x in found.measured.split("[")[1].rstrip("]").split(","))
    assert -0.1 < low < 0 < high < 0.1


def test_one_token_in_one_cannot_be_left_out() -> None:
    with pytest.raises(UserError, match="equal"):
        Goldfish(equal=(1,))


def test_the_fast_form_writes_its_page(tiny: Subject, tmp_path: Path) -> None:
    with made_up_corpus(tmp_path):
        lab = fast("goldfish", tmp_path, model=str(tiny.folder), per_role=2, ks=(4,), masks=("static",), beams=2)
        text = written(lab, lab.execute(), tmp_path / "out")
        found = [r for s in lab.stages if s.kind == "study" for r in lab.rows(s)]
    assert "Generation first diverges at or near dropped tokens" in text
    assert {r["trained"] for r in found} == {BEFORE, STANDARD, name_of(4, "static"), f"{name_of(4, 'static')}, longer"}
    goldfish = [r for r in found if r["row"] == "memory" and r["trained"] == name_of(4, "static")]
    assert all(r["gaps"][:4] == [16] * 4 for r in goldfish), "every fourth token is dropped"
    assert (tmp_path / "out" / "goldfish-divergence.svg").is_file()
