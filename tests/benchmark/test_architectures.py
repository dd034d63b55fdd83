"""Every check of every architecture comes out as docs/architectures.md says: right, or refused for the reason given there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, Phi3Config

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.paths import CONFIGS
from palimpsest.benchmark.common.types import EncodedMemory, Memory, Probe, Row
from palimpsest.benchmark.models import bounds
from palimpsest.benchmark.models.logits import hidden_states, logits_of, own_logits, route
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.quality.harness import SubjectLM
from palimpsest.benchmark.reading.reader import Reader
from palimpsest.benchmark.training.batches import collate
from palimpsest.benchmark.training.losses import nll_sum
from tests.benchmark.architecture_configs import ARCHITECTURES, DYNAMIC, GROUPED, SHAPE
from tests.benchmark.architectures import CHECKS, Case, outcome, page

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "architectures.md").read_text("utf-8")


def documented() -> dict[tuple[str, str], str]:
    """(architecture, check) -> what the page says."""
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", PAGE, re.MULTILINE))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
    found = {}
    for name, *cells in rows[1:]:
        for check, cell in zip(rows[0][1:], cells, strict=True):
            found[name, check] = "right" if cell == "✓" else f"refused: {reasons[cell[4:-1]]}"
    return found


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("model"))


def test_every_check_comes_out_as_the_page_says(case: Case) -> None:
    found = {check: outcome(case, check) for check in CHECKS}
    assert found == {check: documented()[case.name, check] for check in CHECKS}


def test_the_page_is_what_the_command_writes() -> None:
    refused = {cell: said.removeprefix("refused: ") for cell, said in documented().items() if said != "right"}
    assert set(documented()) == {(name, check) for name in ARCHITECTURES for check in CHECKS}
    assert page(refused) == PAGE


# ---- what a head alone does not make


class Halved(LlamaForCausalLM):
    """Changes states before its head, not logits behind it."""

    def forward(self, *args, **given):  # type: ignore[no-untyped-def,override]
        hook = self.lm_head.register_forward_pre_hook(lambda _, x: (x[0] / 2,))
        try:
            return super().forward(*args, **given)
        finally:
            hook.remove()


class Whole(LlamaForCausalLM):
    """Has no body that could be asked alone, and doubles its logits."""

    base_model_prefix = ""

    def forward(self, *args, **given):  # type: ignore[no-untyped-def,override]
        out = super().forward(*args, **given)
        out.logits = out.logits * 2
        return out


@pytest.mark.parametrize(("kind", "plain", "apart"), [(LlamaForCausalLM, True, True), (Halved, False, True), (Whole, False, False)])
def test_logits_losses_and_readings_are_the_models_own_wherever_it_changes_them(
    kind: type, plain: bool, apart: bool, tokenizer: object, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = kind(LlamaConfig(**GROUPED)).eval()
    row = tuple(range(100, 140))
    ids = torch.tensor([row])
    assert (route(model).plain, route(model).body is not None, route(model).vocabulary) == (plain, apart, 4096)
    with torch.no_grad():
        own = own_logits(model, ids)
        torch.testing.assert_close(logits_of(model, hidden_states(model, ids)), own, atol=1e-5, rtol=1e-5)
        loss = torch.nn.functional.cross_entropy(own[0, :-1], ids[0, 1:], reduction="sum")
        torch.testing.assert_close(nll_sum(model, collate([Row(row)], slice(None), "cpu")), loss)
    LlamaForCausalLM(LlamaConfig(**GROUPED)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    subject = Subject(tmp_path)
    subject.__dict__["model"] = model
    reader = Reader(subject, "fp32")
    best = int(own[0, -1].argmax())
    assert reader.read(
        [Probe("m", row, (best, best), 0, horizon=1)], [EncodedMemory(Memory("x", "d", "t", 1), "forget", False, row, 9)]
    ) == [(1,)]
    expected = own[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(torch.from_numpy(reader.readings["x"].log_probability[1:]), expected, atol=1e-4, rtol=1e-4)
    if not apart:
        with pytest.raises(UserError, match="Whole has no body that can be asked alone; layers cannot be read"):
            reader.read([Probe("m", row, (1, 2), 0, layer=1)])


def test_a_cap_is_seen_although_the_logits_of_a_new_model_are_far_below_it() -> None:
    config = ARCHITECTURES["Gemma 2"]()
    config.final_logit_softcapping = 1e4
    assert not route(AutoModelForCausalLM.from_config(config)).plain


def test_the_check_is_seen_by_no_hook_and_made_once() -> None:
    model = LlamaForCausalLM(LlamaConfig(**GROUPED)).eval()
    seen: list[int] = []
    model.model.register_forward_hook(lambda *_: seen.append(1))
    hidden_states(model, torch.tensor([[1, 2]]))
    hidden_states(model, torch.tensor([[1, 2]]))
    assert seen == [1, 1]


# ---- generation


PENALTIES = {
    "repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "do_sample": True, "temperature": 9.0, "forced_eos_token_id": 7, "num_beams": 3,
    "suppress_tokens": list(range(8, 2000)), "begin_suppress_tokens": [1], "eos_token_id": [5, 6], "min_length": 3, "max_length": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def penalised(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case("Llama", tmp_path_factory.mktemp("penalised"))
    _ = case.own
    case.own.generation_config = GenerationConfig()
    (case.folder / "generation_config.json").write_text(json.dumps(PENALTIES))
    return case


def test_what_is_generated_ignores_the_folders_generation_config(penalised: Case) -> None:
    prompts = [r.ids[:10] for r in penalised.rows]
    assert penalised.subject.generate(prompts, 20) == [penalised.says(p, 20) for p in prompts]


def test_lm_eval_generates_greedily_too(penalised: Case) -> None:
    prompt = penalised.rows[0].ids[:10]
    lm = SubjectLM(penalised.subject, 1)
    got = lm._model_generate(torch.tensor([prompt]), max_length=30, stop=[], attention_mask=torch.ones(1, 10, dtype=torch.long))
    assert tuple(got[0, 10:].tolist()) == penalised.says(prompt, 20)


# ---- positions and vocabularies


def folder_of(config: object, folder: Path) -> Subject:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(CONFIGS / "models" / "tokenizer").save_pretrained(folder)
    return Subject(folder)


LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            lambda: LlamaConfig(**SHAPE | {"vocab_size": 4000, "max_position_embeddings": 512}),
            r"Llama in .* has 4000 tokens, and its tokenizer 96 more, such as",
        ),
        (lambda: LlamaConfig(**SHAPE), r"reads at most 128 tokens; a row of 160 takes 160\. Lower row"),
        (lambda: LlamaConfig(**GROUPED, rope_parameters=DYNAMIC), r"reads at most 128 tokens"),
        (
            lambda: Phi3Config(**GROUPED, pad_token_id=0, rope_parameters=LONG, original_max_position_embeddings=64),
            r"reads at most 64 tokens before its rotary positions are stretched",
        ),
        (ARCHITECTURES["Gemma 3, multimodal"], r"Gemma3 in .* reads at most 128 tokens"),
        (ARCHITECTURES["Mamba"], None),
        (ARCHITECTURES["BLOOM"], None),
    ],
    ids=["vocabulary", "positions", "dynamic", "longrope", "multimodal", "mamba", "bloom"],
)
def test_a_row_that_a_model_cannot_read_is_refused_before_weights_are_loaded(
    config: Callable[[], object], message: str | None, tmp_path: Path
) -> None:
    subject = folder_of(config(), tmp_path)
    if message is None:
        bounds.require_positions(subject, 160, "a row of 160")
    else:
        with pytest.raises(UserError, match=message):
            bounds.require_positions(subject, 160, "a row of 160")
    assert "model" not in subject.__dict__


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_are_never_filled_up_beyond_the_positions_of_a_model(precision: str, tmp_path: Path) -> None:
    config = ARCHITECTURES["GPT-2"]()
    config.n_positions = 50
    subject = folder_of(config, tmp_path)
    row = tuple(range(100, 151))
    assert len(Reader(subject, precision).read([Probe("m", row[:40], row[40:], 0)])) == 1
