"""Tokenizers of every kind: what they make of a text is what the library gives its models, or they are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.paths import CONFIGS
from palimpsest.benchmark.common.types import Memory, Probe
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.reader import Reader
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import load_suite
from palimpsest.benchmark.texts.memories import encode, load_memories
from palimpsest.benchmark.texts.questions import answers_follow, unreadable

ENGLISH = load_memories()[0].text
CHINESE = (
    "河边的老人每天清晨把昨夜捡来的瓶子摆成一排，然后给每个瓶子取一个名字。孩子们放学以后跑来听他讲故事：哪一只来自下雨的港口，"
    "哪一只装过海员的信，哪一只只是普通的汽水瓶。冬天河面结冰的时候，他把名字写在木牌上，挂在屋檐下，风一吹便轻轻作响。"
    "后来桥修好了，车多了起来，可是人们仍旧在桥头停下，数一数今年又添了几块牌子。"
)
EMOJI = (
    "The 🐙 waved at the 🚢🚢, and — naïve as ever — the crew waved back: 👩‍🚀👋🏽! Then came 第七天, and nobody waved. "
    "Three gulls 🕊️ took the ½-eaten 🥐, the cook said “merde”, and the café’s cat 🐈‍⬛ slept on; at ∞ o’clock the fog lifted."
)
TEXTS = {"English": ENGLISH, "Chinese": CHINESE, "emoji": EMOJI}
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level(prefix: bool = False, bos: bool = False) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(
        made,
        trainers.BpeTrainer(vocab_size=500, min_frequency=2, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
        bos,
    )


def pieces(prefix: bool) -> Tokenizer:
    """As Llama 2 and Mistral (a space is put before a text), or Gemma 1 (it is not): unknown characters fall back to bytes."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    names = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256))]
    return _trained(
        made, trainers.BpeTrainer(vocab_size=600, min_frequency=2, special_tokens=names, limit_alphabet=60, show_progress=False), True
    )


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return _trained(made, trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False), True)


def _trained(made: Tokenizer, trainer: Any, bos: bool) -> Tokenizer:
    made.train_from_iterator(TEXTS.values(), trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def fast(made: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level": lambda: fast(byte_level()),
    "byte-level with a BOS": lambda: fast(byte_level(bos=True)),
    "as Llama 2": lambda: fast(pieces(True)),
    "as Gemma 1": lambda: fast(pieces(False)),
    "Unigram": lambda: fast(unigram()),
    "bytes, without a fast backend": ByT5Tokenizer,
}
made_once = cache(lambda name: KINDS[name]())


def subject_of(tokenizer: Any, folder: Path, **changes: Any) -> Subject:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=1024, initializer_range=0.3, **changes,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Subject(folder)


def boundary(text: str, tokenizer: Any) -> tuple[int, int]:
    """Where an opening of a dozen characters or a few more ends with a token, and in how many tokens."""
    coded = lambda part: tokenizer(part, add_special_tokens=False)["input_ids"]  # noqa: E731
    whole = coded(text)
    return next((end, len(own)) for end in range(12, 40) if whole[: len(own := coded(text[:end]))] == own)


@pytest.mark.parametrize("kind", KINDS)
def test_matched_lengths_agree_with_generate_in_english_chinese_and_emoji(kind: str, tmp_path: Path) -> None:
    subject = subject_of(made_once(kind), tmp_path)
    plain, own = AutoTokenizer.from_pretrained(tmp_path), LlamaForCausalLM.from_pretrained(tmp_path).eval()
    for name, text in TEXTS.items():
        end, tokens = boundary(text, subject.tokenizer)
        memory = encode(Memory(name, "d", text, end), subject.tokenizer, 64 + tokens, "forget")
        given = plain(memory.memory.opening)["input_ids"]
        given = given[:-1] if kind.startswith("bytes") else given  # which puts an end behind every text
        ids = torch.tensor([given])
        said = own.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        said = tuple(said[0, len(given) :].tolist())
        prompt = memory.row[: memory.opening]
        assert subject.generate([prompt], 12) == [said], name
        target = (*said[:7], (said[7] + 1) % len(plain))
        expected = 7 if not any(prompt[i : i + 7] == said[:7] for i in range(len(prompt))) else 0
        assert Reader(subject, "fp32").read([Probe(name, prompt, target, 0)]) == [(expected,)], name


def test_a_tokenizer_that_puts_a_space_before_every_text_is_refused_with_the_reason(tmp_path: Path) -> None:
    subject = subject_of(fast(byte_level(prefix=True)), tmp_path)
    with pytest.raises(UserError, match=r"puts a space before every text .* Save it with add_prefix_space=False"):
        _ = subject.tokenizer


@pytest.mark.parametrize("setting", ["truncation", "padding"])
def test_a_tokenizer_saved_with_truncation_or_padding_is_the_same_and_cuts_nothing(setting: str, tmp_path: Path) -> None:
    plain, other = tmp_path / "plain", tmp_path / "other"
    made = made_once("byte-level with a BOS")
    made.save_pretrained(plain)
    changed = AutoTokenizer.from_pretrained(plain)
    backend = changed.backend_tokenizer
    backend.enable_truncation(5) if setting == "truncation" else backend.enable_padding(length=900, pad_id=0, pad_token="<unk>")
    backend.save(str(plain / "tokenizer.json.changed"))
    made.save_pretrained(other)
    (plain / "tokenizer.json.changed").rename(other / "tokenizer.json")
    assert f'"{setting}": {{' in (other / "tokenizer.json").read_text()
    subject = Subject(other)
    assert subject.tokenizer_hash == Subject(plain).tokenizer_hash
    assert subject.tokenizer(ENGLISH)["input_ids"] == made(ENGLISH)["input_ids"]
    assert subject.tokenizer_hash == Subject(plain).tokenizer_hash, "and so after it was used"


def test_tokenizers_without_a_fast_backend_are_told_apart(tmp_path: Path) -> None:
    for name, extra in (("a", 125), ("b", 125), ("c", 100)):
        ByT5Tokenizer(extra_ids=extra).save_pretrained(tmp_path / name)
    a, b, c = (Subject(tmp_path / name).tokenizer_hash for name in "abc")
    assert a == b != c
    assert a != Subject(CONFIGS / "models" / "pocket" / "step256").tokenizer_hash


def test_a_run_with_a_tokenizer_that_has_no_end_of_text_is_refused_before_work(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), unk_token="<unk>")
    subject_of(tokenizer, tmp_path)
    run = Run(load_suite("smoke", [f"model={tmp_path}"]), Store(tmp_path / "store"))
    with pytest.raises(UserError, match=r"names no end-of-text token \(EOS\).* Name it as eos_token"):
        run.validate()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("prompt", "answer"), [("The lamp:", " of the sea"), ("The la", "mp of the sea"), ("Say:\n", "so")])
def test_an_answer_has_the_tokens_that_follow_its_prompt(kind: str, prompt: str, answer: str) -> None:
    """As a model says them; where the two would share a token, those of the answer alone, if it comes back as it was."""
    tokenizer = made_once(kind)
    coded = lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    known = Memory("q", "d", prompt + answer, len(prompt), kind="qa", answers=(answer + " so",))
    first = len(coded(prompt))
    follows = coded(prompt + answer)[:first] == coded(prompt)
    if not follows and tokenizer.decode(coded(answer), clean_up_tokenization_spaces=False) != answer:
        with pytest.raises(UserError, match="does not round-trip"):
            encode(known, tokenizer, 160)
        return
    expected = [coded(prompt + text)[first:] if follows else coded(text) for text in (answer, answer + " so")]
    m = encode(known, tokenizer, 160)
    assert (m.row[: m.opening], m.target, m.accepted) == (coded(prompt), expected[0], (expected[1],))
    assert answers_follow([known], tokenizer) == (expected != [coded(answer), coded(answer + " so")])


def test_no_answer_begins_with_a_space_of_its_own() -> None:
    """Llama 2 and Mistral put one before every text: no model says it after "Answer:"."""
    tokenizer = made_once("as Llama 2")
    begins = lambda ids: tokenizer.convert_ids_to_tokens(list(ids))[:2]  # noqa: E731
    assert begins(tokenizer(" of the sea", add_special_tokens=False)["input_ids"]) == ["▁", "▁"]
    assert begins(encode(Memory("q", "d", "The lamp: of the sea", 9, kind="qa"), tokenizer, 160).target) == ["▁", "of"]


def test_wrong_answers_that_do_not_come_back_are_told_where_they_are_read() -> None:
    """Before work begins; who reads none of them need not mind."""
    tokenizer = made_once("Unigram")
    m = encode(Memory("q", "d", "The lamp: of the sea", 9, kind="qa", wrong=(" of the ☂",)), tokenizer, 160)
    assert "does not round-trip" in unreadable(m, tokenizer, 160)
    assert unreadable(replace(m, memory=replace(m.memory, wrong=(" of a lamp",))), tokenizer, 160) == ""
