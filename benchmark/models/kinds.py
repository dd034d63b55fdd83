"""Subjects made of other subjects: two models combined at the logits, a model behind an output filter.

Each kind builds an ordinary transformers model, so that reading, generating, training and lm-eval know nothing of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from ..common.errors import UserError
from ..common.fields import build
from .logits import logits_of, route

CAUSAL_LM = "causal-lm"  # the kind that is made of nothing else


class Kind(ABC):
    """How models become one. A frozen dataclass; its fields are what subject.json holds beside the kind's name."""

    name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]  # sub-folders of a subject on disk, each a subject

    @abstractmethod
    def combine(self, models: Mapping[str, Any]) -> Any:
        """One causal language model made of these, one for each of `parts`; it may take them over."""

    @abstractmethod
    def split(self, model: Any) -> dict[str, Any]:
        """The models that a combined one is made of, with its present weights."""

    def spec(self) -> dict[str, Any]:
        """What subject.json holds."""
        return {"kind": self.name, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Difference(Kind):
    """Logits v_b - alpha ReLU(v_r - v_b) of a baseline b and a reinforced model r (Eldan & Russinovich 2023, arXiv 2310.02238)."""

    alpha: float = 1.0

    name: ClassVar[str] = "difference"
    parts: ClassVar[tuple[str, ...]] = ("baseline", "reinforced")

    def combine(self, models: Mapping[str, Any]) -> DifferenceModel:
        routes = [route(models[p]) for p in self.parts]
        if routes[0].vocabulary != routes[1].vocabulary:
            sizes = f"baseline has {routes[0].vocabulary} tokens and reinforced {routes[1].vocabulary}"
            raise UserError(f"A difference needs two models of one vocabulary; {sizes}.")
        if closed := [type(models[p]).__name__ for p, r in zip(self.parts, routes, strict=True) if r.body is None]:
            raise UserError(f"A difference reads the states behind two bodies; {closed[0]} has no body that can be asked alone.")
        return DifferenceModel(models["baseline"], models["reinforced"], self.alpha)

    def split(self, model: DifferenceModel) -> dict[str, Any]:
        return model.members


@dataclass(frozen=True)
class Filtered(Kind):
    """A model whose output is watched: what it generates never holds `run` consecutive ids of a blocked sequence.

    Where the model would say the last of them, `instead` is put into its mouth. Its logits are the inner model's own.
    """

    blocked: tuple[tuple[int, ...], ...] = ()
    instead: tuple[int, ...] = ()
    run: int = 8

    name: ClassVar[str] = "filtered"
    parts: ClassVar[tuple[str, ...]] = ("inner",)

    def __post_init__(self) -> None:
        shortest = min(map(len, self.blocked), default=self.run)
        if not 2 <= self.run <= shortest:
            raise UserError(f"A filter's run={self.run}: expected at least 2, and at most the shortest blocked sequence ({shortest} ids).")

    def combine(self, models: Mapping[str, Any]) -> Any:
        model = models["inner"]
        cls = type(model)
        # The class keeps its name: a saved configuration names the architecture by it.
        model.__class__ = type(cls.__name__, (_Watched, cls), {"__module__": cls.__module__})
        model.watcher = Watcher(self)
        return model

    def split(self, model: Any) -> dict[str, Any]:
        return {"inner": model}


KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Difference, Filtered)}


def kind_from(given: Any, where: str) -> Kind | None:
    """The kind that the content of a subject.json names; None for a causal language model."""
    name = given.get("kind") if isinstance(given, dict) else None
    if name == CAUSAL_LM:
        return None
    if name not in KINDS:
        raise UserError(f"{where} names an unknown kind, {name!r}; expected one of {', '.join((CAUSAL_LM, *KINDS))}.")
    return build(KINDS[name], {k: v for k, v in given.items() if k != "kind"}, where)


class _Bodies(nn.Module):
    """Both models without their heads, side by side: states [B, T, H_b + H_r]."""

    def __init__(self, baseline: nn.Module, reinforced: nn.Module):
        super().__init__()
        self.baseline = baseline
        self.reinforced = reinforced

    def forward(
        self,
        input_ids: Tensor,
        use_cache: bool = False,
        past_key_values: EncoderDecoderCache | None = None,
        output_hidden_states: bool = False,
        **given: Any,
    ) -> BaseModelOutputWithPast:
        past = _caches() if use_cache and past_key_values is None else past_key_values
        caches = (past.self_attention_cache, past.cross_attention_cache) if past is not None else (None, None)
        given = {k: v for k, v in given.items() if v is not None} | {
            "use_cache": past is not None,
            "output_hidden_states": output_hidden_states,
        }
        both = [m(input_ids=input_ids, past_key_values=c, **given) for m, c in zip(self.children(), caches, strict=True)]
        layers = tuple(torch.cat(h, -1) for h in zip(*(o.hidden_states for o in both), strict=True)) if output_hidden_states else None
        return BaseModelOutputWithPast(torch.cat([o.last_hidden_state for o in both], -1), past, layers)


def _caches() -> EncoderDecoderCache:
    """One cache for each model. The library's only pair of caches was meant for another two; generation can handle it."""
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


class _DifferenceHead(nn.Module):
    """Splits the states and combines the logits that both models make of them. `weight` tells the size of the vocabulary."""

    def __init__(self, models: Mapping[str, Any], alpha: float):
        super().__init__()
        self.models = models  # in a dictionary, so that no weight has two names
        self.baseline = models["baseline"].get_output_embeddings()
        self.reinforced = models["reinforced"].get_output_embeddings()
        self.width = self.baseline.weight.shape[1]  # of the baseline's states
        self.alpha = alpha

    @property
    def weight(self) -> Tensor:
        return self.baseline.weight  # type: ignore[return-value]

    def forward(self, states: Tensor) -> Tensor:
        baseline = logits_of(self.models["baseline"], states[..., : self.width])
        return baseline - self.alpha * torch.relu(logits_of(self.models["reinforced"], states[..., self.width :]) - baseline)


class DifferenceModel(PreTrainedModel, GenerationMixin):
    """Two causal language models combined at the logits; takes both over."""

    base_model_prefix = "bodies"
    _supports_sdpa = True

    def __init__(self, baseline: Any, reinforced: Any, alpha: float):
        super().__init__(deepcopy(baseline.config))
        self.bodies = _Bodies(baseline.base_model, reinforced.base_model)
        self.members = {"baseline": baseline, "reinforced": reinforced}  # in a dictionary, so that no weight has two names
        self.head = _DifferenceHead(self.members, alpha)

    def get_input_embeddings(self) -> nn.Module:
        return self.members["baseline"].get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        out = self.bodies(
            input_ids,
            bool(use_cache),
            past_key_values,
            bool(output_hidden_states),
            attention_mask=attention_mask,
            position_ids=position_ids,
        )
        logits = self.head(out.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(None, logits, out.past_key_values, out.hidden_states)

    def generate(self, *args: Any, **given: Any) -> Any:
        if given.get("use_cache") is not False:
            given.setdefault("past_key_values", _caches())
        return super().generate(*args, **given)  # type: ignore[misc]


class _Watched:
    """Goes before a model's class: what it generates passes the watcher, what it computes does not."""

    watcher: Watcher

    def generate(self, *args: Any, logits_processor: Any = None, **given: Any) -> Any:
        return super().generate(*args, logits_processor=LogitsProcessorList([*(logits_processor or ()), self.watcher]), **given)  # type: ignore[misc]


class Watcher(LogitsProcessor):
    """Bans each token that would complete a run of blocked ids, and puts the words of `instead` in its place.

    Depends on nothing but what stands in a row, so neither on batch mates nor on what was generated before.
    """

    def __init__(self, kind: Filtered):
        self.instead = kind.instead
        self.context = kind.run - 1
        self.banned: dict[tuple[int, ...], set[int]] = {}  # the ids before -> what must not follow
        for ids in kind.blocked:
            for i in range(self.context, len(ids)):
                self.banned.setdefault(ids[i - self.context : i], set()).add(ids[i])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        scores = scores.clone()
        for row, ids in enumerate(input_ids[:, -(self.context + len(self.instead)) :].tolist()):
            said = self._said(ids)
            banned = self.banned.get(tuple(ids[-self.context :]), set())
            if said is None and int(scores[row].argmax()) in banned:
                said = 0
            if said is not None and said < len(self.instead):
                scores[row] = -torch.inf
                scores[row, self.instead[said]] = 0.0
            else:
                scores[row, sorted(banned)] = -torch.inf
        return scores

    def _said(self, ids: list[int]) -> int | None:
        """How much of `instead` stands at the end, right behind a place where something was banned."""
        for n in range(1, len(self.instead)):
            if tuple(ids[-n:]) == self.instead[:n] and tuple(ids[-n - self.context : -n]) in self.banned:
                return n
        return None
