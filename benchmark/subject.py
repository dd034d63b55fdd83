"""A subject: whatever maps token ids to next-token logits and can generate. Loaded from safetensors only.

On disk it is a folder with a `subject.json` that names its kind. A causal language model lies there as Hugging Face
writes it; the other kinds hold their parts, which are subjects too, in sub-folders with fixed names.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from .engine import device
from .errors import UserError
from .kinds import CAUSAL_LM, Difference, Filtered, Kind, kind_from
from .paths import CONFIGS
from .tokenizer import fingerprint, open_tokenizer

TOKENS = 4096  # prompts of one length are generated from together, so that about as many are held at a time


@dataclass
class Subject:
    """A model in a folder, or one made of other subjects; loaded when first asked and released on demand.

    `bos` is the id that stands before every text, in training, probing and lm-eval alike; None for most models.
    """

    folder: Path
    state: dict[str, Tensor] | None = field(default=None, repr=False)  # weights that replace the folder's, not yet saved
    made_of: tuple[Kind, Mapping[str, Subject]] | None = field(
        default=None, repr=False
    )  # not yet saved either; the folder has the tokenizer

    @classmethod
    def difference(cls, baseline: Subject, reinforced: Subject, alpha: float = 1.0) -> Subject:
        """Logits v_b - alpha ReLU(v_r - v_b) (Eldan & Russinovich 2023, arXiv 2310.02238)."""
        return cls(baseline.folder, made_of=(Difference(alpha), {"baseline": baseline, "reinforced": reinforced}))

    @classmethod
    def filtered(cls, inner: Subject, blocked: Sequence[Sequence[int]], instead: Sequence[int] = (), run: int = 8) -> Subject:
        """`inner` behind a filter: it never generates `run` consecutive ids of a blocked sequence, but says `instead`."""
        return cls(inner.folder, made_of=(Filtered(tuple(map(tuple, blocked)), tuple(instead), run), {"inner": inner}))

    @cached_property
    def composition(self) -> tuple[Kind, Mapping[str, Subject]] | None:
        """The kind and the parts it combines; None for a causal language model."""
        if self.made_of is not None:
            return self.made_of
        file = self.folder / "subject.json"
        kind = kind_from(_read(file), str(file)) if file.exists() else None
        if kind is None:
            return None
        for name in kind.parts:
            part = self.folder / name
            if not part.is_dir() or part.resolve() != self.folder.resolve() / name:
                raise UserError(f"{file} names the kind {kind.name}, which needs its part in a folder {part}; there is none.")
        return kind, {name: Subject(self.folder / name) for name in kind.parts}

    @cached_property
    def tokenizer(self) -> Any:
        return open_tokenizer(self.folder)

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
        if self.composition is None:
            model = _load(self.folder)
        else:
            kind, parts = self.composition
            model = kind.combine({name: part.fresh() for name, part in parts.items()})
        if self.state is not None:
            strange = model.load_state_dict(self.state, strict=False).unexpected_keys  # a tied head may be missing
            if strange:
                raise ValueError(f"weights that {type(model).__name__} does not have: {', '.join(strange[:5])}")
        return _plain(model)

    @cached_property
    def configs(self) -> list[Any]:
        """The configurations of the model, or of all models that it is made of; no weights are loaded."""
        if self.composition is None:
            return [_config(self.folder)]
        return [config for part in self.composition[1].values() for config in part.configs]

    def with_state(self, state: dict[str, Tensor]) -> Subject:
        """The same architecture and tokenizer with other weights."""
        return Subject(self.folder, state, self.made_of)

    def release(self) -> None:
        """Let go of the loaded model; it is loaded again when asked."""
        self.__dict__.pop("model", None)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write weights (safetensors), configuration, tokenizer and subject.json; a causal-lm as an ordinary Hugging Face directory."""
        self._write(self.model, folder, dtype)
        self.tokenizer.save_pretrained(folder)

    def _write(self, model: Any, folder: Path, dtype: torch.dtype) -> None:
        if self.composition is None:
            _write(model, folder, dtype)
            spec: dict[str, Any] = {"kind": CAUSAL_LM}
        else:
            kind, parts = self.composition
            for name, member in kind.split(model).items():
                (folder / name).mkdir()
                parts[name]._write(member, folder / name, dtype)
            spec = kind.spec()
        (folder / "subject.json").write_text(json.dumps(spec) + "\n")

    @cached_property
    def hash(self) -> str:
        """Over the weights and the configuration on disk, those of all parts."""
        digest = hashlib.sha256()
        if self.composition is not None:
            kind, parts = self.composition
            digest.update(json.dumps([kind.spec(), {name: part.hash for name, part in parts.items()}], sort_keys=True).encode())
            return digest.hexdigest()[:16]
        for file in [*sorted(self.folder.glob("*.safetensors")), self.folder / "config.json"]:
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()[:16]

    @cached_property
    def tokenizer_hash(self) -> str:
        """The same for two tokenizers that make the same ids of every text."""
        return fingerprint(self.tokenizer)

    @cached_property
    def encoding(self) -> str:
        """Over all that decides which ids a text becomes here: the tokenizer, and the ids that lead and end texts."""
        ids = [self.tokenizer_hash, self.bos, self.tokenizer.eos_token_id]
        return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]

    @torch.no_grad()
    def generate(self, prompts: Sequence[tuple[int, ...]], tokens: int) -> list[tuple[int, ...]]:
        """Greedy continuation of each prompt by exactly `tokens` tokens (an end-of-text id does not stop it)."""
        alike: dict[int, list[tuple[int, ...]]] = defaultdict(list)  # by length: so nothing is padded
        for prompt in dict.fromkeys(prompts):
            alike[len(prompt)].append(self.with_bos(prompt))
        said: dict[tuple[int, ...], tuple[int, ...]] = {}
        for length, same in alike.items():
            size = max(1, TOKENS // (length + tokens))
            for start in range(0, len(same), size):
                part = same[start : start + size]
                ids = torch.tensor(part, device=device())
                got = self.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=_greedy(tokens))
                said |= dict(zip(part, map(tuple, got[:, ids.shape[1] :].tolist()), strict=True))
        return [said[self.with_bos(p)] for p in prompts]

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
    subject = Subject(folder)
    if subject.composition is not None:
        for part in subject.composition[1].values():
            _checked(part.folder)
        return subject
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a Hugging Face model directory: it has no config.json.")
    if not list(folder.glob("*.safetensors")):
        pickled = [p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"}]
        what = f"its weights are pickled ({', '.join(pickled)}), which could run code" if pickled else "it has no weights"
        raise UserError(f"{folder}: {what}. Expected model.safetensors; convert with save_pretrained(..., safe_serialization=True).")
    return subject


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from None


def _write(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """A causal language model as safetensors and config.json."""
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    head = model.get_output_embeddings()
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items()}
    if tied and head is not None:
        state = {k: v for k, v in state.items() if model.get_parameter(k) is not head.weight or k in _input_names(model)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(model.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)  # where it was loaded from is no property of the model
    config |= {"architectures": [type(model).__name__], "dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _greedy(tokens: int) -> GenerationConfig:
    """Whatever a folder's generation_config.json says: what is said is compared with readings, which know no penalties and no draws."""
    return GenerationConfig(
        max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, num_beams=1, eos_token_id=None, pad_token_id=0, use_cache=True
    )


def _plain(model: Any) -> Any:
    """The model, to generate greedily whoever asks it, and to compute in fp32 what it says and nothing to spare fp16."""
    model.generation_config = GenerationConfig()
    if hasattr(model.config, "rescale_every"):  # RWKV otherwise divides weights of deep blocks, in place, as soon as it reads
        model.config.rescale_every = 0
    return model


def _config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} could not be loaded as a causal language model: {str(error).splitlines()[0]}") from None


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
