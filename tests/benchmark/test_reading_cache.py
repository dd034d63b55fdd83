"""The cache of what a model was asked: a further attack costs only its new rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from palimpsest.attacks.prefix import Prefix
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Probe
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.cache import load_cache, save_cache
from palimpsest.benchmark.reading.reader import Reader
from tests.benchmark.windows import counted_forwards, every_window, fp32
from tests.conftest import Memorised


def test_a_further_attack_costs_only_its_new_rows(memorised: Memorised, tmp_path: Path) -> None:
    memory = memorised.memories[0]
    windows, tools = every_window(memory)[::8], Tools(memorised.base)
    first = Reader(memorised.subject)
    read = first.read(windows)
    save_cache(tmp_path / "rows" / "cache.safetensors", first.lengths)
    second = Reader(memorised.subject, cache=load_cache(tmp_path / "rows" / "cache.safetensors"))
    prefix = [*Prefix().probes(memory, tools)]
    own = fp32(memorised.subject).read(prefix)
    with counted_forwards(memorised.subject) as shapes:
        assert second.read([*windows, *prefix]) == [*read, *own]
    assert {rows for rows, _ in shapes} == {1}, "the row of the new attack"
    assert second.rows_asked == 1
    with counted_forwards(memorised.subject) as shapes:
        assert second.read([*prefix, *windows]) == [*own, *read]
    assert shapes == []
    assert set(first.lengths) < set(second.lengths)


def test_a_cached_answer_holds_for_the_same_question_only(constant: Subject) -> None:
    reader = fp32(constant)
    reader.read([Probe("m", (5,), (0, 0, 7), 0)])
    others = [
        Probe("m", (6,), (0, 0, 7), 0),
        Probe("m", (5,), (0, 0, 7, 7), 0),
        Probe("m", (5, 0), (0, 7), 0),
        Probe("m", (5,), (0, 0, 7), 0, layer=1),
    ]
    for i, other in enumerate(others):
        reader.read([other])
        assert reader.rows_asked == i + 2
    assert fp32(constant, cache=reader.lengths).read([Probe("x", (5,), (0, 0, 7), 3)]) == [(2,)], "whichever memory it is about"


def test_the_file_of_the_cache_is_compact_and_safe(tmp_path: Path) -> None:
    cache = {bytes([i]) * 16: i for i in range(200)}
    file = tmp_path / "cache.safetensors"
    assert load_cache(file) == {}
    save_cache(file, cache)
    assert load_cache(file) == cache
    with safe_open(file, "np") as content:
        assert set(content.keys()) == {"keys", "matched"}
    before = file.read_bytes()
    assert len(before) < 200 * 20 + 300
    save_cache(file, dict(reversed(cache.items())))
    assert file.read_bytes() == before, "the same content gives the same bytes"
    assert list(tmp_path.iterdir()) == [file]
    save_cache(file, {})
    assert load_cache(file) == {}
    file.write_bytes(b"damaged")
    with pytest.raises(UserError, match="Delete the file"):
        load_cache(file)
