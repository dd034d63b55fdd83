"""Every attack in the folder keeps the rules; those that write probes write valid ones, the same each time, for the memory's own tokens."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from palimpsest.attacks.longer_prefix import LongerPrefix
from palimpsest.attacks.paraphrase import Paraphrase
from palimpsest.attacks.prefix import Prefix
from palimpsest.attacks.shifted_window import ShiftedWindow
from palimpsest.benchmark.attack import Attack, Prompting, Tools
from palimpsest.benchmark.battery.shared_pass import Armed, Probes, arm, ask_all
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import find, names
from palimpsest.benchmark.common.types import HORIZON, EncodedMemory, Probe
from palimpsest.benchmark.models.logits import route
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.reader import Reader
from palimpsest.benchmark.texts.neardup import overlap
from tests.attacks.conftest import encoded_text, fresh_tools
from tests.conftest import Memorised

ATTACKS = names("attack")
PROMPTING = [name for name in ATTACKS if issubclass(cls := find("attack", name).cls, Prompting) and "passage" in cls.kinds]
FIRST_TIERS = {
    "prefix", "longer_prefix", "shifted_window", "paraphrase", "word_substitution", "base_substitution", "embedding_neighbours",
    "filler", "formatting", "frames", "priming", "paraphraser",
}  # fmt: skip


def armed_with(name: str, tools: Tools) -> Armed:
    """An attack with its defaults; the paraphraser needs a model, and takes the base."""
    (armed,) = arm({name: {"model": str(tools.base.folder), "tries": 1} if name == "paraphraser" else {}})
    return armed


@pytest.fixture(scope="module")
def probes(tools: Tools) -> Probes:
    """Written once for all tests of this file."""
    return Probes(tools)


def written(name: str, memory: EncodedMemory, probes: Probes) -> list[Probe]:
    """The probes of an attack on one memory, after the battery's own check."""
    return probes.of(armed_with(name, probes.tools), [memory])


# ---- every attack


def test_the_prompting_attacks_of_the_first_tiers_are_there() -> None:
    assert set(PROMPTING) >= FIRST_TIERS


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_a_frozen_dataclass_with_a_docstring_and_defaults(name: str) -> None:
    cls = find("attack", name).cls
    assert issubclass(cls, Attack)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    own = inspect.getdoc(cls) or ""
    assert "__doc__" in vars(cls)
    assert not own.startswith(cls.__name__ + "("), "this docstring was made up by dataclass"
    assert own.partition("\n")[0].endswith((".", "?"))
    assert cls() == cls()
    assert cls.access in ("black-box", "grey-box", "white-box", "weights")
    assert cls.tier in (0, 1, 2, 3)


# ---- every attack that writes probes


@pytest.mark.parametrize("name", PROMPTING)
def test_probes_are_valid_and_their_targets_are_the_memorys_own_ids(name: str, memorised: Memorised, probes: Probes) -> None:
    silent = []
    for m in memorised.memories:
        found = written(name, m, probes)
        silent += [] if found else [m.id]
        for p in found:
            assert p.memory == m.id
            assert p.target == m.row[p.offset : p.offset + len(p.target)]
            assert len(p.target) + len(p.prompt) <= 512
            assert all(len(p.prompt) + c > 0 and c < len(p.target) for c in p.cuts)
            if p.start >= 0:
                assert p.prompt == m.row[p.start : p.offset]
    assert len(silent) <= (2 if name == "paraphraser" else 0), silent  # the words of an untrained paraphraser are noise


@pytest.mark.parametrize("name", PROMPTING)
def test_no_prompt_from_outside_the_memory_gives_its_target_away(name: str, memorised: Memorised, probes: Probes) -> None:
    for m in memorised.memories:
        prompts = [probes.tools.decode(p.prompt) for p in written(name, m, probes) if p.start < 0]
        assert overlap(prompts, [m.memory.text[m.memory.opening_end :]], 5).max(initial=0) == 0


@pytest.mark.parametrize("name", PROMPTING)
def test_a_variant_stands_for_one_kind_of_question(name: str, memorised: Memorised, probes: Probes) -> None:
    """A variant names how much was given, so within one memory it may have many prompts, but never two questions in one pass."""
    for p in written(name, memorised.memories[1], probes):
        assert len(p.variants) == len(p.cuts) == len(set(p.variants))
        assert all(p.variants)


@pytest.mark.parametrize("name", PROMPTING)
def test_writing_probes_again_gives_the_same_whoever_was_asked_about_before(name: str, memorised: Memorised, probes: Probes) -> None:
    some = memorised.memories[:3]
    back = Probes(fresh_tools(memorised))
    assert [written(name, m, probes) for m in some] == [written(name, m, back) for m in reversed(some)][::-1]


@pytest.mark.parametrize("name", PROMPTING)
def test_an_attack_does_not_touch_the_model_under_attack(name: str, memorised: Memorised, probes: Probes) -> None:
    """Only the reader asks it: what passes through the model are beginnings of the probes, and each probe's row is among them."""
    subject, seen = Subject(memorised.subject.folder), []
    route(subject.model)  # asked once, with ids of its own
    see: Callable[..., None] = lambda module, args, options, output: seen.extend(options["input_ids"].tolist())  # noqa: E731
    subject.model.base_model.register_forward_hook(see, with_kwargs=True)
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}
    some, armed = memorised.memories[:2], armed_with(name, probes.tools)
    done = ask_all(subject, probes, [(armed, some)], "fp32")
    rows = {p.prompt + p.target for p in probes.of(armed, some)}
    beginnings = {row[:n] for row in rows for n in range(1, len(row) + 1)}
    given = [next((tuple(ids[:n]) for n in range(len(ids), 0, -1) if tuple(ids[:n]) in beginnings), None) for ids in seen]
    assert all(g is not None and not any(ids[len(g) :]) for g, ids in zip(given, seen, strict=True))
    assert all(any(row[: len(g)] == g for g in given if g) for row in rows)
    assert {a.memory for a in done.answers} == {m.id for m in some}
    assert all((before[k] == v).all() for k, v in subject.model.state_dict().items())


# ---- the battery


def test_the_battery_keeps_the_best_answer_per_variant_and_the_first_of_equals(memorised: Memorised, tools: Tools) -> None:
    armed, some, probes = arm({"shifted_window": {}, "prefix": {}}), memorised.memories[:2], Probes(tools)
    done = ask_all(memorised.subject, probes, [(a, some) for a in armed], "fp32")
    answers = done.answers
    assert len(answers) == 2 * (4 + 5)
    assert done.facts["rows"] == 2 * 152  # 151 windows, and the row from its beginning
    opening = [a for a in answers if a.variant == "opening"]
    assert [(a.matched, a.horizon, a.start) for a in opening] == [(HORIZON, HORIZON, 0)] * 2
    for m in some:
        asked = [(p, p.cuts.index(8)) for a in armed for p in probes.of(a, [m]) if p.start > 0 and 8 in p.cuts]
        lengths = [read[i] for (_, i), read in zip(asked, Reader(memorised.subject, "fp32").read([p for p, _ in asked]), strict=True)]
        (best,) = [a for a in answers if (a.memory, a.attack, a.variant) == (m.id, "shifted_window", "k16")]
        assert best.matched == max(lengths) > 0
        assert best.start == asked[lengths.index(max(lengths))][0].start
        assert best.offset == best.start + 16
        assert best.prompt == tools.tokenizer.decode(m.row[best.start : best.offset])
        assert best.horizon == min(HORIZON, 160 - best.offset)
    for a, m in zip(opening, memorised.memories, strict=False):
        assert a.prompt == m.memory.opening


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": "another"}, "targets must be the memory's own ids"),
        ({"offset": 1}, "targets must be the memory's own ids"),
        ({"cuts": (0, 4)}, "each cut needs its variant"),
        ({"cuts": (64,)}, "leave nothing to ask"),
        ({"prompt": ()}, "nothing to ask with"),
    ],
)
def test_a_wrong_probe_is_reported(change: dict[str, Any], message: str, memorised: Memorised, tools: Tools) -> None:
    memory = memorised.memories[0]
    good = Probe(memory.id, memory.row[:8], memory.row[8:72], 8)

    class Wrong(Prefix):
        def probes(self, memory: EncodedMemory, tools: Tools) -> list[Probe]:
            return [dataclasses.replace(good, **change)]

    (armed,) = arm({"prefix": {}})
    with pytest.raises(UserError, match=message):
        Probes(tools).of(dataclasses.replace(armed, attack=Wrong()), [memory])


# ---- prefix, longer prefix, shifted window


def test_prefix_asks_after_the_opening_and_after_k_tokens(memorised: Memorised, tools: Tools) -> None:
    memory = memorised.memories[0]
    (p,) = Prefix().probes(memory, tools)
    assert dict(zip(p.variants, p.cuts, strict=True)) == {"opening": memory.opening, "k8": 8, "k16": 16, "k32": 32, "k64": 64}
    assert (p.start, p.offset, p.prompt, p.target) == (0, 0, (), memory.row)


def test_longer_prefix_gives_more_of_the_target_and_scores_what_follows(memorised: Memorised, tools: Tools) -> None:
    memory = memorised.memories[0]
    (p,) = LongerPrefix().probes(memory, tools)
    assert [c - memory.opening for c in p.cuts] == [4, 8, 16, 32]
    assert p.variants == ("+4", "+8", "+16", "+32")


def test_longer_prefix_leaves_out_what_does_not_fit_whatever_the_order(memorised: Memorised, tools: Tools) -> None:
    memory = memorised.memories[0]
    (p,) = LongerPrefix(extra=(1000, 4)).probes(memory, tools)
    assert (p.cuts, p.variants) == ((memory.opening + 4,), ("+4",))


def test_shifted_windows_cover_every_start_and_length_and_read_the_whole_horizon(memorised: Memorised, tools: Tools) -> None:
    memory = memorised.memories[2]
    probes = written("shifted_window", memory, Probes(tools))
    found = {(p.start, v): (p, c) for p in probes for c, v in zip(p.cuts, p.variants, strict=True)}
    expected = {(start, f"k{k}") for k in (8, 16, 32, 64) for start in range(1, 160 - k)}
    assert set(found) == expected
    assert sum(len(p.cuts) for p in probes) == len(expected)
    for (start, variant), (p, cut) in found.items():
        k = int(variant[1:])
        assert p.prompt + p.target[:cut] == memory.row[start : start + k]
        assert min(p.horizon, len(p.target) - cut) == min(HORIZON, 160 - start - k)


def test_a_stride_takes_every_so_manieth_start(memorised: Memorised, tools: Tools) -> None:
    probes = list(ShiftedWindow(stride=16).probes(memorised.memories[0], tools))
    assert [p.start for p in probes] == list(range(1, 152, 16))


# ---- paraphrase


def test_each_paraphrase_is_asked_alone_and_with_the_last_tokens_of_the_opening(memorised: Memorised, tools: Tools) -> None:
    memory = memorised.memories[0]
    probes = list(Paraphrase().probes(memory, tools))
    assert len(probes) == 4 * 3
    for text, three in zip(memory.memory.paraphrases, zip(*[iter(probes)] * 3, strict=True), strict=True):
        alone = tools.encode(text)
        assert tools.tokenizer.decode(alone) == text
        for p, b in zip(three, (0, 4, 8), strict=True):
            assert p.prompt == (*alone, *memory.row[memory.opening - b : memory.opening])
            assert (p.target, p.offset, p.variants, p.start) == (memory.target, memory.opening, (f"+{b}",), -1)


def test_a_thread_longer_than_the_opening_is_the_whole_opening(tools: Tools) -> None:
    memory = encoded_text("A b c, " + "word " * 100, 6, tools, ("Then,",))
    probes = list(Paraphrase(thread=(50,)).probes(memory, tools))
    assert [p.prompt for p in probes] == [tools.encode("Then,") + memory.row[: memory.opening]]


def test_a_memory_without_paraphrases_is_asked_nothing(tools: Tools) -> None:
    assert list(Paraphrase().probes(encoded_text("A b c, " + "word " * 100, 6, tools), tools)) == []


def test_authored_paraphrases_pass_the_filter_of_all_rewordings(memorised: Memorised) -> None:
    tools, memory = Tools(memorised.base), memorised.memories[0]
    asked = [p.variants for p in Paraphrase(thread=(0, 4), perplexity=1e9).probes(memory, tools)]
    assert asked == [("+0",), ("+4",)] * len(memory.memory.paraphrases)
    assert list(Paraphrase(perplexity=1e-9).probes(memory, tools)) == []
