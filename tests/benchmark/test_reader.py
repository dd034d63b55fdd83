"""The reader: what a matched length counts, and how few rows, tokens and passes it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from palimpsest.attacks.logit_lens import LogitLens
from palimpsest.attacks.longer_prefix import LongerPrefix
from palimpsest.attacks.prefix import Prefix
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import HORIZON, Probe
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.forward import Forward, batches
from palimpsest.benchmark.reading.reader import Reader
from tests.benchmark.windows import by_both, counted_forwards, every_window, fp32
from tests.conftest import Memorised

# ---- what is read, and what it takes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_depend_neither_on_the_batch_size_nor_on_the_mates(precision: str, memorised: Memorised, blurred: Subject) -> None:
    probes = [p for m in memorised.memories[:2] for p in every_window(m)[::2]]
    together = Reader(blurred, precision).read(probes)
    assert Reader(blurred, precision, tokens_per_batch=700).read(probes) == together
    assert Reader(blurred, precision).read(probes[::-1]) == together[::-1]
    some = range(0, len(probes), 23)
    assert [Reader(blurred, precision).read([probes[i]])[0] for i in some] == [together[i] for i in some]
    alone = [p for p in probes if p.memory == memorised.memories[1].id]
    assert Reader(blurred, precision).read(alone) == together[-len(alone) :]


def test_batches_stay_within_their_tokens(memorised: Memorised) -> None:
    with counted_forwards(memorised.subject) as shapes:
        fp32(memorised.subject, tokens_per_batch=1000).read(every_window(memorised.memories[0]))
    assert len(shapes) > 5
    assert max(rows * tokens for rows, tokens in shapes) <= 1000


def test_batches_hold_everything_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 128, 500).tolist()
    made = batches(lengths, 2048)
    assert sorted(i for batch in made for i in batch) == list(range(500))
    sizes = [(len(b) * max(lengths[i] for i in b), sum(lengths[i] for i in b)) for b in made]
    assert all(padded <= 2048 for padded, _ in sizes)
    assert sum(padded for padded, _ in sizes) < 1.15 * sum(lengths)
    assert batches([5000], 2048) == [[0]], "a row longer than a batch is asked alone"


def test_a_row_that_two_attacks_share_is_asked_once(memorised: Memorised) -> None:
    memory, tools = memorised.memories[0], Tools(memorised.base)
    probes = [*Prefix().probes(memory, tools), *LongerPrefix().probes(memory, tools)]
    reader = fp32(memorised.subject)
    with counted_forwards(memorised.subject) as shapes:
        read = reader.read(probes)
    furthest = max(p.offset + c for p in probes for c in p.cuts) + HORIZON
    assert shapes == [(1, min(160, furthest) - 1)], "the last token that is read need not be given"
    assert reader.rows_asked == 1
    assert [len(r) for r in read] == [5, 4]
    assert read == [fp32(memorised.subject).read([p])[0] for p in probes]


@pytest.mark.parametrize(
    ("prompt", "target", "expected", "why"),
    [
        ((5,), (0, 0, 0), 3, "nothing of the run was given"),
        ((0, 0, 0, 5), (0, 0, 0), 0, "the whole run was given"),
        ((0, 0, 5), (0, 0, 0, 9), 3, "only a part of the run was given"),
        ((0, 0, 5), (0, 0, 9), 0, "what follows the first difference does not matter"),
        ((0, 0, 0), (0, 0, 0), 0, "the run may be the end of the prompt"),
        ((0, 9, 5), (0, 0, 8), 2, "the given tokens must be consecutive"),
    ],
)
def test_copying_from_the_prompt_counts_as_nothing(
    prompt: tuple[int, ...], target: tuple[int, ...], expected: int, why: str, constant: Subject
) -> None:
    assert by_both(constant, [Probe("m", prompt, target, 0)]) == [(expected,)], why


def test_tokens_before_a_cut_are_given_and_so_can_be_copied(constant: Subject) -> None:
    assert by_both(constant, [Probe("m", (5,), (0, 0, 7, 0, 0, 8), 0, (0, 3), ("", ""))]) == [(2, 0)]


def test_a_reading_ends_at_the_horizon_and_at_the_end_of_the_row(constant: Subject) -> None:
    target = (0,) * 20
    short = Probe("m", (5,), target, 1, (0,), ("",), horizon=6)
    assert by_both(constant, [short, Probe("m", (5,), target, 1)]) == [(6,), (20,)]
    assert Probe("m", (5,), target, 1).horizon == HORIZON


def test_a_long_target_is_read_to_the_horizon_only(constant: Subject) -> None:
    assert by_both(constant, [Probe("m", (5,), (0,) * 100, 1)]) == [(HORIZON,)]


def test_nothing_to_ask_is_no_error(constant: Subject) -> None:
    assert fp32(constant).read([]) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_where_runs_end_early_rows_are_not_given_to_their_end(precision: str, memorised: Memorised) -> None:
    unseen, held = ([p for m in some for p in every_window(m)] for some in (memorised.unseen[:2], memorised.memories[:1]))
    whole = lambda probes: sum(len(p.prompt) + len(p.target) - 1 for p in probes)  # noqa: E731
    early, late = Reader(memorised.subject, precision), Reader(memorised.subject, precision)
    early.read(unseen)
    assert early.tokens < 0.85 * whole(unseen)
    assert sum(late.read(held), ()) == sum((fp32(memorised.subject).read([p])[0] for p in held), ())
    assert late.tokens <= 1.1 * whole(held), "nor are rows given twice where runs go on"


def test_a_cut_that_gives_the_model_nothing_is_the_users_error(constant: Subject) -> None:
    with pytest.raises(UserError, match="gives the model nothing"):
        fp32(constant).read([Probe("m", (), (5, 6), 0)])


# ---- everything from one pass


def test_prefixes_logit_lens_and_token_readings_cost_one_forward_call(memorised: Memorised) -> None:
    tools = Tools(memorised.base)
    probes = [p for m in memorised.memories for a in (Prefix(), LongerPrefix(), LogitLens()) for p in a.probes(m, tools)]
    assert {p.layer for p in probes} == {None, 1}
    reader = Reader(memorised.subject)
    with counted_forwards(memorised.subject) as shapes:
        read = reader.read(probes, memorised.memories)
    assert shapes == [(8, 159)]
    assert set(reader.readings) == {m.id for m in memorised.memories}
    assert read == [fp32(memorised.subject).read([p])[0] for p in probes]


def test_a_row_that_begins_another_is_asked_with_it(memorised: Memorised) -> None:
    row = memorised.memories[0].row
    probes = [Probe("m", row[:8], row[8:90], 8), Probe("m", row[:20], row[20:], 20, (0, 30), ("", "")), Probe("m", row[:8], (1, 2), 8)]
    reader = fp32(memorised.subject)
    together = reader.read(probes)
    assert reader.rows_asked == 2
    assert together == [fp32(memorised.subject).read([p])[0] for p in probes]


def test_never_more_logits_than_a_chunk_are_held(memorised: Memorised, monkeypatch: Any) -> None:
    sizes: list[int] = []
    hook = memorised.subject.model.get_output_embeddings().register_forward_hook(lambda m, i, logits: sizes.append(len(logits)))
    monkeypatch.setattr(Forward, "chunk", 32)
    try:
        fp32(memorised.subject).read(every_window(memorised.memories[0])[::8], memorised.memories[:2])
    finally:
        hook.remove()
    assert max(sizes) == 32
    assert len(sizes) > 20
