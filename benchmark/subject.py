"""A subject: whatever maps token ids to next-token logits and can generate. Loaded from safetensors only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from .engine import device
from .errors import UserError
from .paths import CONFIGS

KINDS = ("causal-lm",)  # what a subject.json may name


@dataclass
class Subject:
    """A causal language model in a folder, loaded when first asked and released on demand.

    `bos` is the id that stands before every text, in training, probing and lm-eval alike; None for most models.
    """

    folder: Path
    state: dict[str, Tensor] | None = field(default=None, repr=False)  # weights that replace the folder's, not yet saved

    @cached_property
    def tokenizer(self) -> Any:
        try:
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f"No tokenizer in {self.folder}: {error}") from None

    @cached_property
    def bos(self) -> int | None:
        ids = self.tokenizer("a")["input_ids"]
        return ids[0] if ids and ids[0] == self.tokenizer.bos_token_id else None

    @cached_property
    def model(self) -> Any:
        """The model in fp32 and eval mode, on this process's device."""
        return self.fresh().eval().to(device())

    def fresh(self) -> Any:
        """A new copy of the model that may be trained, in fp32 on the CPU."""
        model = _load(self.folder)
        if self.state is not None:
            strange = model.load_state_dict(self.state, strict=False).unexpected_keys  # a tied head may be missing
            if strange:
                raise ValueError(f"weights that {type(model).__name__} does not have: {', '.join(strange[:5])}")
        return model

    def with_state(self, state: dict[str, Tensor]) -> Subject:
        """The same architecture and tokenizer with other weights."""
        return Subject(self.folder, state)

    def release(self) -> None:
        """Let go of the loaded model; it is loaded again when asked."""
        self.__dict__.pop("model", None)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write an ordinary Hugging Face directory: safetensors, config, tokenizer, and subject.json."""
        model = self.model
        tied = bool(getattr(model.config, "tie_word_embeddings", False))
        head = model.get_output_embeddings()
        state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items()}
        if tied and head is not None:
            state = {k: v for k, v in state.items() if model.get_parameter(k) is not head.weight or k in _input_names(model)}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads(model.config.to_json_string(use_diff=False))
        config |= {"architectures": [type(model).__name__], "dtype": str(dtype).removeprefix("torch.")}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        self.tokenizer.save_pretrained(folder)
        (folder / "subject.json").write_text(json.dumps({"kind": "causal-lm"}) + "\n")

    @cached_property
    def hash(self) -> str:
        """Over the weights and the configuration on disk."""
        digest = hashlib.sha256()
        for file in [*sorted(self.folder.glob("*.safetensors")), self.folder / "config.json"]:
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()[:16]

    @cached_property
    def tokenizer_hash(self) -> str:
        """Over the vocabulary and the merges as the tokenizer serialises them."""
        return hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]

    @torch.no_grad()
    def generate(self, prompts: list[tuple[int, ...]], tokens: int) -> list[tuple[int, ...]]:
        """Greedy continuation of each prompt by exactly `tokens` tokens (an end-of-text id does not stop it)."""
        out = []
        for prompt in prompts:
            ids = torch.tensor([self.with_bos(prompt)], device=device())
            got = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                eos_token_id=None, pad_token_id=0, use_cache=True, num_beams=1,
            )  # fmt: skip
            out.append(tuple(got[0, ids.shape[1] :].tolist()))
        return out

    def with_bos(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids if self.bos is None else (self.bos, *ids)


def open_subject(name: str, revision: str | None = None) -> Subject:
    """A shipped model (`pocket`, `pocket/step256`), a local directory, or a hub id; weights must be safetensors."""
    shipped = CONFIGS / "models" / name
    if revision is None and shipped.is_dir():
        points = sorted(shipped.glob("step*"), key=lambda p: int(p.name.removeprefix("step")))
        return _checked(points[-1] if points else shipped)
    if Path(name).is_dir():
        return _checked(Path(name))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"There is no model directory {name!r}.")
    return _checked(_from_hub(name, revision))


def shipped_models() -> list[str]:
    """Names of the models in configs/models."""
    folder = CONFIGS / "models"
    return sorted(str(p.parent.relative_to(folder)) for p in folder.glob("**/config.json"))


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.safetensors", "*.json", "tokenizer*", "*.txt", "*.model"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"The model {name!r} is neither shipped ({', '.join(shipped_models())}), nor a directory here, "
            f"and the hub did not give it: {reason}"
        ) from None


def _checked(folder: Path) -> Subject:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a Hugging Face model directory: it has no config.json.")
    if not list(folder.glob("*.safetensors")):
        pickled = [p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"}]
        what = f"its weights are pickled ({', '.join(pickled)}), which could run code" if pickled else "it has no weights"
        raise UserError(f"{folder}: {what}. Expected model.safetensors; convert with save_pretrained(..., safe_serialization=True).")
    if (kind := folder / "subject.json").exists() and json.loads(kind.read_text()).get("kind") not in KINDS:
        raise UserError(f"{kind} names an unknown kind; expected one of {', '.join(KINDS)}.")
    return Subject(folder)


def _load(folder: Path) -> Any:
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder} could not be loaded as a causal language model: {str(error).splitlines()[0]}") from None


def _input_names(model: nn.Module) -> set[str]:
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    return {f"{name}.weight" for name, m in model.named_modules(remove_duplicate=False) if m is embedding}
