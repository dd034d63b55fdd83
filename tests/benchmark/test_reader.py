"""One forward pass over a row says what `generate()` would say from every window of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, GPT2Config, GPTNeoXConfig, LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from palimpsest.attacks.logit_lens import LogitLens
from palimpsest.attacks.longer_prefix import LongerPrefix
from palimpsest.attacks.prefix import Prefix
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import HORIZON, EncodedMemory, Probe, TokenReading
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.cache import load_cache, save_cache
from palimpsest.benchmark.reading.forward import Forward, batches
from palimpsest.benchmark.reading.margins import SAFETY, Gate
from palimpsest.benchmark.reading.neox import NeoX, fits
from palimpsest.benchmark.reading.oracle import matched_lengths
from palimpsest.benchmark.reading.reader import Reader
from tests.conftest import Memorised

LENGTHS = (8, 16, 32, 64)
BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # elsewhere bf16 is emulated, slowly, and the library's body alone computes in it


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
        ids = torch.tensor([subject.with_bos(asked[i][0]) for i in chosen], device=device())
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


@torch.no_grad()
def margins(subject: Subject, rows: Sequence[tuple[int, ...]], low: bool) -> np.ndarray:
    """Margins at all positions of some rows, each row alone: the library's forward pass in fp32, or the reader's in bf16."""
    forward, found = Forward(subject), []
    for row in rows:
        with torch.autocast(device().type, torch.bfloat16, enabled=low):
            states = forward.states([row], (None,), low, low)[None][0, : len(row) - 1]
            found.append(forward.margins(states, torch.tensor(row[1:], device=device()), low, doubt=1.0).cpu().numpy())
    return np.concatenate(found)


def fp32(subject: Subject, **options: Any) -> Reader:
    return Reader(subject, "fp32", **options)


def by_both(subject: Subject, probes: Sequence[Probe]) -> list[tuple[int, ...]]:
    """What the reader gives in fp32, which is what the oracle says."""
    read = fp32(subject).read(probes)
    assert read == [matched_lengths(subject, p) for p in probes]
    return read


def without_copies(probes: Sequence[Probe], said: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Lengths of generated text by the rule that a run which stands in its prompt counts 0."""
    return [
        tuple(0 if _stands_in(p.prompt + p.target[:c], p.target[c : c + n]) else n for c, n in zip(p.cuts, lengths, strict=True))
        for p, lengths in zip(probes, said, strict=True)
    ]


# ---- the oracle


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


def test_bf16_with_its_gate_gives_the_same_integers_as_fp32(memorised: Memorised, blurred: Subject) -> None:
    probes = [p for m in memorised.memories[:4] for p in every_window(m)]
    reference = fp32(blurred).read(probes)
    gated, open_ = Reader(blurred, "bf16"), Reader(blurred, "bf16", gate=0.0)
    assert gated.read(probes) == reference
    assert 0 < gated.rows_again < gated.rows_asked
    assert gated.tokens_again < gated.tokens / 2, "rows are asked again up to the last close position only"
    assert open_.read(probes) != reference, "without the gate bf16 flips some decision here; if not, the gate is not tried"
    assert open_.rows_again < gated.rows_again


def test_the_gate_is_as_wide_as_the_errors_of_bf16_ask_for(memorised: Memorised, blurred: Subject) -> None:
    probes = [p for m in memorised.memories[:4] for p in every_window(m)]
    reader = Reader(blurred, "bf16")
    reader.read(probes)
    rows = [p.prompt + p.target for p in probes[::5]]
    exact, rough = (margins(blurred, rows, low) for low in (False, True))
    near = np.abs(rough) < 1
    error = np.sqrt(np.square(exact - rough)[near].mean())
    assert reader.measured.pairs >= 64
    assert 0.7 < reader.measured.width / (SAFETY * error) < 1.4
    flipped = (exact > 0) != (rough > 0)
    assert flipped.sum() > 3
    assert np.abs(rough[flipped]).max() < reader.measured.width


def test_fp32_never_asks_a_row_twice(memorised: Memorised, blurred: Subject) -> None:
    reader = fp32(blurred)
    reader.read(every_window(memorised.memories[0]))
    assert reader.rows_asked == 152
    assert reader.rows_again < 5, "only for near-ties of fp32 itself"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_depend_neither_on_the_batch_size_nor_on_the_mates(precision: str, memorised: Memorised, blurred: Subject) -> None:
    probes = [p for m in memorised.memories[:2] for p in every_window(m)]
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


def test_the_model_says_the_lowest_of_equal_logits_as_argmax_does(constant: Subject) -> None:
    probes = [Probe("m", (5, 6), (0, 0, 7), 2), Probe("m", (5, 6), (7, 0), 2)]
    assert by_both(constant, probes) == [(2,), (0,)]
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


def test_a_run_that_only_fp32_goes_on_with_is_followed_to_its_end(memorised: Memorised, blurred: Subject, monkeypatch: Any) -> None:
    """bf16 that errs at random by more than the model's margins: every near decision must come from fp32."""
    probes = every_window(memorised.memories[0])[::4]
    reference = fp32(blurred).read(probes)
    true, random = Forward.margins, torch.Generator().manual_seed(0)

    def noisy(self: Forward, states: torch.Tensor, truth: torch.Tensor, low: bool, doubt: float = 0.0) -> torch.Tensor:
        exact = true(self, states, truth, low, doubt)
        return exact + low * (2 * torch.rand(exact.shape, generator=random) - 1)

    monkeypatch.setattr(Forward, "margins", noisy)
    assert Reader(blurred, "bf16", gate=1.0).read(probes) == reference
    assert Reader(blurred, "bf16", gate=0.0).read(probes) != reference
    learnt = Reader(blurred, "bf16")
    assert learnt.read(probes) == reference
    assert learnt.measured.width == pytest.approx(SAFETY / 3**0.5, rel=0.2), "the deviation of such errors is 1 / sqrt 3"


def test_where_bf16_turns_clear_decisions_fp32_serves_for_everything(memorised: Memorised, blurred: Subject, monkeypatch: Any) -> None:
    """As behind a router: most errors are small, and a few turn what was never close."""
    probes = every_window(memorised.memories[0])[::4]
    reference = fp32(blurred).read(probes)
    true, random = Forward.margins, torch.Generator().manual_seed(0)

    def turning(self: Forward, states: torch.Tensor, truth: torch.Tensor, low: bool, doubt: float = 0.0) -> torch.Tensor:
        exact = true(self, states, truth, low, doubt)
        return torch.where((torch.rand(exact.shape, generator=random) < 0.03) & low, -exact, exact)

    plain = Reader(blurred, "bf16")
    assert (plain.read(probes), plain.used) == (reference, "bf16")
    monkeypatch.setattr(Forward, "margins", turning)
    careful = Reader(blurred, "bf16")
    assert (careful.read(probes), careful.used) == (reference, "fp32")
    assert Reader(blurred, "bf16", gate=0.5).read(probes) != reference, "a fixed gate is taken as it is"


@pytest.mark.parametrize(
    ("low", "full", "holds"),
    [
        ([0.1, -0.1, 5.0, -7.0], [0.15, -0.1, 5.2, -7.0], True),
        ([0.1, -0.1, 5.0, -7.0], [-0.02, -0.1, 5.2, -7.0], True),
        ([0.1, -0.1, 5.0, -7.0], [0.15, -0.1, -5.0, -7.0], False),
        ([], [], True),
    ],
    ids=["nothing turns", "what was close turns", "what was clear turns", "nothing to try"],
)
def test_a_gate_holds_where_only_close_decisions_turn(low: list[float], full: list[float], holds: bool) -> None:
    gate = Gate()
    gate.try_out(np.array(low), np.array(full))
    assert gate.holds == holds


def test_near_ties_of_fp32_are_decided_with_the_row_alone(memorised: Memorised, blurred: Subject, monkeypatch: Any) -> None:
    probes = every_window(memorised.memories[0])[::12]
    reference = fp32(blurred).read(probes)
    monkeypatch.setattr("palimpsest.benchmark.reading.margins.TIE", 0.5)
    with counted_forwards(blurred) as shapes:
        assert fp32(blurred).read(probes) == reference
    assert shapes[0][0] > 1
    assert len(shapes) > 5
    rows = [n for n, _ in shapes]
    assert set(rows[rows.index(1) :]) == {1}, "at first in batches, then near-ties one by one"


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


# ---- token readings


def test_a_token_reading_is_what_the_models_own_logits_say(memorised: Memorised) -> None:
    memory = memorised.unseen[0]
    found = readings(memorised.subject, [memory])[memory.id]
    with torch.no_grad():
        logits = memorised.subject.model(torch.tensor([memory.row], device=device())).logits[0, :-1].double().cpu()
    log_p, truth = logits.log_softmax(-1), torch.tensor(memory.row[1:])[:, None]
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    expected = {
        "log_probability": log_p.gather(1, truth)[:, 0],
        "mean": mean,
        "deviation": ((p * log_p.square()).sum(-1) - mean.square()).sqrt(),
        "rank": (logits > logits.gather(1, truth)).sum(-1),
        "top_mass": p.topk(40, -1).values.sum(-1).log(),
    }
    for name, values in expected.items():
        got = getattr(found, name)
        assert got.shape == (160,)
        assert got[0] == -1 if name == "rank" else np.isnan(got[0]), name
        np.testing.assert_allclose(got[1:], values.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)
    assert found.rank.dtype == np.int64


def test_a_token_reading_of_equal_logits_has_a_closed_form(constant: Subject, memorised: Memorised) -> None:
    memory = memorised.unseen[0]
    found = readings(constant, [memory])[memory.id]
    for values, expected in [(found.log_probability, -np.log(4096)), (found.mean, -np.log(4096)), (found.top_mass, np.log(40 / 4096))]:
        np.testing.assert_allclose(values[1:], expected, rtol=1e-5)
    np.testing.assert_allclose(found.deviation[1:], 0, atol=1e-4)
    assert set(found.rank[1:].tolist()) == {0}, "no logit is greater"


def test_with_a_token_before_every_text_the_first_token_is_read_too(
    memorised: Memorised, with_bos: Callable[[Path], Subject], tmp_path: Path
) -> None:
    subject, memory = with_bos(tmp_path), memorised.memories[0]
    found = readings(subject, [memory])[memory.id]
    with torch.no_grad():
        logits = subject.model(torch.tensor([subject.with_bos(memory.row)], device=device())).logits[0, :-1].cpu()
    expected = logits.log_softmax(-1).gather(1, torch.tensor(memory.row)[:, None])[:, 0]
    np.testing.assert_allclose(found.log_probability, expected.numpy(), atol=1e-4)
    assert (found.rank >= 0).all()


def test_a_token_reading_does_not_depend_on_its_mates(memorised: Memorised) -> None:
    everyone = [*memorised.memories, *memorised.unseen]
    together, halves = readings(memorised.subject, everyone), readings(memorised.subject, everyone[::-1], tokens_per_batch=400)
    for m in everyone:
        alone = readings(memorised.subject, [m])[m.id]
        for other in (together[m.id], halves[m.id]):
            for name in ("log_probability", "mean", "deviation", "top_mass"):
                np.testing.assert_allclose(getattr(alone, name), getattr(other, name), atol=1e-4)
            np.testing.assert_array_equal(alone.rank, other.rank)


# ---- layers


LAYERS = 3
SHAPES = {
    "gpt_neox": GPTNeoXConfig(hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=64, vocab_size=4096),
    "llama": LlamaConfig(hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=64, vocab_size=4096),
    "gpt2": GPT2Config(n_embd=32, n_layer=LAYERS, n_head=2, vocab_size=4096),
}
LAST_NORM = {"gpt_neox": "final_layer_norm", "llama": "norm", "gpt2": "ln_f"}


@pytest.fixture(params=SHAPES)
def architecture(request: pytest.FixtureRequest, tokenizer: Any, tmp_path: Path) -> tuple[str, Subject]:
    """A small model of random weights, large enough that its states differ from layer to layer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES[request.param])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return request.param, Subject(tmp_path)


def test_a_layer_is_read_through_the_last_norm_and_the_head(architecture: tuple[str, Subject], memorised: Memorised) -> None:
    name, subject = architecture
    row = memorised.memories[0].row[:40]
    model = subject.model
    kept: list[torch.Tensor] = [model.get_input_embeddings()(torch.tensor([row], device=device()))]
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == LAYERS)
    hooks = [b.register_forward_hook(lambda m, i, out: kept.append(out[0] if isinstance(out, tuple) else out)) for b in blocks]
    with torch.no_grad():
        own = model(torch.tensor([row], device=device())).logits
        for hook in hooks:
            hook.remove()
        states = Forward(subject).states([row], (None, 0, 1, 2, LAYERS))
        for layer in range(0 if name != "gpt2" else 1, LAYERS):  # GPT-2 adds positions to its embeddings
            expected = model.lm_head(getattr(model.base_model, LAST_NORM[name])(kept[layer]))
            torch.testing.assert_close(model.lm_head(states[layer]), expected, atol=1e-4, rtol=1e-4)
            assert (expected - own).abs().max() > 0.1
        torch.testing.assert_close(model.lm_head(states[LAYERS]), own, atol=1e-4, rtol=1e-4)


def test_the_last_layer_is_the_models_own_output(memorised: Memorised, blurred: Subject) -> None:
    probes = every_window(memorised.memories[0])[::10]
    own, first, last = ([replace(p, layer=layer) for p in probes] for layer in (None, 1, 2))
    read = fp32(blurred).read(own)
    assert fp32(blurred).read(last) == read
    assert Reader(blurred, "bf16").read(last) == read
    assert fp32(blurred).read(first) != read
    assert Reader(blurred, "bf16").read([*first, *own, *last]) == [*fp32(blurred).read(first), *read, *read]


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_is_not_there_is_the_users_error(layer: int, memorised: Memorised) -> None:
    with pytest.raises(UserError, match="layers 0"):
        fp32(memorised.subject).read([Probe("m", (5,), (6, 7), 0, layer=layer)])


# ---- the faster body


@pytest.mark.parametrize("bias", [True, False])
def test_the_faster_body_computes_what_the_library_does(bias: bool, memorised: Memorised) -> None:
    torch.manual_seed(1)
    shape = GPTNeoXConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, vocab_size=4096, attention_bias=bias,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    body = AutoModelForCausalLM.from_config(shape).eval().base_model
    with torch.no_grad():
        for p in body.parameters():
            p.add_(0.1 * torch.randn_like(p))
        ids = torch.tensor([memorised.memories[0].row[:50], memorised.memories[1].row[:50]])
        exact, low = body(ids).last_hidden_state, body.to(torch.bfloat16)(ids).last_hidden_state.float()
        body.float()
        assert fits(body, torch.float32)
        torch.testing.assert_close(NeoX(body, torch.float32)(ids), body(ids).last_hidden_state, atol=2e-4, rtol=1e-4)
        if not BF16:
            return
        rough = NeoX(body)
        error = (rough(ids) - body(ids).last_hidden_state).square().mean().sqrt()
        assert 0 < error < (low - exact).square().mean().sqrt(), "less is rounded than in the library's body in bf16"
        torch.testing.assert_close(rough(ids[:1, :33]), rough(ids)[:1, :33], atol=0.1, rtol=0.1)


def test_a_body_with_a_hook_or_of_another_kind_is_left_to_the_library(memorised: Memorised, architecture: tuple[str, Subject]) -> None:
    body = memorised.subject.model.base_model
    body(torch.tensor([[1, 2]], device=device()), output_hidden_states=True)  # leaves hooks of the library's own behind
    for dtype, there in ((torch.float32, device().type == "cpu"), (torch.bfloat16, device().type == "cpu" and BF16)):
        assert fits(body, dtype) == there
        with counted_forwards(memorised.subject):
            assert not fits(body, dtype)
        assert fits(architecture[1].model.base_model, dtype) == (there and architecture[0] == "gpt_neox")


# ---- the cache


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


def readings(subject: Subject, memories: Sequence[EncodedMemory], **options: Any) -> dict[str, TokenReading]:
    reader = Reader(subject, **options)
    assert reader.read([], memories) == []
    return reader.readings


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
