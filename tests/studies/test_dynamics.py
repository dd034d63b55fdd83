"""The study of dynamics: transitions, jumps, n-grams and geometry by hand, and its fast form as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.reader import Reader
from palimpsest.benchmark.studies._continuations import class_of, continuations, inside
from palimpsest.benchmark.studies._geometry import geometry
from palimpsest.benchmark.studies._ngrams import Ngrams
from palimpsest.benchmark.studies._scores import Scores
from palimpsest.benchmark.studies.dynamics import Dynamics
from palimpsest.benchmark.studies.pages.dynamics import _edge, _growth, bin_of, page, transitions
from palimpsest.benchmark.studies.pages.dynamics_geometry import geometry_figures
from palimpsest.leaderboard.statistics import newcombe
from palimpsest.leaderboard.study_report import StudyFacts, write_study
from palimpsest.leaderboard.study_results import AGREES, DISAGREES
from tests.studies.worlds import small_lab


def test_ngrams_are_counted_by_their_last_token() -> None:
    found = Ngrams(np.array([1, 2, 1, 2, 3]))
    assert found.counts((1, 2, 3, 9), 1).tolist() == [2, 2, 1, 0]
    assert found.counts((1, 2, 3, 9), 2).tolist() == [0, 2, 1, 0]
    assert found.counts((2, 1, 2), 3).tolist() == [0, 0, 1]
    assert found.counts((3, 1), 2).tolist() == [0, 0]


def test_bins_and_classes() -> None:
    assert bin_of(pd.Series([0.0, 0.2, 0.21, 0.6, 0.61, 1.0])).tolist() == [0, 0, 1, 2, 3, 4]
    assert [class_of(x) for x in (1, 0.9, 0.6, 0.5, 0.4, 0.2, 0)] == ["memorised", "", "half", "half", "", "unmemorised", "unmemorised"]


def test_the_boundary_lies_in_the_middle() -> None:
    before, after = [1.0] * 31, [3.0] * 32  # of 64 tokens, 32 of them context, without the first
    assert _edge([*before, *after], 4) == _edge([*before, *after], 1) == 2


def test_geometry_knows_who_lies_together() -> None:
    states = np.zeros((4, 2, 3))
    states[:2, :, 0], states[2:, :, 1] = 1, 2
    lines = {(x["step"], x["pair"]): x for x in geometry(states, ["memorised", "memorised", "unmemorised", "unmemorised"])}
    assert lines[1, "memorised"] == {"step": 1, "pair": "memorised", "distance": 0, "cosine": 1}
    apart = lines[0, "memorised – unmemorised"]
    assert apart["distance"] == pytest.approx(np.sqrt(5))
    assert apart["cosine"] == 0
    assert lines[0, "centre of memorised"]["explained"] == pytest.approx(1)


def test_states_and_entropies_are_those_of_the_reader(memorised: Any) -> None:
    rows = [m.row[:40] for m in memorised.memories[:2]]
    states, entropies = inside(memorised.subject, rows, 8)
    reader = Reader(memorised.subject, "fp32")
    reader.read([], memorised.memories[:2])
    for m, entropy in zip(memorised.memories, entropies, strict=False):
        assert entropy == pytest.approx(-reader.readings[m.id].mean[32:40], abs=1e-4)
    assert states.shape == (2, 8, 64)


def test_a_memorised_text_is_continued_and_a_long_context_is_refused(memorised: Any) -> None:
    found = continuations(memorised.subject, memorised.memories, 32, 32, 16)  # from the beginning on, as it was met
    assert np.mean([c.score(16) for c in found]) > 0.9
    assert np.mean([c.score(16) for c in continuations(memorised.subject, memorised.unseen, 64, 64, 16)]) < 0.3
    with pytest.raises(UserError, match="raise row"):
        continuations(memorised.subject, memorised.memories, 64, 32, 100)


def test_behind_the_boundary_stands_what_the_model_says(tiny: Subject, memorised: Any) -> None:
    """A model with equal logits says token 0 for ever, which stands nine times in the training text; the memory has none of it."""
    constant = tiny.with_state({"lm_head.weight": torch.zeros(4096, 64)})
    memory = memorised.unseen[0]
    assert 0 not in memory.row
    rows = [*Dynamics()._read(constant, [memory], {}, Ngrams(np.zeros(9, int)))]
    (edge,) = (r for r in rows if r["row"] == "boundary")
    assert edge["class"] == "unmemorised"
    assert edge["1-gram"] == pytest.approx([0] * 31 + [np.log(10)] * 32)
    assert edge["2-gram"] == pytest.approx([0] * 32 + [np.log(9)] * 31), "the first of them follows the last true token"
    assert edge["entropy"] == pytest.approx([np.log(4096)] * 63, abs=1e-4)


def rows_of(large: float, small: float, jump: float) -> pd.DataFrame:
    """Two sizes; the memorised share of each grows a little from seed to seed, longer continuations keep most of it, contexts square it."""
    out: list[dict[str, Any]] = []
    for model, share in (("small", small), ("large", large)):
        for seed in (0, 1, 2):
            for i in range(100):
                for role in ("forget", "unseen"):
                    for context, n, part in ((32, 32, 1.0), (8, 32, 0.05), (32, 16, 1.1), (64, 32, 1.8), (32, 64, 0.9)):
                        held = role == "forget" and i < 100 * share * part + seed
                        cell = {"model": model, "seed": seed, "memory": f"m{i}", "role": role, "context": context, "continuation": n}
                        out.append({"row": "score", **cell, "count": 1, "score": 1.0 if held else 0.1})
                    kind = "memorised" if role == "forget" and i < 100 * share + seed else "unmemorised"
                    by = jump if kind == "unmemorised" else -jump
                    values = [2.0] * 31 + [
                        2.0 + by + 0.01 * seed + 0.001 * i - (0.3 + 0.01 * seed + 0.001 * (i % 7)) * (model == "large")
                    ] * 32
                    of = {"model": model, "seed": seed, "role": role, "class": kind, "row": "boundary", "memory": f"m{i}"}
                    out.append(of | {"entropy": values, "1-gram": [-v for v in values], "2-gram": values})
    return pd.DataFrame(out)


def test_verdicts_follow_the_numbers() -> None:
    found = page(rows_of(0.4, 0.2, 1.0), ("small", "large"), ("large",), 32)
    says = {v.claim: v.says for v in found.verdicts}
    assert says["Larger models memorise more texts fully."] == AGREES
    injected = [n for n in found.figures[0].rows if n["texts"] == "forget"]
    assert all(n["from"] <= n["score 1, %"] <= n["to"] for n in injected), "the bars are among the numbers behind a figure"
    assert all(n["from"] <= n["value"] <= n["to"] for n in found.figures[1].rows)
    assert says["More than 90% of highly memorised texts stay so in the larger model."] == AGREES
    assert says["Entropy drops at the boundary of memorised texts."] == AGREES
    assert says["Entropy jumps at the boundary of unmemorised texts."] == AGREES
    assert says["Entropy falls with size."] == AGREES
    assert says["Fully memorised texts fall slower than the continuation grows, from 16 to 64 tokens."] == AGREES
    assert says["Fully memorised texts rise faster than the context grows, from 8 to 64 tokens."] == AGREES
    assert says["The frequency of tokens rises more at the boundary of memorised than of unmemorised texts."] == AGREES
    other = {v.claim: v.says for v in page(rows_of(0.1, 0.3, -1.0), ("small", "large"), ("large",), 32).verdicts}
    assert other["Larger models memorise more texts fully."] == DISAGREES
    assert other["More than 90% of highly memorised texts stay so in the larger model."] == DISAGREES
    assert other["Entropy jumps at the boundary of unmemorised texts."] == DISAGREES


def test_of_one_seed_the_intervals_are_over_its_texts() -> None:
    rows = rows_of(0.4, 0.2, 1.0)
    found = page(rows[rows.seed == 0], ("small", "large"), ("large",), 32)
    measured = {v.claim: v.measured for v in found.verdicts}
    assert all("[" in words for words in measured.values()), measured
    low, high = newcombe(np.arange(100) < 40, np.arange(100) < 20)
    assert measured["Larger models memorise more texts fully."] == f"20 points [{100 * low:.3g}, {100 * high:.3g}]"


def whole(count: int) -> np.ndarray:
    """Scores of nine texts, so many of them 1."""
    return (np.arange(9) < count).astype(float)


def test_a_seed_of_which_nothing_is_left_counts_in_the_growth() -> None:
    assert _growth([whole(4)], [whole(0)], 4).value == pytest.approx(np.log(0.5 / 4.5) / np.log(4))
    assert not _growth([whole(0)], [whole(0)], 2)


def test_the_interval_of_growth_is_over_texts_of_one_seed_and_over_several_seeds() -> None:
    one = _growth([whole(6)], [whole(3)], 2)
    assert one.value == -1
    assert one.low < -1 < one.high
    assert np.isnan(_growth([whole(9)], [whole(9)], 2).low), "no draw differs, so nothing is known of the width"
    two = _growth([whole(6), whole(8)], [whole(3), whole(2)], 2)
    assert two.by_seed == (-1, -2)
    assert two.low < -2 < -1 < two.high


def test_bins_by_context_and_continuation_hold_every_text() -> None:
    tables = {t.title: t.rows for t in page(rows_of(0.4, 0.2, 1.0), ("small", "large"), ("large",), 32).tables}
    lines = tables["Scores in bins by context and continuation"]
    assert {(x["context"], x["continuation"]) for x in lines} == {(32, 32), (8, 32), (32, 16), (64, 32), (32, 64)}
    assert all(sum(v for k, v in x.items() if " to " in k) == pytest.approx(100) for x in lines)
    usual = next(x for x in lines if (x["context"], x["continuation"], x["texts"]) == (32, 32, "injected"))
    assert usual["0.8 to 1.0, %"] == usual["score 1, %"] == pytest.approx(41)
    whole = next(x for x in tables["Scores by model size"] if (x["model"], x["texts"]) == ("large", "injected"))
    assert usual.items() - {("context", 32), ("continuation", 32)} <= whole.items()


def geometry_rows(seeds: int) -> pd.DataFrame:
    """Two classes over twelve steps: pairs lie closer within them, and centres move apart."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(seeds, 8, 12, 5))
    states[:, :4, :, 0] += 4
    classes = ["memorised"] * 4 + ["unmemorised"] * 4
    lines = [{"model": "m", "seed": s, **line} for s in range(seeds) for line in geometry(states[s], classes)]
    return pd.DataFrame(lines).astype({"step": float})  # as beside rows of other kinds, which have none


def test_geometry_has_intervals_over_seeds_and_says_where_it_has_none() -> None:
    one, several = ({f.name: f for f in geometry_figures(geometry_rows(n), "m")} for n in (1, 3))
    assert "no intervals" in one["geometry"].caption
    assert all(line["cosine: from"] is None for line in one["geometry"].rows)
    assert "95% intervals over seeds" in several["geometry"].caption
    assert all(line["distance: from"] <= line["distance"] <= line["distance: to"] for line in several["geometry"].rows)
    assert {line["pair"] for line in one["geometry"].rows} == {"memorised", "unmemorised", "memorised – unmemorised"}


def test_centres_are_drawn_and_saved_of_one_seed() -> None:
    centres = {f.name: f for f in geometry_figures(geometry_rows(3), "m")}["centres"]
    assert len(centres.rows) == 2 * 12
    apart = [abs(a["first"] - b["first"]) for a, b in zip(centres.rows[::2], centres.rows[1::2], strict=True)]
    assert min(apart) > 1
    assert "% of the variance" in centres.caption
    assert not [*geometry_figures(geometry_rows(1), "other")]


def test_transitions_are_of_the_same_memories() -> None:
    rows = rows_of(0.4, 0.2, 1.0)
    found = transitions(Scores(rows[rows.row == "score"], 32), "small", "large")
    assert found[4].tolist() == [0, 0, 0, 0, 63]  # 20, 21 and 22 of three seeds
    assert found[0].tolist() == [177, 0, 0, 0, 60]


def test_its_fast_form_from_beginning_to_end(tiny: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = small_lab("dynamics", tiny, tmp_path, monkeypatch, sizes=[str(tiny.folder)])
    found = lab.execute()
    assert {t.title for t in found.tables} >= {"Scores by model size", "At the boundary"}
    injected = next(line for line in found.tables[0].rows if line["texts"] == "injected")
    assert injected["count"] == 2
    facts = StudyFacts("dynamics", "?", "p", "https://a", "fast", "c", 1.0, "m")
    assert write_study(found, facts, tmp_path / "out")[0].is_file()
