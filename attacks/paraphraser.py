"""The opening reworded by a language model of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from ..benchmark.attack import Count, EncodedMemory, Rewording, Share, Tools, UserError, device


@dataclass(frozen=True)
class Paraphraser(Rewording):
    """The opening as a local paraphraser model rewords it (set `model` to its directory); the same target follows.

    `model` is a local Hugging Face directory (sequence-to-sequence or causal, safetensors). Black-box: the paraphraser
    sees the opening only, and never the model attacked.
    """

    model: str = ""
    instruction: str = "Say the following in other words, in one sentence, without adding anything.\n\n{opening}\n\nIn other words:"
    tries: Count = 8  # rewordings drawn
    top_p: Share = 0.9

    def reads(self) -> tuple[Path, ...]:
        return (_folder(self.model),) if self.model else ()

    def texts(self, memory: EncodedMemory, tools: Tools) -> Iterator[tuple[str, str]]:
        if not self.model:
            raise UserError(
                "attack paraphraser: model is empty; expected a local Hugging Face directory that holds a paraphraser, "
                "for example attacks.paraphraser.model=models/my-t5. Without one, leave this attack out."
            )
        model, tokenizer = _load(self.model)
        asked = self.instruction.replace("{opening}", memory.memory.opening)
        if tokenizer.chat_template:
            asked = tokenizer.apply_chat_template([{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True)
        coded = tokenizer(asked, add_special_tokens=not tokenizer.chat_template, return_tensors="pt")
        ids, mask = coded["input_ids"].to(model.device), coded["attention_mask"].to(model.device)
        pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        with torch.random.fork_rng():
            torch.manual_seed(int(tools.rng("paraphraser", memory.id).integers(2**31)))
            out = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_p=self.top_p,
                top_k=0,
                temperature=1.0,
                num_beams=1,
                num_return_sequences=self.tries,
                max_new_tokens=2 * memory.opening + 16,
                pad_token_id=pad,
            )
        for said in out if model.config.is_encoder_decoder else out[:, ids.shape[1] :]:
            yield "reworded", first_line(tokenizer.decode(said, skip_special_tokens=True))


def first_line(text: str) -> str:
    """The first line that says something, without quotation marks around it."""
    lines = (line.strip() for line in text.splitlines())
    return next((line.strip('"“”').strip() for line in lines if line), "")


def _folder(name: str) -> Path:
    if not (Path(name) / "config.json").is_file():
        raise UserError(f"attack paraphraser: {name!r} is not a local Hugging Face directory: it has no config.json.")
    return Path(name)


@lru_cache(maxsize=1)
def _load(folder: str) -> tuple[Any, Any]:
    """The paraphraser in eval mode on this process's device, and its tokenizer. Nothing is fetched, unpickled or run."""
    _folder(folder)
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model: Any = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **local)
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"attack paraphraser: {folder!r} could not be loaded as a sequence-to-sequence or causal language model with "
            f"safetensors weights and a tokenizer: {str(error).splitlines()[0]}"
        ) from None
    return model.eval().to(device()), tokenizer
