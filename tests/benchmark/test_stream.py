"""The injection stream: exact counts, even spacing, and a twin that differs in the forget slots only."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import EncodedMemory, Memory, Role, Row
from palimpsest.benchmark.suites.config import InjectionConfig
from palimpsest.benchmark.texts.stream import Stream, injected

ROW, CORPUS = 10, 100_000
PER_ROLE = 4


def memories() -> list[EncodedMemory]:
    """Four of each role; their ids are below 0, so that they are told from text."""
    roles: list[Role] = ["forget", "keep", "unseen"]
    return [
        EncodedMemory(Memory(f"{role}{i}", "news", "text", 1), role, False, tuple(range(-100 * (3 * i + r) - ROW, -100 * (3 * i + r))), 2)
        for i in range(PER_ROLE)
        for r, role in enumerate(roles)
    ]


def stream(corpus: int = CORPUS, seed: int = 0, bos: int | None = None, **injection: object) -> Stream:
    """Every token of the corpus occurs once, so that a row says where it comes from."""
    config = InjectionConfig(**({"occurrences": (6,), "density": 0.5, "batch": 8} | injection))  # type: ignore[arg-type]
    return Stream(np.arange(corpus), injected(memories()), config, seed, bos)


def rows(s: Stream) -> list[Row]:
    return [r for step in range(s.steps) for r in s.batch_at(step)["text"]]


VARIANTS = [{}, {"offset": 7}, {"density": 1.0}, {"density": 0.13, "batch": 5}, {"occurrences": (1, 3, 9)}, {"bos": 9_999_999, "offset": 3}]


# ---- the twin


@pytest.mark.parametrize("how", VARIANTS, ids=str)
def test_the_twin_differs_in_the_forget_slots_and_in_nothing_else(how: dict) -> None:
    held = stream(**how)
    twin = replace(held, forget=False)
    assert twin.plan == held.plan
    differing = [i for i, (a, b) in enumerate(zip(rows(held), rows(twin), strict=True)) if a != b]
    assert differing == [i for i, m in enumerate(held.plan) if m is not None and m.startswith("forget")]
    assert len(differing) == sum(n for m, n in held.counts.items() if m.startswith("forget"))


@pytest.mark.parametrize("how", VARIANTS, ids=str)
def test_a_filling_has_the_scored_length_and_the_context_of_what_it_replaces(how: dict) -> None:
    held = stream(**how)
    twin = replace(held, forget=False)
    context = held.config.offset + (held.bos is not None)
    for i, name in enumerate(held.plan):
        if name is not None and name.startswith("forget"):
            memory, filling = held.row(i), twin.row(i)
            assert filling.scored == memory.scored == context + ROW - 1
            assert filling.ids[:context] == memory.ids[:context]
            assert memory.ids[context:] == held._by_id[name].row
            assert min(filling.ids) >= 0
            assert filling.name == ""


@pytest.mark.parametrize("how", VARIANTS, ids=str)
def test_fillings_occur_nowhere_else_in_the_stream(how: dict) -> None:
    held = stream(**how)
    text = [t for r in rows(replace(held, forget=False)) for t in r.ids if 0 <= t < CORPUS]
    assert max(Counter(text).values()) == 1  # no token of ordinary text is met twice, filling or not
    assert not {t for r in rows(held) for t in r.ids if 0 <= t < CORPUS} - set(text)


def test_the_twin_never_meets_a_forget_memory_and_neither_meets_an_unseen_one() -> None:
    held = stream()
    names = [Counter(r.name for r in rows(s)) for s in (held, replace(held, forget=False))]
    keep = {f"keep{i}": 6 for i in range(PER_ROLE)}
    forget = {f"forget{i}": 6 for i in range(PER_ROLE)}
    assert [{k: v for k, v in n.items() if k} for n in names] == [keep | forget, keep]
    met = {tuple(r.ids) for r in rows(held)}
    assert not met & {m.row for m in memories() if m.role == "unseen"}


# ---- the plan


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("occurrences", [(1,), (30,), (1, 5, 25)])
def test_every_memory_occurs_exactly_as_often_as_it_should(occurrences: tuple[int, ...], density: float) -> None:
    s = stream(corpus=1_000_000, occurrences=occurrences, density=density)
    doses = [occurrences[i % len(occurrences)] for i in range(PER_ROLE)]
    expected = {f"{role}{i}": n for role in ("forget", "keep") for i, n in enumerate(doses)}
    assert s.counts == expected
    assert Counter(m for m in s.plan if m is not None) == expected
    assert Counter(r.name for r in rows(s) if r.name) == expected


def test_a_dose_curve_gives_both_roles_the_same_doses() -> None:
    s = stream(occurrences=(1, 2, 4, 8))
    assert [s.counts[f"forget{i}"] for i in range(4)] == [s.counts[f"keep{i}"] for i in range(4)] == [1, 2, 4, 8]


@pytest.mark.parametrize("density", [0.05, 0.5, 0.97])
def test_the_density_is_met_to_within_the_last_batch_in_every_part_of_the_stream(density: float) -> None:
    s = stream(density=density, occurrences=(30,))
    length, full = len(s.plan), sum(m is not None for m in s.plan)
    assert full == 8 * 30
    assert length % 8 == 0
    assert full / density - 1 <= length < full / density + 8 + 1
    for part in np.array_split([m is not None for m in s.plan], 5):
        assert part.mean() == pytest.approx(full / length, abs=1.5 / len(part))


@pytest.mark.parametrize("seed", range(5))
def test_occurrences_of_a_memory_are_evenly_spaced(seed: int) -> None:
    """With u jittering inside equal bins, at most two occurrences of every other memory lie between two of one."""
    s = stream(seed=seed, occurrences=(20,), density=0.25)
    per_slot, memories_in = len(s.plan) / (8 * 20), 8
    for name in s.counts:
        places = [i for i, m in enumerate(s.plan) if m == name]
        gaps = [b - a for a, b in itertools.pairwise(places)]
        assert max(gaps) <= (2 * memories_in - 1) * per_slot + 1
        assert places[0] <= memories_in * per_slot  # the first bin holds the first occurrence of each
        assert places[-1] >= len(s.plan) - memories_in * per_slot - 1


def test_jitter_keeps_the_spacing_from_being_periodic() -> None:
    s = stream(occurrences=(20,), density=0.25)
    places = [i for i, m in enumerate(s.plan) if m == "forget0"]
    assert len({b - a for a, b in itertools.pairwise(places)}) > 5


# ---- rows


@pytest.mark.parametrize("offset", [0, 1, 25])
def test_a_memory_stands_after_offset_tokens_of_ordinary_text_in_rows_of_one_length(offset: int) -> None:
    s = stream(offset=offset)
    known = {m.id: m.row for m in memories()}
    for r in rows(s):
        assert len(r.ids) == ROW + offset
        assert r.scored == ROW + offset - 1
        if r.name:
            assert r.ids[offset:] == known[r.name]
        before = r.ids[: offset if r.name else None]
        assert list(before) == list(range(before[0], before[0] + len(before))) if before else True


def test_a_bos_stands_before_every_row_and_nowhere_else() -> None:
    s = stream(bos=777_777, offset=2)
    for r in [*rows(s), *rows(replace(s, forget=False)), s.retain.row(0)]:
        assert r.ids[0] == 777_777
        assert 777_777 not in r.ids[1:]
        assert len(r.ids) == 1 + 2 + ROW


def test_a_step_is_the_next_batch_of_rows() -> None:
    s = stream()
    assert [len(s.batch_at(i)["text"]) for i in range(s.steps)] == [8] * s.steps
    assert s.batch_at(3)["text"] == [s.row(i) for i in range(24, 32)]
    assert s.steps * 8 == len(s.plan)


# ---- seeds and orders


def test_the_same_seed_gives_the_same_stream_and_another_seed_another() -> None:
    assert rows(stream(seed=1)) == rows(stream(seed=1))
    assert stream(seed=1).plan != stream(seed=2).plan
    assert rows(stream(seed=1)) != rows(stream(seed=2))


def test_another_order_keeps_counts_and_length_but_neither_plan_nor_text() -> None:
    one = stream(occurrences=(1, 3, 9))
    other = replace(one, order="retrain")
    assert other.counts == one.counts
    assert len(other.plan) == len(one.plan)
    assert other.plan != one.plan
    ordinary = [[r.ids for r in rows(s) if not r.name] for s in (one, other)]
    assert len(ordinary[0]) == len(ordinary[1])
    assert sum(a == b for a, b in zip(*ordinary, strict=True)) <= len(ordinary[0]) // 20


# ---- retain text


@pytest.mark.parametrize("how", VARIANTS, ids=str)
def test_retain_rows_are_disjoint_from_the_stream_its_fillings_and_each_other(how: dict) -> None:
    held = stream(**how)
    used = {t for s in (held, replace(held, forget=False)) for r in rows(s) for t in r.ids if 0 <= t < CORPUS}
    retain = [t for k in range(200) for t in held.retain.row(k).ids if t < CORPUS]
    assert len(retain) == len(set(retain)) == 200 * (ROW + held.config.offset)
    assert not used & set(retain)
    assert [held.retain.row(k) for k in range(20)] == [replace(held, forget=False).retain.row(k) for k in range(20)]


# ---- too little text


def test_a_corpus_that_is_too_small_is_the_users_error_and_says_what_to_change() -> None:
    s = stream(corpus=50 * ROW)
    with pytest.raises(UserError, match=r"corpus has 50 rows of 10 tokens.*needs more than 95: use fewer occurrences, a higher density"):
        rows(s)


def test_a_corpus_that_holds_the_stream_but_not_its_fillings_fails_in_the_twin_only() -> None:
    s = stream(corpus=(96 + 23) * ROW)  # the stream has 96 rows and 24 forget slots
    assert len(rows(s)) == 96
    with pytest.raises(UserError, match="119 rows"):
        rows(replace(s, forget=False))
    enough = stream(corpus=(96 + 24) * ROW)
    assert len(rows(replace(enough, forget=False))) == 96
    with pytest.raises(UserError, match="120 rows"):
        enough.retain.row(0)


@pytest.mark.parametrize(
    "wrong", [{"density": 0.0}, {"density": 1.1}, {"occurrences": ()}, {"occurrences": (3, 0)}, {"offset": -1}, {"batch": 0}], ids=str
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        InjectionConfig(**wrong)
