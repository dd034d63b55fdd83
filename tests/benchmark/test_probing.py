"""One forward pass over a row says what `generate()` would say from every window of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from palimpsest.attacks.longer_prefix import LongerPrefix
from palimpsest.attacks.prefix import Prefix
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.probing import Reader
from palimpsest.benchmark.subject import Subject
from palimpsest.benchmark.types import HORIZON, EncodedMemory, Probe
from tests.conftest import Memorised

LENGTHS = (8, 16, 32, 64)


@pytest.fixture(scope="module")
def blurred(memorised: Memorised) -> Subject:
    """The memorised model with noise on its weights: it repeats some windows for a while, and every length occurs."""
    random = torch.Generator().manual_seed(0)
    state = memorised.subject.fresh().state_dict()
    noisy = {k: v + 0.15 * v.std() * torch.randn(v.shape, generator=random) if v.ndim == 2 else v for k, v in state.items()}
    return memorised.subject.with_state(noisy)


@pytest.fixture(scope="module")
def constant(tiny: Subject) -> Subject:
    """A model whose logits are all equal, so that it always says token 0, which is also the end of text."""
    return tiny.with_state({"lm_head.weight": torch.zeros(4096, 64)})


def every_window(memory: EncodedMemory) -> list[Probe]:
    """One probe per start, with a cut for each prompt length that leaves something to read."""
    row, found = memory.row, []
    for start in range(len(row) - LENGTHS[0]):
        cuts = tuple(k - LENGTHS[0] for k in LENGTHS if start + k < len(row))
        prompt, target = row[start : start + LENGTHS[0]], row[start + LENGTHS[0] :]
        found.append(Probe(memory.id, prompt, target, start + LENGTHS[0], cuts, tuple(map(str, cuts)), start))
    return found


def by_generating(subject: Subject, probes: Sequence[Probe]) -> list[tuple[int, ...]]:
    """What `Reader.read` should return, from `model.generate` over batches of prompts of one length (no copying rule)."""
    asked = [(p.prompt + p.target[:c], p.target[c : c + p.horizon]) for p in probes for c in p.cuts]
    groups = defaultdict(list)
    for i, (prompt, _) in enumerate(asked):
        groups[len(prompt)].append(i)
    lengths = [0] * len(asked)
    for chosen in groups.values():
        ids = torch.tensor([subject.with_bos(asked[i][0]) for i in chosen])
        tokens = max(len(asked[i][1]) for i in chosen)
        said = subject.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert said.shape[1] == ids.shape[1] + tokens
        for i, row in zip(chosen, said[:, ids.shape[1] :].tolist(), strict=True):
            truth = asked[i][1]
            lengths[i] = next((n for n, (a, b) in enumerate(zip(row, truth, strict=False)) if a != b), len(truth))
    left = iter(lengths)
    return [tuple(next(left) for _ in p.cuts) for p in probes]


@contextmanager
def counted_forwards(subject: Subject) -> Iterator[list[tuple[int, ...]]]:
    """The shape [rows, tokens] of every forward pass through the body of the model."""
    shapes: list[tuple[int, ...]] = []

    def count(module: Any, args: Any, options: dict[str, Any], output: Any) -> None:
        shapes.append(tuple(options["input_ids"].shape))

    hook = subject.model.base_model.register_forward_hook(count, with_kwargs=True)
    try:
        yield shapes
    finally:
        hook.remove()


def fp32(subject: Subject, **options: Any) -> Reader:
    return Reader(subject, "fp32", **options)


@pytest.mark.parametrize("which", ["memorised", "blurred"])
def test_one_pass_agrees_with_generating_from_every_window(
    which: str, memorised: Memorised, blurred: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = blurred if which == "blurred" else memorised.subject
    probes = [p for m in (*memorised.memories[:3], *memorised.unseen[:1]) for p in every_window(m)]
    read, said = fp32(subject).read(probes), by_generating(subject, probes)
    pairs = [(p, c, a, b) for p, asked, said_ in zip(probes, read, said, strict=True) for c, a, b in zip(p.cuts, asked, said_, strict=True)]
    # a run that stands in its prompt counts 0, which generating alone does not know
    wrong = [(a, b) for p, c, a, b in pairs if a != b and not (a == 0 and _stands_in(p.prompt + p.target[:c], p.target[c : c + b]))]
    with capsys.disabled():
        copied = sum(a != b for _, _, a, b in pairs) - len(wrong)
        print(f"\n{which}: {len(pairs)} windows compared with generate(), {len(wrong)} disagreements, {copied} copies set to 0")
    assert len(pairs) == 4 * sum(160 - k for k in LENGTHS)
    assert not wrong
    lengths = Counter(b for *_, b in pairs)
    assert lengths[0] > 100
    assert len(lengths) > 30, "the comparison means little unless many lengths occur"


def test_the_gate_asks_near_ties_again_and_gives_the_same_integers_as_fp32(memorised: Memorised, blurred: Subject) -> None:
    probes = [p for m in memorised.memories[:4] for p in every_window(m)]
    reference = fp32(blurred).read(probes)
    gated, open_ = Reader(blurred, "bf16"), Reader(blurred, "bf16", gate=0.0)
    assert gated.read(probes) == reference
    assert 0 < gated.rows_again < gated.rows_asked
    assert open_.read(probes) != reference, "without the gate bf16 flips some decision here; if not, the gate is not tried"
    assert open_.rows_again == 0


def test_fp32_never_asks_a_row_twice(memorised: Memorised, blurred: Subject) -> None:
    reader = fp32(blurred)
    reader.read(every_window(memorised.memories[0]))
    assert (reader.rows_asked, reader.rows_again) == (152, 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_depend_neither_on_the_batch_size_nor_on_the_mates(precision: str, memorised: Memorised, blurred: Subject) -> None:
    probes = [p for m in memorised.memories[:2] for p in every_window(m)]
    together = Reader(blurred, precision).read(probes)
    assert Reader(blurred, precision, tokens_per_batch=700).read(probes) == together
    assert Reader(blurred, precision).read(probes[::-1]) == together[::-1]
    some = range(0, len(probes), 23)
    assert [Reader(blurred, precision).read([probes[i]])[0] for i in some] == [together[i] for i in some]


def test_batches_stay_within_their_tokens(memorised: Memorised) -> None:
    with counted_forwards(memorised.subject) as shapes:
        fp32(memorised.subject, tokens_per_batch=1000).read(every_window(memorised.memories[0]))
    assert len(shapes) > 5
    assert max(rows * tokens for rows, tokens in shapes) <= 1000


def test_a_row_that_two_attacks_share_is_asked_once(memorised: Memorised) -> None:
    memory, tools = memorised.memories[0], Tools(memorised.base)
    probes = [*Prefix().probes(memory, tools), *LongerPrefix().probes(memory, tools)]
    reader = fp32(memorised.subject)
    with counted_forwards(memorised.subject) as shapes:
        read = reader.read(probes)
    assert shapes == [(1, 160)]
    assert reader.rows_asked == 1
    assert [len(r) for r in read] == [5, 4]
    assert read == [fp32(memorised.subject).read([p])[0] for p in probes]


def test_the_model_says_the_lowest_of_equal_logits_as_argmax_does(constant: Subject) -> None:
    probes = [Probe("m", (5, 6), (0, 0, 7), 2), Probe("m", (5, 6), (7, 0), 2)]
    assert fp32(constant).read(probes) == [(2,), (0,)]
    assert by_generating(constant, probes) == [(2,), (0,)]


def test_generating_goes_on_after_an_end_of_text(constant: Subject) -> None:
    assert constant.generate([(5, 6), (7,)], 4) == [(0, 0, 0, 0), (0, 0, 0, 0)]


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
    assert fp32(constant).read([Probe("m", prompt, target, 0)]) == [(expected,)], why


def test_tokens_before_a_cut_are_given_and_so_can_be_copied(constant: Subject) -> None:
    assert fp32(constant).read([Probe("m", (5,), (0, 0, 7, 0, 0, 8), 0, (0, 3), ("", ""))]) == [(2, 0)]


def test_a_reading_ends_at_the_horizon_and_at_the_end_of_the_row(constant: Subject) -> None:
    target = (0,) * 20
    short = Probe("m", (5,), target, 1, (0,), ("",), horizon=6)
    assert fp32(constant).read([short, Probe("m", (5,), target, 1)]) == [(6,), (20,)]
    assert Probe("m", (5,), target, 1).horizon == HORIZON


def test_a_long_target_is_read_to_the_horizon_only(constant: Subject) -> None:
    assert fp32(constant).read([Probe("m", (5,), (0,) * 100, 1)]) == [(HORIZON,)]


def test_nothing_to_ask_is_no_error(constant: Subject) -> None:
    assert fp32(constant).read([]) == []


def test_a_token_before_every_text_is_put_there_when_probing_and_when_generating(
    memorised: Memorised, with_bos: Callable[[Path], Subject], tmp_path: Path
) -> None:
    subject = with_bos(tmp_path)
    assert subject.bos == 4095
    assert memorised.subject.bos is None
    probes = [p for m in memorised.memories[:2] for p in every_window(m)[::3]]
    read = fp32(subject).read(probes)
    assert Reader(subject, "bf16").read(probes) == read
    said = by_generating(subject, probes)
    for p, asked, got in zip(probes, read, said, strict=True):
        for c, a, b in zip(p.cuts, asked, got, strict=True):
            assert a == b or (a == 0 and _stands_in(p.prompt + p.target[:c], p.target[c : c + b]))
    assert read != fp32(memorised.subject).read(probes), "the token in front changes what this model says"
    with counted_forwards(subject) as shapes:
        fp32(subject).read(probes[:1])
    assert shapes == [(1, 161)]


@pytest.fixture
def with_bos(memorised: Memorised, tokenizer: Any) -> Callable[[Path], Subject]:
    """Saves the memorised model with a tokenizer that puts token 4095 before every text."""

    def make(folder: Path) -> Subject:
        memorised.subject.save(folder)
        own = AutoTokenizer.from_pretrained(memorised.subject.folder)
        first = own.convert_ids_to_tokens(4095)
        own.backend_tokenizer.post_processor = TemplateProcessing(single=f"{first} $A", special_tokens=[(first, 4095)])
        own.bos_token = AddedToken(first, special=True)
        own.save_pretrained(folder)
        return Subject(folder)

    return make


def _stands_in(given: tuple[int, ...], run: tuple[int, ...]) -> bool:
    return any(given[i : i + len(run)] == run for i in range(len(given) - len(run) + 1))
