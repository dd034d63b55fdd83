"""A GPT-NeoX body for reading, in bf16 and on a CPU in fp32 too: the library's arithmetic with fewer passes over memory.

In bf16 it screens, and how close a decision may be is measured; in fp32 it makes close decisions again. Near-ties of that,
and whatever needs states for their own sake, are left to the library's forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPTNeoXModel

CAPTURING = "transformers.utils.output_capturing"  # hooks of the library's own, which stay once hidden states were asked for
SIZE = 256  # tokens are padded to a multiple of this: oneDNN compiles a kernel for each size of a product


def fits(body: Any, dtype: torch.dtype) -> bool:
    """Whether `NeoX` computes what this body does: blocks in parallel, plain GELU, nothing hooked in, where it is the faster one."""
    if type(body) is not GPTNeoXModel or not _has(dtype, body.device):
        return False
    modules = list(body.modules())
    plain = sum(type(m) is nn.Linear for m in modules) == 4 * len(body.layers)
    hooks = [hook for m in modules for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    hooked = any(getattr(hook, "__module__", "") != CAPTURING for hook in hooks)
    return plain and not hooked and body.config.use_parallel_residual and body.config.hidden_act == "gelu"


def _has(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `_linear` has fast products there: on a CPU bf16 ones need instructions of their own, on a GPU fp32 ones gain nothing."""
    if device.type != "cpu":
        return dtype == torch.bfloat16
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class NeoX:
    """The body with its weights in bf16; norms and the sum over layers stay in fp32.

    Scale and shift of a norm are folded into the matrix behind it. What the first layer makes of a token before attention
    depends on the token alone: it is kept.
    """

    def __init__(self, body: GPTNeoXModel, dtype: torch.dtype = torch.bfloat16):
        self.body, self.dtype = body, dtype
        self.width, self.heads, self.eps = body.config.hidden_size, body.config.num_attention_heads, body.config.layer_norm_eps
        self.size = self.width // self.heads
        self.layers = [_Layer(layer, self.heads, dtype) for layer in body.layers]
        self.place = torch.full((body.config.vocab_size,), -1, device=body.device)  # of a token in the two tables
        self.sums = torch.empty(0, self.width, device=body.device)  # embedding and what the first layer's MLP adds, in fp32
        self.mixed = torch.empty(0, len(self.layers[0].mix), dtype=dtype, device=body.device)  # the first layer's queries, keys and values

    def __call__(self, ids: Tensor) -> Tensor:
        """States [B, T, H] in fp32, from ids [B, T]."""
        if (self.place[ids] < 0).any():
            self.add_tokens(ids)
        cosine, sine = (
            t[0, :, : t.shape[-1] // 2] for t in self.body.rotary_emb(self.sums, torch.arange(ids.shape[1], device=ids.device)[None])
        )
        turn = torch.complex(cosine.float(), sine.float())[:, None, None]
        place = F.pad(self.place[ids].flatten(), (0, -ids.numel() % (SIZE if self.dtype == torch.bfloat16 else 1)))
        x = F.embedding(place, self.sums)
        for i, layer in enumerate(self.layers):
            if i == 0:
                x += self._attention(layer, F.embedding(place, self.mixed), ids.shape, turn)
                continue
            normed = F.layer_norm(x, (self.width,), eps=self.eps).to(self.dtype)
            out = self._attention(layer, _linear(normed, layer.mix, layer.mix_bias), ids.shape, turn)
            up = _linear(normed, layer.up, layer.up_bias, "gelu")
            x += torch.addmm(out, up, layer.down, out=out)
        norm = self.body.final_layer_norm
        return F.layer_norm(x, (self.width,), norm.weight, norm.bias, self.eps)[: ids.numel()].view(*ids.shape, self.width)

    def _attention(self, layer: _Layer, mixed: Tensor, shape: torch.Size, turn: Tensor) -> Tensor:
        """[N, H] from what `_Layer.mix` makes of N tokens; turns its queries and keys in place."""
        real = mixed[: shape.numel()]
        plain = real.view(*shape, self.heads, 3, -1)
        pairs = torch.view_as_complex(plain[..., :2, : layer.turned].float().unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(torch.addcmul(layer.turning * turn, pairs, turn)).flatten(-2)
        plain[..., :2, : layer.turned] = turned
        if layer.spare:
            plain[..., 0, self.size :] = turned[..., 0, :]
            plain[..., 1, self.size :] = turned[..., 1, :] - plain[..., 1, : layer.turned]
        q, k, v = plain.permute(3, 0, 2, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.size**-0.5).transpose(1, 2).reshape(len(real), -1)
        return _linear(F.pad(read, (0, 0, 0, len(mixed) - len(real))) if len(mixed) > len(real) else read, layer.out, layer.bias)

    def add_tokens(self, ids: Tensor) -> None:
        """Fill the tables for tokens that were not seen before; all at once is faster than batch by batch."""
        new = ids.unique()
        new = new[self.place[new] < 0]
        self.place[new] = torch.arange(len(new), device=new.device) + len(self.sums)
        body: Any = self.body
        x, first = body.embed_in.weight[new], body.layers[0]
        mixed = F.linear(F.layer_norm(x, (self.width,), eps=self.eps), *self.layers[0].exact)
        x = x + F.linear(first.mlp.act(first.mlp.dense_h_to_4h(first.post_attention_layernorm(x))), first.mlp.dense_4h_to_h.weight)
        self.sums, self.mixed = torch.cat([self.sums, x]), torch.cat([self.mixed, mixed.to(self.dtype)])


class _Layer:
    """One layer's matrices as `NeoX` needs them.

    `mix` makes queries, keys and values [heads, 3, size + spare]; what turns of queries and keys stands first, in pairs that
    turn together. Turning keys have biases far larger than what a text adds to them. So their bias is added in fp32
    (`turning`), and in bf16 a turned key is kept as two numbers, the second in `spare` places, where the turned query stands
    again: else rounding keys would be most of the error, and most of its heavy tails.
    """

    def __init__(self, layer: Any, heads: int, dtype: torch.dtype):
        attention, mlp = layer.attention, layer.mlp
        weight, bias = _folded(layer.input_layernorm, attention.query_key_value)
        self.turned = attention.rotary_ndims
        self.spare = self.turned if dtype == torch.bfloat16 else 0
        weight, bias = (_paired(t.unflatten(0, (heads, 3, -1)), self.turned) for t in (weight, bias))
        self.turning = torch.view_as_complex(bias[:, :2, : self.turned].unflatten(-1, (-1, 2)).contiguous())  # [heads, 2, pairs]
        bias[:, :2, : self.turned] = 0
        self.exact = _spaced(weight, self.spare), _spaced(bias, self.spare)
        self.mix, self.mix_bias = (t.to(dtype) for t in self.exact)
        self.up, self.up_bias = (t.to(dtype) for t in _folded(layer.post_attention_layernorm, mlp.dense_h_to_4h))
        self.out = _spaced(attention.dense.weight.T.unflatten(0, (heads, 1, -1)), self.spare).T.contiguous().to(dtype)
        self.down = mlp.dense_4h_to_h.weight.to(dtype).T
        self.bias = sum(
            (b for b in (attention.dense.bias, mlp.dense_4h_to_h.bias) if b is not None), torch.zeros(len(self.out), device=self.out.device)
        ).to(dtype)


def _linear(x: Tensor, weight: Tensor, bias: Tensor, then: str = "none") -> Tensor:
    """A linear layer, perhaps with GELU, on a CPU in one kernel."""
    if x.device.type != "cpu":
        out = F.linear(x, weight, bias)
        return F.gelu(out) if then == "gelu" else out
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none" if then == "gelu" else "")


def _folded(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer that takes what the norm would scale and shift."""
    weight = linear.weight.double()
    bias = weight @ norm.bias.double()
    return (weight * norm.weight.double()).float(), (bias if linear.bias is None else bias + linear.bias.double()).float()


def _paired(t: Tensor, turned: int) -> Tensor:
    """[heads, 3, size, ...] with the halves of the first `turned` of queries and keys interleaved, which changes no product of theirs."""
    first, second = t[:, :2, :turned].chunk(2, 2)
    out = t.clone()
    out[:, :2, :turned] = torch.stack([first, second], 3).flatten(2, 3)
    return out


def _spaced(t: Tensor, spare: int) -> Tensor:
    """[heads * kinds * (size + spare), ...] from [heads, kinds, size, ...], with zeros behind."""
    return torch.cat([t, t.new_zeros(*t.shape[:2], spare, *t.shape[3:])], 2).flatten(0, 2)
