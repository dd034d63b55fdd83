"""What tests of tampering attacks share: small doses of each, their tools, small models, and how weights are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from palimpsest.attacks.ablate_direction import AblateDirection
from palimpsest.attacks.benign_finetuning import BenignFinetuning
from palimpsest.attacks.interpolate import Interpolate
from palimpsest.attacks.prune import Prune
from palimpsest.attacks.quantise import Quantise
from palimpsest.attacks.relearn import Relearn
from palimpsest.attacks.relearn_lora import RelearnLora
from palimpsest.benchmark.attack import Changed, Tampering, Workshop
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training.trainer import Trainer
from tests.conftest import Memorised

QUICK: list[Tampering] = [Quantise(), Prune(), Interpolate(), AblateDirection(ordinary=8)]
LEARNING: list[Tampering] = [
    BenignFinetuning(lr=1e-3, steps=2, batch=2),
    Relearn(shares=(0.25, 0.5), lr=1e-3, steps=2, batch=2, points=(1, 2)),
    RelearnLora(shares=(0.5,), lr=1e-2, steps=2, batch=2, points=(1, 2)),
]


def name_of(attack: Tampering) -> str:
    return type(attack).__name__


def ordinary(k: int) -> Row:
    """Rows of random ids, the same for the same k."""
    draw = torch.Generator().manual_seed(k)
    return Row(tuple(torch.randint(1, 4096, (40 + k % 3,), generator=draw).tolist()))


@dataclass
class Watching(Trainer):
    """A trainer that keeps the rows of every step."""

    seen: list[list[Row]] = field(default_factory=list)

    def fit(self, start: Subject, batch_at: Any, *args: Any, **given: Any) -> Subject:
        def watched(step: int) -> Any:
            batch = batch_at(step)
            self.seen.append(list(batch["text"]))
            return batch

        return super().fit(start, watched, *args, **given)


def workshop(memorised: Memorised, trainer: Trainer | None = None) -> Workshop:
    """As the battery gives it, with the memorised model as the held one."""
    return Workshop(
        memorised.base, 3, retain=ordinary, trainer=lambda purpose: trainer or Trainer("fp32", seed=1),
        held=memorised.subject, twin=memorised.base, precision="fp32",
    )  # fmt: skip


def changes(attack: Tampering, subject: Subject, rows: Sequence[Row], tools: Workshop) -> dict[str, dict[str, Tensor]]:
    """Dose -> full weights of each changed model that is fully asked."""
    found = [c for c in attack.tamper(subject, rows, tools) if isinstance(c, Changed) and not c.only_opening]
    return {c.dose: weights(c.subject) for c in found}


def weights(subject: Subject) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in subject.fresh().state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- quantisation, pruning, interpolation


def body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if ".layers." in k and v.ndim == 2}


# ---- ablation


def shapes(width: int) -> dict[str, Any]:
    return {"vocab_size": 4096, "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 256}


def llama(folder: Path) -> Subject:
    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig(**shapes(32), intermediate_size=64, num_key_value_heads=1)).save_pretrained(folder)
    return Subject(folder)


def gpt2(folder: Path) -> Subject:
    torch.manual_seed(5)
    GPT2LMHeadModel(GPT2Config(vocab_size=4096, n_embd=32, n_layer=2, n_head=2, n_positions=256)).save_pretrained(folder)
    return Subject(folder)
