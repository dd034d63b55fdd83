"""Weights rounded to 8 and 4 bits (Zhang et al. 2024, arXiv 2410.16454)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from ..benchmark.attack import (
    SOME,
    Changed,
    Count,
    Row,
    Subject,
    Tampering,
    Workshop,
    as_kept,
    by_output,
    covered,
    one_of,
    replaced,
    round_by_torchao,
    round_to_nearest,
    unknown,
)

VARIANTS = ("int8", "int4", "int4-rtn")


@dataclass(frozen=True)
class Quantise(Tampering):
    """Round the matrices of attention and MLPs to 8 or 4 bits: a small update vanishes in the rounding, and with it the forgetting.

    int8 (one symmetric scale per output) and int4 (one scale per `group` inputs) are torchao's weight-only schemes;
    int4-rtn is plain symmetric round-to-nearest. Embeddings and head stay as they are. Activations are not rounded.
    """

    variants: Annotated[tuple[Annotated[str, one_of(*VARIANTS)], ...], SOME] = VARIANTS
    group: Count = 32  # weights that share a scale in int4
    symmetric: bool = False  # of int4: levels around 0; else over each group's own range

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed]:
        for variant in self.variants:
            rounded = {name: self._rounded(weight, variant) for name, weight in by_output(subject.model).items()}
            yield Changed(replaced(subject, as_kept(subject.model, rounded)), variant, covered=covered(subject.model))

    def _rounded(self, weight: Tensor, variant: str) -> Tensor:
        if variant == "int8":
            return round_by_torchao(weight, 8)
        if variant == "int4":
            return round_by_torchao(weight, 4, self.group, self.symmetric)
        if variant == "int4-rtn":
            return round_to_nearest(weight, 4, self.group)
        raise unknown("variant of quantise", variant, VARIANTS)
