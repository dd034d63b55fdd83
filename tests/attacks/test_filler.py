"""Filler stands before the exact opening, is as long as its variant says, and ends with a sentence."""

from __future__ import annotations

from palimpsest.attacks.filler import TEXTS, Filler
from palimpsest.benchmark.attack import Probe, Tools
from palimpsest.benchmark.common.types import EncodedMemory
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.texts.memories import load_memories
from palimpsest.benchmark.texts.neardup import overlap
from tests.conftest import Memorised


def by_variant(attack: Filler, memory: EncodedMemory, tools: Tools) -> dict[str, list[Probe]]:
    out: dict[str, list[Probe]] = {}
    for p in attack.probes(memory, tools):
        out.setdefault(p.variants[0], []).append(p)
    return out


def test_each_filler_has_exactly_so_many_tokens_and_ends_with_a_sentence(memorised: Memorised, tools: Tools) -> None:
    for m in memorised.memories:
        found = by_variant(Filler(), m, tools)
        assert list(found) == ["filler8", "filler32", "filler128", "newline", "bos"]
        for n in (8, 32, 128):
            assert len(found[f"filler{n}"]) == len(TEXTS)
            for text, p in zip(TEXTS, found[f"filler{n}"], strict=True):
                assert len(p.prompt) == n + m.opening
                assert p.prompt[n:] == m.row[: m.opening]
                before = tools.decode(p.prompt[:n])
                assert before.endswith(".\n\n")
                assert text.endswith(before.rstrip("\n"))
                assert (p.target, p.offset, p.start) == (m.target, m.opening, -1)


def test_line_breaks_and_the_end_of_text_id_stand_alone_before_the_opening(memorised: Memorised, tools: Tools) -> None:
    m = memorised.memories[0]
    found = by_variant(Filler(), m, tools)
    assert [tools.decode(p.prompt) for p in found["newline"]] == ["\n" + m.memory.opening, "\n\n" + m.memory.opening]
    assert [p.prompt for p in found["bos"]] == [(0, *m.row[: m.opening])]


def test_a_model_that_always_gets_a_bos_is_not_given_two(memorised: Memorised) -> None:
    base = Subject(memorised.base.folder)
    base.__dict__["bos"] = 0
    assert "bos" not in by_variant(Filler(), memorised.memories[0], Tools(base))


def test_what_does_not_fit_the_context_or_the_text_is_left_out(memorised: Memorised) -> None:
    m, tools = memorised.memories[0], Tools(Subject(memorised.base.folder))
    assert "filler5000" not in by_variant(Filler(lengths=(8, 5000)), m, tools)
    tools.base.model.config.max_position_embeddings = m.opening + 64 + 32
    assert {v for v in by_variant(Filler(), m, tools) if v.startswith("filler")} == {"filler8", "filler32"}


def test_the_fillers_share_no_five_words_with_any_shipped_memory() -> None:
    assert overlap(TEXTS, [m.text for m in load_memories()], 5).max() == 0
