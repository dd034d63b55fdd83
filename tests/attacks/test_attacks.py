"""Every attack in the folder writes probes that are valid, the same each time, and about the memory's own tokens."""

from __future__ import annotations

import dataclasses
import inspect
import math
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from palimpsest.attacks.longer_prefix import LongerPrefix
from palimpsest.attacks.paraphrase import Paraphrase
from palimpsest.attacks.prefix import Prefix
from palimpsest.attacks.shifted_window import ShiftedWindow
from palimpsest.attacks.word_substitution import WordSubstitution, substitute, synonyms
from palimpsest.benchmark.attack import Attack, Tools
from palimpsest.benchmark.battery import Probes, arm, run_battery
from palimpsest.benchmark.errors import UserError
from palimpsest.benchmark.neardup import overlap
from palimpsest.benchmark.paths import CONFIGS
from palimpsest.benchmark.plugins import find, names
from palimpsest.benchmark.probing import Reader
from palimpsest.benchmark.subject import Subject
from palimpsest.benchmark.types import HORIZON, EncodedMemory, Memory, Probe
from tests.conftest import Memorised

ATTACKS = names("attack")


@pytest.fixture(scope="module")
def tools(tiny: Subject) -> Tools:
    return Tools(tiny, seed=3)


def written(attack: str, memory: EncodedMemory, tools: Tools, **given: Any) -> list[Probe]:
    """The probes of an attack on one memory, after the battery's own check."""
    (armed,) = arm({attack: given})
    return Probes([memory], [armed], tools).of(armed)


# ---- every attack


def test_the_five_attacks_of_the_pocket_track_are_there() -> None:
    assert {"prefix", "longer_prefix", "shifted_window", "paraphrase", "word_substitution"} <= set(ATTACKS)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_a_frozen_dataclass_with_a_docstring_and_defaults(name: str) -> None:
    cls = find("attack", name).cls
    assert issubclass(cls, Attack)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    own = inspect.getdoc(cls) or ""
    assert "__doc__" in vars(cls)
    assert not own.startswith(cls.__name__ + "("), "this docstring was made up by dataclass"
    assert own.partition("\n")[0].endswith(".")
    assert cls() == cls()
    assert cls.access in ("black-box", "grey-box", "white-box", "weights")
    assert cls.tier in (0, 1, 2)


@pytest.mark.parametrize("name", ATTACKS)
def test_probes_are_valid_and_their_targets_are_the_memorys_own_ids(name: str, memorised: Memorised, tools: Tools) -> None:
    for m in memorised.memories:
        probes = written(name, m, tools)
        assert probes
        for p in probes:
            assert p.memory == m.id
            assert p.target == m.row[p.offset : p.offset + len(p.target)]
            assert len(p.target) + len(p.prompt) <= 512
            assert all(len(p.prompt) + c > 0 and c < len(p.target) for c in p.cuts)
            if p.start >= 0:
                assert p.prompt == m.row[p.start : p.offset]


@pytest.mark.parametrize("name", ATTACKS)
def test_a_variant_stands_for_one_kind_of_question(name: str, memorised: Memorised, tools: Tools) -> None:
    """A variant names how much was given, so within one memory it may have many prompts, but never two questions in one pass."""
    for p in written(name, memorised.memories[1], tools):
        assert len(p.variants) == len(p.cuts) == len(set(p.variants))
        assert all(p.variants)


@pytest.mark.parametrize("name", ATTACKS)
def test_writing_probes_again_gives_the_same(name: str, memorised: Memorised, tiny: Subject) -> None:
    for m in memorised.memories[:3]:
        assert written(name, m, Tools(tiny, seed=3)) == written(name, m, Tools(tiny, seed=3))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_does_not_touch_the_model_under_attack(name: str, memorised: Memorised, tools: Tools) -> None:
    """Only the reader asks it: as many rows pass through the model as the reader says."""
    subject, rows = Subject(memorised.subject.folder), []
    count: Callable[..., None] = lambda module, args, options, output: rows.append(len(options["input_ids"]))  # noqa: E731
    subject.model.base_model.register_forward_hook(count, with_kwargs=True)
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}
    armed = arm({name: {}})
    answers, facts = run_battery(subject, Probes(memorised.memories[:2], armed, tools), armed, "fp32")
    assert sum(rows) == facts["rows"] > 0
    assert {a["memory"] for a in answers} == {m.id for m in memorised.memories[:2]}
    assert all((before[k] == v).all() for k, v in subject.model.state_dict().items())


# ---- the battery


def test_the_battery_keeps_the_best_answer_per_variant_and_the_first_of_equals(memorised: Memorised, tools: Tools) -> None:
    armed = arm({"shifted_window": {}, "prefix": {}})
    probes = Probes(memorised.memories[:2], armed, tools)
    answers, facts = run_battery(memorised.subject, probes, armed, "fp32")
    assert len(answers) == 2 * (4 + 5)
    assert facts["rows"] == 2 * 152  # 151 windows, and the row from its beginning
    opening = [a for a in answers if a["variant"] == "opening"]
    assert [(a["matched"], a["horizon"], a["start"]) for a in opening] == [(HORIZON, HORIZON, 0)] * 2
    for m in memorised.memories[:2]:
        asked = [
            (p, p.cuts.index(8)) for p in probes.of(armed[0]) + probes.of(armed[1]) if p.memory == m.id and p.start > 0 and 8 in p.cuts
        ]
        lengths = [read[i] for (_, i), read in zip(asked, Reader(memorised.subject, "fp32").read([p for p, _ in asked]), strict=True)]
        (best,) = [a for a in answers if (a["memory"], a["attack"], a["variant"]) == (m.id, "shifted_window", "k16")]
        assert best["matched"] == max(lengths) > 0
        assert best["start"] == asked[lengths.index(max(lengths))][0].start
        assert best["offset"] == best["start"] + 16
        assert best["prompt"] == tools.tokenizer.decode(m.row[best["start"] : best["offset"]])
        assert best["horizon"] == min(HORIZON, 160 - best["offset"])
    for a, m in zip(opening, memorised.memories, strict=False):
        assert a["prompt"] == m.memory.opening


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
        Probes([memory], [armed], tools).of(dataclasses.replace(armed, attack=Wrong()))


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
    probes = written("shifted_window", memory, tools)
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
    memory = encoded_text("A b c, " + "word " * 100, 6, tools, ["Then,"])
    probes = list(Paraphrase(thread=(50,)).probes(memory, tools))
    assert [p.prompt for p in probes] == [tools.encode("Then,") + memory.row[: memory.opening]]


def test_a_memory_without_paraphrases_is_asked_nothing(tools: Tools) -> None:
    assert list(Paraphrase().probes(encoded_text("A b c, " + "word " * 100, 6, tools), tools)) == []


# ---- word substitution


def encoded_text(text: str, opening_end: int, tools: Tools, paraphrases: list[str] | None = None) -> EncodedMemory:
    memory = Memory("made-up", "test", text, opening_end, paraphrases=tuple(paraphrases or ()))
    return EncodedMemory(memory, "forget", False, tools.encode(text)[:160], len(tools.encode(memory.opening)))


def changed(text: str, *pairs: tuple[str, str]) -> str:
    """Replace the first whole-word occurrence of each old word."""
    matches = [(re.search(rf"\b{old}\b", text), new) for old, new in pairs]
    return substitute(text, [(m, new) for m, new in matches if m])


@pytest.mark.parametrize(
    ("text", "pairs", "expected"),
    [
        ("The old house.", [("old", "ancient")], "The ancient house."),
        ("Old houses", [("Old", "ancient")], "Ancient houses"),
        ("AN OLD house", [("OLD", "ancient")], "AN ANCIENT house"),
        ("two  old\n\thouses , here", [("old", "ancient"), ("houses", "homes")], "two  ancient\n\thomes , here"),
        ("a big tree", [("big", "enormous")], "an enormous tree"),
        ("An old tree", [("old", "big")], "A big tree"),
        ("a big tree", [("tree", "oak")], "a big oak"),
        ("Panama a big tree", [("big", "old")], "Panama an old tree"),
        ("a common sight", [("common", "usual")], "a usual sight"),
        ("an old club", [("old", "united")], "a united club"),
        ("a dull room", [("dull", "uninspected")], "an uninspected room"),
        ("a person", [("person", "heir")], "an heir"),
        ("the sea and a great big old tree", [("great", "awful"), ("old", "tall")], "the sea and an awful big tall tree"),
    ],
)
def test_substitution_keeps_case_and_spacing_and_mends_the_article(text: str, pairs: list[tuple[str, str]], expected: str) -> None:
    assert changed(text, *pairs) == expected


def test_only_whole_words_of_the_table_are_replaced(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"sum": ("total",), "won": ("gained",), "house": ("home",), "cat": ("kitten",)}
    monkeypatch.setattr("palimpsest.attacks.word_substitution.synonyms", lambda: table)
    opening = "Résumé in hand, he won’t say, can't, housekeeper, l'house, house's, concat, 'Cat', house_1;"
    memory = encoded_text(opening + " it" * 100, len(opening), tools)
    texts = {tools.tokenizer.decode(p.prompt) for p in WordSubstitution(perplexity=1e9).probes(memory, tools)}
    assert texts == {opening.replace("'Cat'", "'Kitten'")}


@pytest.fixture(scope="module")
def loose(memorised: Memorised, tools: Tools) -> list[tuple[EncodedMemory, list[tuple[str, Probe]]]]:
    """Every substituted opening of the shared memories when perplexity does not matter."""
    attack = WordSubstitution(perplexity=math.inf)
    coded = (*memorised.memories, *memorised.unseen)
    return [(m, [(tools.tokenizer.decode(p.prompt), p) for p in attack.probes(m, tools)]) for m in coded]


def test_substituted_openings_differ_in_table_words_only(loose: list) -> None:
    seen = 0
    for m, texts in loose:
        old = re.findall(r"\w+|\s+|[^\w\s]", m.memory.opening)
        for text, p in texts:
            new = re.findall(r"\w+|\s+|[^\w\s]", text)
            assert len(new) == len(old)
            differing = [(a, b) for a, b in zip(old, new, strict=True) if a != b and a.lower() not in ("a", "an")]
            assert differing
            assert all(b.lower() in synonyms()[a.lower()] for a, b in differing)
            assert all(a[0].isupper() == b[0].isupper() for a, b in differing)
            assert p.variants[0] == "third" or len(differing) == 1
            assert (p.target, p.offset, p.start) == (m.target, m.opening, -1)
            seen += 1
    assert seen > 12 * 5


def test_no_opening_is_asked_twice_or_as_it_was(loose: list) -> None:
    for m, texts in loose:
        said = [text for text, _ in texts]
        assert len(set(said)) == len(said)
        assert m.memory.opening not in said


def test_shipped_substitutions_share_no_run_of_five_words_with_the_rest(loose: list) -> None:
    for m, texts in loose:
        rest = m.memory.text[m.memory.opening_end :]
        assert overlap([text for text, _ in texts], [rest], 5).max(initial=0) == 0


def test_a_substitution_that_gives_the_target_away_is_dropped(tools: Tools) -> None:
    opening = "They walked past the big gate at noon,"
    away = " ".join(f"They walked past the {word} gate at dusk." for word in synonyms()["big"])
    plain = "Nothing of the sort was said by anyone who stood there. " * 6
    attack = WordSubstitution(perplexity=math.inf)

    def singles(rest: str) -> set[str]:
        memory = encoded_text(f"{opening} {rest} {plain}", len(opening), tools)
        texts = {tools.tokenizer.decode(p.prompt) for p in attack.probes(memory, tools)}
        return {t for t in texts if re.search(r"walked past the (?!big)\w+ gate", t)}

    assert singles(plain)
    assert not singles(away)


@pytest.mark.parametrize("factor", [1.05, 2.0, 1e3])
def test_a_variant_may_be_so_many_times_as_perplexing_as_the_opening(factor: float, memorised: Memorised) -> None:
    judge = Tools(memorised.subject, seed=3)
    dropped = 0
    for m in memorised.unseen:
        everything = list(WordSubstitution(perplexity=math.inf).probes(m, judge))
        kept = list(WordSubstitution(perplexity=factor).probes(m, judge))
        (before,) = judge.nats_per_token([m.memory.opening])
        after = judge.nats_per_token([judge.tokenizer.decode(p.prompt) for p in everything])
        assert kept == [p for p, nats in zip(everything, after, strict=True) if math.exp(nats - before) <= factor]
        dropped += len(everything) - len(kept)
    assert (dropped == 0) == (factor == 1e3)


def test_another_seed_draws_other_substitutions(memorised: Memorised, tiny: Subject) -> None:
    attack = WordSubstitution(perplexity=math.inf)
    drawn = [[p.prompt for m in memorised.memories for p in attack.probes(m, Tools(tiny, seed))] for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_nats_per_token_do_not_depend_on_who_is_asked_together(memorised: Memorised) -> None:
    texts = [m.memory.opening for m in (*memorised.memories, *memorised.unseen)]
    together = Tools(memorised.subject).nats_per_token(texts)
    shuffled = random.Random(0).sample(range(len(texts)), len(texts))
    alone = Tools(memorised.subject)
    assert [alone.nats_per_token([texts[i]])[0] for i in shuffled] == pytest.approx([together[i] for i in shuffled], rel=1e-4)
    assert min(together[8:]) > 2 * max(together[:8]), "openings it knows surprise it less than openings it does not"


def test_a_text_that_the_tokenizer_changes_does_not_round_trip(tokenizer: Any, tiny: Subject) -> None:
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    from tokenizers.normalizers import Lowercase

    own.normalizer = Lowercase()  # type: ignore[assignment]
    tools = Tools(tiny)
    assert tools.round_trips("Great")
    tools.__dict__["tokenizer"] = PreTrainedTokenizerFast(tokenizer_object=own)
    assert tools.round_trips("great")
    assert not tools.round_trips("Great")


# ---- the table of synonyms


def test_each_line_of_the_table_is_a_word_and_its_alternatives() -> None:
    lines = [line for line in (CONFIGS / "synonyms.txt").read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert len(lines) > 1000
    assert [line for line in lines if not re.fullmatch(r"[a-z]+(?:'[a-z]+)?: [a-z]+(?:, [a-z]+)*", line)] == []
    heads = [line.partition(":")[0] for line in lines]
    assert heads == sorted(set(heads))


def test_no_word_is_its_own_synonym_or_has_one_twice() -> None:
    assert [w for w, alternatives in synonyms().items() if w in alternatives or len(set(alternatives)) < len(alternatives)] == []
