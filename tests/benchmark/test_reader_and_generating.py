"""One forward pass over a row says what `generate()` would say from every window of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from palimpsest.benchmark.common.types import HORIZON, Probe
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.oracle import matched_lengths
from palimpsest.benchmark.reading.reader import Reader
from tests.benchmark.windows import (
    LENGTHS,
    by_both,
    by_generating,
    counted_forwards,
    every_window,
    fp32,
    without_copies,
)
from tests.conftest import Memorised


@pytest.mark.parametrize("which", ["memorised", "blurred"])
def test_the_oracle_says_what_generating_would(which: str, memorised: Memorised, blurred: Subject) -> None:
    subject = blurred if which == "blurred" else memorised.subject
    probes = [p for m in (memorised.memories[0], memorised.unseen[0]) for p in every_window(m)[::4]]
    assert [matched_lengths(subject, p) for p in probes] == without_copies(probes, by_generating(subject, probes))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("which", ["memorised", "blurred"])
def test_the_reader_gives_what_the_oracle_says(which: str, precision: str, memorised: Memorised, blurred: Subject) -> None:
    subject = blurred if which == "blurred" else memorised.subject
    probes = [p for m in (*memorised.memories[:2], memorised.unseen[0]) for p in every_window(m)[::3]]  # four cuts in each
    for p, other in zip(probes[::4], probes[::-4], strict=True):  # another text before it; itself before it, to copy from; a short horizon
        probes += [replace(p, prompt=other.prompt), replace(p, prompt=p.target + p.prompt), replace(p, horizon=5)]
    expected = [matched_lengths(subject, p) for p in probes]
    assert Reader(subject, precision).read(probes) == expected
    lengths = {n for e in expected for n in e}
    assert {0, HORIZON} <= lengths
    assert len(lengths) > (15 if which == "blurred" else 2), "the comparison means little unless many lengths occur"


@pytest.mark.parametrize("which", ["memorised", "blurred"])
def test_one_pass_agrees_with_generating_from_every_window(
    which: str, memorised: Memorised, blurred: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = blurred if which == "blurred" else memorised.subject
    probes = [p for m in (*memorised.memories[:3], *memorised.unseen[:1]) for p in every_window(m)]
    said = by_generating(subject, probes)
    flat = [[n for row in lengths for n in row] for lengths in (fp32(subject).read(probes), without_copies(probes, said), said)]
    wrong = sum(a != b for a, b, _ in zip(*flat, strict=True))
    with capsys.disabled():
        copied = sum(a != b for _, a, b in zip(*flat, strict=True))
        print(f"\n{which}: {len(flat[0])} windows compared with generate(), {wrong} disagreements, {copied} copies set to 0")
    assert len(flat[0]) == 4 * sum(160 - k for k in LENGTHS)
    assert not wrong
    lengths = Counter(flat[2])
    assert lengths[0] > 100
    assert len(lengths) > 30, "the comparison means little unless many lengths occur"


def test_the_model_says_the_lowest_of_equal_logits_as_argmax_does(constant: Subject) -> None:
    probes = [Probe("m", (5, 6), (0, 0, 7), 2), Probe("m", (5, 6), (7, 0), 2)]
    assert by_both(constant, probes) == [(2,), (0,)]
    assert by_generating(constant, probes) == [(2,), (0,)]


def test_generating_goes_on_after_an_end_of_text(constant: Subject) -> None:
    assert constant.generate([(5, 6), (7,)], 4) == [(0, 0, 0, 0), (0, 0, 0, 0)]


def test_a_token_before_every_text_is_put_there_when_reading_and_when_generating(
    memorised: Memorised, with_bos: Callable[[Path], Subject], tmp_path: Path
) -> None:
    subject = with_bos(tmp_path)
    assert subject.bos == 4095
    assert memorised.subject.bos is None
    probes = [p for m in memorised.memories[:2] for p in every_window(m)[::3]]
    read = by_both(subject, probes)
    assert Reader(subject, "bf16").read(probes) == read
    assert read == without_copies(probes, by_generating(subject, probes))
    assert read != fp32(memorised.subject).read(probes), "the token in front changes what this model says"
    with counted_forwards(subject) as shapes:
        fp32(subject).read(probes[:1])
    assert shapes == [(1, 128)], "the token in front, and all but the last of what is read"
