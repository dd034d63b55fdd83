"""Every architecture, of random weights, and what is checked of each: shared by the tests and by the page in docs.

`python -m tests.benchmark.architectures docs/architectures.md` runs all checks and writes the page.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from palimpsest.attacks.ablate_direction import AblateDirection
from palimpsest.attacks.prune import Prune
from palimpsest.attacks.quantise import Quantise
from palimpsest.benchmark.attack import Tampering, Workshop
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.paths import CONFIGS
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import EncodedMemory, Memory, Probe, Row
from palimpsest.benchmark.models.blocks import blocks
from palimpsest.benchmark.models.lens import final_norm
from palimpsest.benchmark.models.logits import logits_of
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.models.weights import covered
from palimpsest.benchmark.reading.reader import Reader, spans_of, without_copying
from palimpsest.benchmark.training.batches import collate
from palimpsest.benchmark.training.lora import Lora
from palimpsest.benchmark.training.losses import language_model_loss, nll_sum
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.benchmark.training.trainer import Trainer
from tests.benchmark.architecture_configs import ARCHITECTURES

ROW = 60


@dataclass(eq=False)
class Case:
    """One architecture: its folder, the library's model of it, and rows of text."""

    name: str
    folder: Path

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(ARCHITECTURES[self.name]())
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim >= 2:
                    p.normal_(0, 0.2)
        model.save_pretrained(self.folder)
        AutoTokenizer.from_pretrained(CONFIGS / "models" / "tokenizer").save_pretrained(self.folder)

    @cached_property
    def subject(self) -> Subject:
        return Subject(self.folder)

    @cached_property
    def own(self) -> Any:
        """The model as the library reads and runs it."""
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def logits(self, row: tuple[int, ...]) -> Tensor:
        return self.own(input_ids=torch.tensor([row]), use_cache=False).logits[0]

    @torch.no_grad()
    @cache  # noqa: B019  a case lives as long as its tests
    def says(self, prompt: tuple[int, ...], tokens: int) -> tuple[int, ...]:
        ids = torch.tensor([prompt])
        said = self.own.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return tuple(said[0, len(prompt) :].tolist())

    @property
    def rows(self) -> list[Row]:
        drawn = np.random.default_rng(1).integers(1, 4096, (4, ROW))
        return [Row(tuple(r.tolist()), name=f"r{i}") for i, r in enumerate(drawn)]


def log_probabilities(case: Case) -> None:
    row = case.rows[0].ids
    reader = Reader(case.subject, "fp32")
    reader.read([], [EncodedMemory(Memory("x", "d", "t", 1), "forget", False, row, 20)])
    found = torch.from_numpy(reader.readings["x"].log_probability[1:])
    expected = case.logits(row)[:-1].log_softmax(-1).gather(1, torch.tensor(row[1:])[:, None])[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def training_loss(case: Case) -> None:
    with torch.no_grad():
        found = nll_sum(case.subject.model, collate(case.rows, slice(None), device())).cpu()
    expected = sum(F.cross_entropy(case.logits(r.ids)[:-1], torch.tensor(r.ids[1:]), reduction="sum") for r in case.rows)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-4)


def lengths(case: Case, precision: str = "fp32") -> None:
    """Rows that go on as the model does, but for one token in the middle of what it says."""
    probes = []
    for i, r in enumerate(case.rows[:3]):
        prompt = r.ids[: 10 + 13 * i]
        said = case.says(prompt, 24)[:16]
        wrong = (*said[:6], (said[6] + 1) % 4096, *said[7:])
        if precision == "fp32":  # which generating does not ask for
            assert case.subject.generate([prompt], 16) == [said]
        probes.append(Probe(f"m{i}", prompt, wrong + case.says(prompt + wrong, 8), 10, (0, 8, 16), ("a", "b", "c")))
    read = Reader(case.subject, precision).read(probes)
    for p, found in zip(probes, read, strict=True):
        for cut, span, matched in zip(p.cuts, spans_of(p), found, strict=True):
            said, truth = case.says(p.prompt + p.target[:cut], span[1] - span[0]), p.target[cut : cut + span[1] - span[0]]
            expected = next((n for n, (a, b) in enumerate(zip(said, truth, strict=True)) if a != b), len(truth))
            assert matched == without_copying(p, span, expected), (p.memory, cut)


def lengths_bf16(case: Case) -> None:
    lengths(case, "bf16")


def saving(case: Case) -> None:
    row = case.rows[0].ids
    with tempfile.TemporaryDirectory() as folder:
        case.subject.save(Path(folder))
        with torch.no_grad():
            ids = torch.tensor([row], device=device())
            found = Subject(Path(folder)).model(input_ids=ids, use_cache=False).logits[0]
            assert torch.equal(found, case.subject.model(input_ids=ids, use_cache=False).logits[0])
    torch.testing.assert_close(found, case.logits(row), atol=1e-4, rtol=1e-4)


def one_step(case: Case, deepspeed: str = "zero0", lora: Lora | None = None) -> None:
    trainer = Trainer("fp32", deepspeed)
    after = trainer.fit(case.subject, lambda step: {"text": case.rows}, language_model_loss, Recipe(lr=1e-2, steps=1), lora=lora).model
    with torch.no_grad():
        before = float(nll_sum(case.subject.model, collate(case.rows, slice(None), device()))) / (4 * (ROW - 1))
        assert abs(trainer.steps[0]["nll"] - before) < 1e-3
        ids = torch.tensor([case.rows[0].ids], device=device())
        change = after(input_ids=ids, use_cache=False).logits[0].cpu() - case.logits(case.rows[0].ids)
    assert change.isfinite().all()
    assert change.abs().max() > 1e-3


def zero3(case: Case) -> None:
    one_step(case, "zero3")


def lora(case: Case) -> None:
    one_step(case, lora=Lora(rank=2))


def tampered(case: Case, attack: Tampering) -> None:
    tools = Workshop(case.subject, retain=lambda k: Row(tuple(range(100 + k, 100 + k + ROW))))
    changed = [c for c in attack.tamper(case.subject, case.rows, tools) if hasattr(c, "subject")]
    assert changed
    for c in changed:
        with torch.no_grad():
            ids = torch.tensor([case.rows[0].ids], device=device())
            difference = c.subject.model(input_ids=ids, use_cache=False).logits[0].cpu() - case.logits(case.rows[0].ids)
        assert difference.isfinite().all()
        assert difference.abs().max() > 1e-5


def quantise(case: Case) -> None:
    tampered(case, Quantise())
    _most(case)


def prune(case: Case) -> None:
    tampered(case, Prune(shares=(0.2,)))
    _most(case)


def _most(case: Case) -> None:
    if (share := covered(case.subject.model)) < 0.9:
        raise UserError(f"flagged: only {share:.0%} of the body's weights are reached")


def lens(case: Case) -> None:
    """The head on the first block's output, by a hook of our own; the last layer is the model itself."""
    row, model = case.rows[0].ids, case.subject.model
    kept: list[Tensor] = []
    hook = blocks(model)[0].register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        own = model(input_ids=torch.tensor([row], device=device()), use_cache=False).logits[0]
        hook.remove()
        first = logits_of(model, final_norm(model.base_model, kept[0]))[0]
    for layer, logits in ((1, first), (len(blocks(model)), own)):
        said = logits.argmax(-1).tolist()
        probes = [Probe(f"m{t}", row[: t + 1], (said[t], row[t + 1]), t + 1, layer=layer) for t in range(0, ROW - 1, 5)]
        copied = [said[t] in row[: t + 1] for t in range(0, ROW - 1, 5)]
        read = Reader(case.subject, "fp32").read(probes)
        assert all(n >= 1 or c for (n,), c in zip(read, copied, strict=True))


def ablation(case: Case) -> None:
    tampered(case, AblateDirection(most=1, ordinary=4))


CHECKS: dict[str, Callable[[Case], None]] = {
    "log-probabilities": log_probabilities,
    "loss": training_loss,
    "lengths": lengths,
    "lengths in bf16": lengths_bf16,
    "saved": saving,
    "ZeRO-3": zero3,
    "LoRA": lora,
    "quantise": quantise,
    "prune": prune,
    "lens": lens,
    "ablation": ablation,
}


def outcome(case: Case, check: str) -> str:
    """ "right", or why it is refused; an AssertionError where it is wrong."""
    try:
        CHECKS[check](case)
    except UserError as error:
        said = str(error).replace(str(case.folder), "its folder")
        return f"refused: {re.sub(r'a share of [0-9.e-]+ of', 'a share of', said)}"  # the last digits are the processor's
    return "right"


def page(found: Mapping[tuple[str, str], str]) -> str:
    """docs/architectures.md from the outcomes that are not "right"."""
    reasons = list(dict.fromkeys(found.values()))
    cell = lambda name, check: f"no ({reasons.index(found[name, check]) + 1})" if (name, check) in found else "✓"  # noqa: E731
    table = [f"| {name} | " + " | ".join(cell(name, check) for check in CHECKS) + " |" for name in ARCHITECTURES]
    notes = [f"{i}. {why}" for i, why in enumerate(reasons, 1)]
    return "\n".join(
        [*HEAD.splitlines(), "", "| architecture | " + " | ".join(CHECKS) + " |", "|---" * (len(CHECKS) + 1) + "|", *table, "", *notes, ""]
    )


HEAD = """# Architectures

Models of two layers with random weights and the shipped tokenizer, each held against the library's own forward pass and `generate()`.
✓: right; no: refused, for the reason below. Nothing else is tried on them here, and no trained checkpoint of these architectures.
`python -m tests.benchmark.architectures docs/architectures.md` makes this page again; the tests hold it against the code.

* **log-probabilities**: a token reading is what the model's own logits say. **loss**: training minimises the model's own cross-entropy.
* **lengths**: matched lengths, in fp32 and in bf16 with its gate, and `Subject.generate`, are those of the library's `generate()`.
* **saved**: the same logits after saving and loading. **ZeRO-3**, **LoRA**: one step begins at the model's own loss and leaves a
  finite, changed model.
* **quantise**, **prune**: finite and changed, and at least 90% of the body's weights reached. **lens**: the head on the states after
  a layer. **ablation**: a direction removed from all that writes to the residual stream.

How a model makes logits of its body's states is asked of the model itself (`benchmark/models/logits.py`). Dynamic NTK and longrope are read
within the context in which positions are not stretched, and refused beyond it.
"""


def main(file: Path) -> None:
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    found: dict[tuple[str, str], str] = {}
    for name in ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            case = Case(name, Path(folder))
            for check in CHECKS:
                try:
                    said = outcome(case, check)
                except Exception as error:  # a page that shows one is not kept, but all are shown
                    said = f"WRONG: {type(error).__name__}: {str(error)[:300]}"
                if said != "right":
                    found[name, check] = said.removeprefix("refused: ")
                    print(name, "|", check, "|", said, flush=True)
    file.write_text(page(found), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
