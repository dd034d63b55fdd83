"""Causal attention for training in bf16 on a CPU: the library's forward pass with a backward pass of our own.

The library's backward pass works on small tiles of one head at a time. For rows of a few hundred tokens it takes longer than any
other part of a step; as products over all heads at once it takes about a quarter of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

LONGEST = 512  # tokens: scores are held for all pairs, so longer rows are left to the library


class QuickAttention(TorchFunctionMode):
    """Inside, `scaled_dot_product_attention` is ours where it fits: causal, unmasked, in bf16 on a CPU, with a gradient.

    Heads that share keys and values (grouped-query attention) fit; they are repeated, and autograd adds up what comes back.
    """

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        ours = _attend if function is F.scaled_dot_product_attention else function
        return ours(*args, **(kwargs or {}))


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The library's function by its own signature."""
    low = query.dtype == torch.bfloat16 or (torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
    trained = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    shared = query.shape[1] // key.shape[1] if enable_gqa and query.ndim == key.ndim == 4 and key.shape[1] else 1
    alike = key.shape == value.shape and query.shape == (*key.shape[:1], shared * key.shape[1], *key.shape[2:])
    plain = is_causal and attn_mask is None and not dropout_p and alike
    if low and trained and plain and query.device.type == "cpu" and query.shape[-2] <= LONGEST and query.ndim == 4:
        q, k, v = query.bfloat16(), key.bfloat16(), value.bfloat16()
        if shared > 1:
            k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        return _Attention.apply(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)  # pyright: ignore[reportReturnType]
    return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


class _Attention(torch.autograd.Function):
    """Queries, keys and values [B, heads, T, D] in bf16 -> [B, heads, T, D].

    With p = softmax(scale q k^T), out = p v and g the gradient of out: dv = p^T g, ds = the softmax's gradient of g v^T,
    dq = scale ds k, dk = scale ds^T q. Products are in bf16, the softmax and its gradient in fp32 between them.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, is_causal=True, scale=scale)[0]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        shape = upstream[0].shape
        q, k, v, g = (t.flatten(0, 1) for t in (*ctx.saved_tensors, upstream[0]))
        future = q.new_full((shape[2], shape[2]), -torch.inf).triu(1)
        p = torch.baddbmm(future, q, k.transpose(1, 2), alpha=ctx.scale).softmax(-1)
        ds = torch.ops.aten._softmax_backward_data(g @ v.transpose(1, 2), p, -1, p.dtype)
        dq, dk, dv = (ds @ k).mul_(ctx.scale), (ds.transpose(1, 2) @ q).mul_(ctx.scale), p.transpose(1, 2) @ g
        return dq.view(shape), dk.view(shape), dv.view(shape), None
