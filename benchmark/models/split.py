"""Nearly exact products at the speed of bf16 ones: each factor as a sum of two bf16 numbers, on a GPU.

Of (a + b)(c + d) the products ac, ad and bc are computed, with sums in fp32; bd is smaller than what two bf16 numbers leave of a
weight. The result is off by about 2^-16 of itself, 256 times less than one product in bf16, for three of them; two, where the weights
are bf16 numbers, as those of most published models are. On an H100 a product in fp32 costs fifteen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .logits import instead

LEFT = 2**31  # bytes that must stay free on the device


class Split:
    """The linear layers of one model, each weight in two bf16 parts. Everything else of the model stays as it is, in fp32."""

    def __init__(self, model: nn.Module):
        self.parts = {m: _parts(m.weight) for m in _linear(model)}

    @contextmanager
    def products(self) -> Iterator[None]:
        """While this lasts the model's linear layers compute so; autocast must be off."""
        with ExitStack() as stack:
            for m, parts in self.parts.items():
                stack.enter_context(instead(m, partial(_product, high=parts[0], low=parts[1], bias=m.bias)))
            yield


def fits(model: nn.Module) -> bool:
    """Whether there is something to gain: a GPU, weights of linear layers in fp32, and memory for both parts of them."""
    layers = _linear(model)
    if not layers or layers[0].weight.device.type != "cuda":
        return False
    return 4 * sum(m.weight.numel() for m in layers) + LEFT < torch.cuda.mem_get_info(layers[0].weight.device)[0]


def _linear(model: nn.Module) -> list[nn.Linear]:
    """Those whose own forward pass is a product in fp32, of weights that are here."""
    plain = (m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m))
    return [m for m in plain if m.weight.dtype == torch.float32 and m.weight.shape == (m.out_features, m.in_features)]


def _parts(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The nearest bf16 number, and that of what is left; None where nothing is left."""
    x = x.detach()
    high = x.bfloat16()
    low = (x - high).bfloat16()
    return high, low if low.any() else None


def _product(x: Tensor, high: Tensor, low: Tensor | None, bias: Tensor | None) -> Tensor:
    flat = x.float().reshape(-1, x.shape[-1])
    first = flat.bfloat16()
    second = (flat - first).bfloat16()
    out = _times(second, high)
    if low is not None:
        out = _times(first, low, out)
    out = _times(first, high, out)
    return (out if bias is None else out.add_(bias)).view(*x.shape[:-1], -1)


def _times(a: Tensor, b: Tensor, more: Tensor | None = None) -> Tensor:
    """a @ b.T + more, of bf16 numbers and in fp32."""
    if a.device.type == "cuda":
        wide: dict[str, Any] = {"out_dtype": torch.float32}
        return torch.mm(a, b.T, **wide) if more is None else torch.addmm(more, a, b.T, **wide)
    return a.float() @ b.float().T if more is None else torch.addmm(more, a.float(), b.float().T)
