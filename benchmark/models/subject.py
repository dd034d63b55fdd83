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
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..common.errors import UserError
from ..common.processes import device
from ..texts.tokenizer import fingerprint
from .bounds import positions
from .finite import require_finite
from .kinds import CAUSAL_LM, Difference, Filtered, Kind, kind_from
from .opening import config_at, ends_named, files, json_of, load, located, refuse, tokenizer_of
from .saving import put, require_answers, require_same, write

TOKENS = 4096  # prompts of one length are generated from together, so that about as many are held at a time


@dataclass
class Subject:
    """A model in a folder, or one made of other subjects; loaded when first asked and released on demand.

    `bos` is the id that stands before every text, in training, reading and lm-eval alike; None for most models.
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
        kind = kind_from(json_of(file), str(file)) if file.exists() else None
        if kind is None:
            return None
        for name in kind.parts:
            part = self.folder / name
            if not part.is_dir() or part.resolve() != self.folder.resolve() / name:
                raise UserError(f"{file} names the kind {kind.name}, which needs its part in a folder {part}; there is none.")
        return kind, {name: Subject(self.folder / name) for name in kind.parts}

    @cached_property
    def tokenizer(self) -> Any:
        return tokenizer_of(self.folder)

    @cached_property
    def bos(self) -> int | None:
        ids = self.tokenizer("a")["input_ids"]
        return ids[0] if ids and ids[0] == self.tokenizer.bos_token_id else None

    @cached_property
    def model(self) -> Any:
        """The model in fp32 and eval mode, on this process's device."""
        model = self.fresh().eval().to(device())
        require_answers(model, str(self.folder) if self.state is None else f"{self.folder} with new weights")
        return model

    def fresh(self) -> Any:
        """A new copy of the model that may be trained, in fp32 on the CPU."""
        if self.composition is None:
            model = load(self.folder)
        else:
            kind, parts = self.composition
            model = kind.combine({name: part.fresh() for name, part in parts.items()})
        if self.state is not None:
            require_finite(self.state.items(), f"{self.folder} with new weights", "What made them diverged or divided by 0; lower its lr.")
            put(model, self.state)
        return _plain(model)

    @cached_property
    def configs(self) -> list[Any]:
        """The configurations of the model, or of all models that it is made of; no weights are loaded."""
        if self.composition is None:
            return [config_at(self.folder)]
        return [config for part in self.composition[1].values() for config in part.configs]

    def with_state(self, state: dict[str, Tensor]) -> Subject:
        """The same architecture and tokenizer with other weights."""
        return Subject(self.folder, state, self.made_of)

    def release(self) -> None:
        """Let go of the loaded model; it is loaded again when asked."""
        self.__dict__.pop("model", None)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write weights (safetensors), configuration, tokenizer and subject.json; a causal-lm as an ordinary Hugging Face directory.

        What was written is read again: if it is not the same model, that is an error.
        """
        self._write(self.model, folder, dtype)
        self.tokenizer.save_pretrained(folder)
        if self.ends - {self.tokenizer.eos_token_id}:  # what else ends a text, no other file says
            (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": sorted(self.ends)}) + "\n")
        require_same(self.model, Subject(folder).model, dtype)

    def _write(self, model: Any, folder: Path, dtype: torch.dtype) -> None:
        if self.composition is None:
            write(model, folder, dtype)
            spec: dict[str, Any] = {"kind": CAUSAL_LM}
        else:
            kind, parts = self.composition
            for name, member in kind.split(model).items():
                (folder / name).mkdir()
                parts[name]._write(member, folder / name, dtype)
            spec = kind.spec()
        (folder / "subject.json").write_text(json.dumps(spec) + "\n")

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids that end what the model says: the tokenizer's, and all that its configuration files name (of a chat model several)."""
        own = self.tokenizer.eos_token_id
        return (
            frozenset([own] if type(own) is int else []) | ends_named(self.folder, "config") | ends_named(self.folder, "generation_config")
        )

    def ended(self, ids: Sequence[int]) -> Sequence[int]:
        """What is said before the first id that ends it."""
        return ids[: next((at for at, i in enumerate(ids) if i in self.ends), len(ids))]

    @cached_property
    def hash(self) -> str:
        """Over the weights and the configuration on disk, those of all parts, and over weights that are not saved yet.

        Ids that end texts count where generation_config.json names more than config.json does.
        """
        if self.composition is not None:
            kind, parts = self.composition
            told: list[Any] = [kind.spec(), {name: part.hash for name, part in parts.items()}]
            if self.made_of is None and (more := ends_named(self.folder, "generation_config")):
                told.append(sorted(more))
            digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
            stored = digest.hexdigest()[:16]
        else:
            stored = _hash_of(tuple(map(_stamped, files(self.folder))))
            if more := ends_named(self.folder, "generation_config") - ends_named(self.folder, "config"):  # in no file of those above
                stored = hashlib.sha256(f"{stored} ends {sorted(more)}".encode()).hexdigest()[:16]
        return stored if self.state is None else hashlib.sha256((stored + state_hash(self.state)).encode()).hexdigest()[:16]

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
        """Greedy continuation of each prompt by `tokens` tokens (an end-of-text id does not stop it).

        By fewer only where the model has no position for more: there it has said its last token. A prompt beyond them is refused.
        """
        alike: dict[int, list[tuple[int, ...]]] = defaultdict(list)  # by length: so nothing is padded
        for prompt in dict.fromkeys(prompts):
            alike[len(prompt)].append(self.with_bos(prompt))
        said: dict[tuple[int, ...], tuple[int, ...]] = {}
        for length, same in alike.items():
            more = self._fitting(tokens, len(same[0]))
            size = max(1, TOKENS // (length + more))
            for start in range(0, len(same), size):
                part = same[start : start + size]
                ids = torch.tensor(part, device=device())
                got = self.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=_greedy(more))
                said |= dict(zip(part, map(tuple, got[:, ids.shape[1] :].tolist()), strict=True))
        return [said[self.with_bos(p)] for p in prompts]

    def _fitting(self, tokens: int, given: int) -> int:
        """How many of `tokens` tokens the model can say behind `given` ones; the last needs no position."""
        most = positions(self.model.config)
        if most is not None and given > most:
            raise UserError(
                f"A prompt of {given} tokens is to be continued, and {type(self.model).__name__} in {self.folder} reads at most {most}. "
                "Give it a shorter prompt, or use another model."
            )
        return tokens if most is None else min(tokens, most + 1 - given)

    def with_bos(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids if self.bos is None else (self.bos, *ids)


def open_subject(name: str, revision: str | None = None) -> Subject:
    """A shipped model (`pocket`, `pocket/step256`), a local directory or GGUF file, or a hub id; weights must be safetensors."""
    return _validated(located(name, revision))


def _validated(place: Path) -> Subject:
    subject = Subject(place)
    if subject.composition is None:
        refuse(place)
    else:
        for part in subject.composition[1].values():
            _validated(part.folder)
    return subject


@lru_cache
def _hash_of(stamped: tuple[tuple[Path, int, int], ...]) -> str:
    """Over the names and contents of files, read piece by piece; once in a process while neither size nor time of one changes."""
    digest = hashlib.sha256()
    for file, _, _ in stamped:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)  # type: ignore[arg-type]
    return digest.hexdigest()[:16]


def _stamped(file: Path) -> tuple[Path, int, int]:
    found = file.stat()
    return file, found.st_size, found.st_mtime_ns


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


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and numbers of weights."""
    digest = hashlib.sha256()
    for name, t in sorted(state.items()):
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(memoryview(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data))
    return digest.hexdigest()
