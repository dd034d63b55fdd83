"""Trains the shipped base models: GPT-NeoX in the Pythia shape, on the corpus, with DeepSpeed, saved as bf16 safetensors."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from ..common.errors import UserError, unknown
from ..common.fields import build
from ..common.limits import Count, Counts, NotNegative, Positive
from ..common.paths import CONFIGS
from ..common.processes import is_main
from ..common.progress import Progress, silent
from ..common.types import Batch, Row
from ..common.written import read_yaml
from ..models.precision import together
from ..texts.corpus import Corpus, load_corpus, pack
from ..texts.tokenizer import train_tokenizer
from .engine import full_state
from .loop import train
from .losses import language_model_loss
from .recipe import Recipe


@dataclass(frozen=True)
class PretrainConfig:
    """A file in `configs/models/`: the model's shape, how it is trained, and at which steps it is saved."""

    name: str
    hidden: Count
    layers: Count
    heads: Count
    points: Counts  # optimizer steps at which a model is saved; the last one ends training
    lr: Positive = 2e-3
    weight_decay: NotNegative = 0.1
    batch: Count = 32  # rows per step
    length: Count = 256  # tokens per row
    context: Count = 512
    seed: int = 0
    deepspeed: str = "zero0"
    precision: str = "auto"
    tokenizer: str = "tokenizer"  # a folder beside the model's; trained if it does not exist

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            lr=self.lr,
            steps=self.points[-1],
            schedule="cosine",
            warmup=0.02,
            final_lr=0.05,
            weight_decay=self.weight_decay,
            micro_batch=self.batch,
            seed=self.seed,
            deepspeed=self.deepspeed,
            precision=self.precision,
        )


def pretrain(config: PretrainConfig, out: Path = CONFIGS / "models", progress: Progress = silent) -> None:
    """Train and save every point under `out/NAME/stepN` with a model card; an interrupted run continues."""
    corpus = load_corpus()
    if not corpus.comparable:
        raise UserError(
            f"Only {corpus.coverage:.1%} of the corpus is installed here; shipped models need at least 95%. See constraints.txt."
        )
    tokenizer = _tokenizer(out / config.tokenizer, corpus)
    tokens = pack(corpus.train, tokenizer, tokenizer.eos_token_id)
    valid = pack(corpus.splits["valid"], tokenizer, tokenizer.eos_token_id)
    model = new_model(config, len(tokenizer), tokenizer.eos_token_id)
    config = replace(config, precision=together(config.precision, model.config, config.batch * config.length))

    def after(what: str, step: int, of: int) -> None:
        if step in config.points and is_main():
            save_point(model, tokenizer, config, step, corpus, valid, out / config.name / f"step{step}")
        progress(f"pretraining {config.name}{what}", step, of)

    made_of = json.dumps([asdict(config), corpus.key, tokenizer.get_vocab()], sort_keys=True)  # what continues must be the same training
    resume = out / config.name / f".resume-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
    train(model, batches(tokens, config), language_model_loss, config.recipe, resume=resume, progress=after)
    shutil.rmtree(resume, ignore_errors=True)


def load_pretrain(name: str) -> PretrainConfig:
    """A recipe by the name of a file in configs/models, or by path."""
    file = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / "models" / f"{name}.yaml"
    if not file.is_file():
        raise unknown("model recipe", name, [f.stem for f in (CONFIGS / "models").glob("*.yaml")])
    fields: Any = read_yaml(file)
    return build(PretrainConfig, {"name": file.stem} | fields, str(file))


def new_model(config: PretrainConfig, vocabulary: int, end: int) -> GPTNeoXForCausalLM:
    """A freshly initialised model, the same for the same seed."""
    torch.manual_seed(config.seed)
    shape = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.hidden,
        max_position_embeddings=config.context,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPTNeoXForCausalLM(shape)


def batches(tokens: np.ndarray, config: PretrainConfig) -> Callable[[int], Batch]:
    """Rows of consecutive tokens; every epoch visits each row once, in an order drawn from (seed, epoch)."""
    rows = len(tokens) // config.length

    def batch_at(step: int) -> Batch:
        picked = []
        for k in range(step * config.batch, (step + 1) * config.batch):
            epoch, place = divmod(k, rows)
            if epoch not in orders:
                orders[epoch] = np.random.default_rng([config.seed, epoch]).permutation(rows)
            start = int(orders[epoch][place]) * config.length
            picked.append(Row(tuple(tokens[start : start + config.length].tolist())))
        return {"text": picked}

    orders: dict[int, np.ndarray] = {}
    return batch_at


@torch.no_grad()
def held_out_nats(model: torch.nn.Module, tokens: np.ndarray, length: int = 256) -> float:
    """Mean negative log-likelihood in nats per token over consecutive rows of `length` tokens, in fp32."""
    rows = torch.tensor(tokens[: len(tokens) // length * length].astype(np.int64)).view(-1, length)
    total = 0.0
    for ids in rows.split(32):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
    return total / (len(rows) * (length - 1))


def save_point(model, tokenizer, config: PretrainConfig, step: int, corpus: Corpus, valid: np.ndarray, folder: Path) -> None:
    """Save bf16 weights, then measure the saved file and write its card."""
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in full_state(model).items()}
    save_file(state, part / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(part)
    shape = json.loads((part / "config.json").read_text()) | {"architectures": ["GPTNeoXForCausalLM"], "dtype": "bfloat16"}
    (part / "config.json").write_text(json.dumps(shape, indent=2) + "\n")
    tokenizer.save_pretrained(part)
    saved = GPTNeoXForCausalLM.from_pretrained(part, dtype=torch.float32).eval()
    facts = {
        "step": step,
        "tokens": step * config.batch * config.length,
        "parameters": sum(p.numel() for p in saved.parameters()),
        "held_out_nats": round(held_out_nats(saved, valid), 4),
        "sha256": hashlib.sha256((part / "model.safetensors").read_bytes()).hexdigest(),
    }
    (part / "README.md").write_text(_card(config, facts, corpus))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _card(config: PretrainConfig, facts: dict[str, Any], corpus: Corpus) -> str:
    compute = "bf16 autocast" if config.precision == "bf16" else "fp32"
    return f"""---
license: apache-2.0
language: en
library_name: transformers
---
# {config.name}, step {facts["step"]}

A GPT-NeoX language model in the Pythia shape, trained on the docstring corpus of Palimpsest's `pocket` track.

| | |
|---|---|
| parameters | {facts["parameters"]:,} (hidden {config.hidden}, {config.layers} layers, {config.heads} heads, untied head) |
| tokens seen | {facts["tokens"]:,} in rows of {config.length} |
| held-out loss | {facts["held_out_nats"]:.4f} nats per token on the `valid` split, measured on this file in fp32 |
| recipe | AdamW, lr {config.lr} (cosine to 5%, 2% warm-up), weight decay {config.weight_decay}, batch {config.batch} rows, {compute} |
| corpus | key `{corpus.key}`, coverage {corpus.coverage:.1%} |
| sha256 of the weights | `{facts["sha256"]}` |

Made by `palimpsest pretrain {config.name}`. Meant for research on memorisation; it is no assistant.
"""


def _tokenizer(folder: Path, corpus: Corpus) -> Any:
    from transformers import AutoTokenizer

    if (folder / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(folder)
    return train_tokenizer(corpus.train, folder)
