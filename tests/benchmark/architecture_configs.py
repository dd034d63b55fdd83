"""Every architecture of the page in docs, tiny: its configuration in the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as hf

SHAPE = {
    "vocab_size": 4096, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 128,
}  # fmt: skip
GROUPED = SHAPE | {"num_key_value_heads": 2}
HEADS = GROUPED | {"head_dim": 8}
OLD = {"vocab_size": 4096, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
FALCON = {"vocab_size": 4096, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GEMMA3 = HEADS | {"sliding_window": 24, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]}
SEEING = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 28, "patch_size": 14,
}  # fmt: skip
MAMBA2 = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 16}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "Llama": lambda: hf.LlamaConfig(**GROUPED),
    "Llama, tied": lambda: hf.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "Llama, Llama-3 rope": lambda: hf.LlamaConfig(**GROUPED, rope_parameters=LLAMA3),
    "Llama, dynamic NTK rope": lambda: hf.LlamaConfig(**GROUPED, rope_parameters=DYNAMIC),
    "Mistral, sliding window": lambda: hf.MistralConfig(**GROUPED, sliding_window=24),
    "Qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "Qwen3": lambda: hf.Qwen3Config(**HEADS),
    "Gemma": lambda: hf.GemmaConfig(**HEADS),
    "Gemma 2": lambda: hf.Gemma2Config(
        **HEADS, final_logit_softcapping=5.0, attn_logit_softcapping=10.0, sliding_window=24, query_pre_attn_scalar=8
    ),
    "Gemma 3": lambda: hf.Gemma3TextConfig(**GEMMA3),
    "Gemma 3, multimodal": lambda: hf.Gemma3Config(text_config=GEMMA3, vision_config=SEEING),
    "Phi": lambda: hf.PhiConfig(**SHAPE),
    "Phi-3": lambda: hf.Phi3Config(**GROUPED, pad_token_id=0),
    "OPT": lambda: hf.OPTConfig(
        vocab_size=4096, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, max_position_embeddings=128,
        word_embed_proj_dim=32,
    ),
    "Falcon, ALiBi": lambda: hf.FalconConfig(**FALCON, alibi=True, new_decoder_architecture=False, multi_query=False, parallel_attn=False),
    "Falcon, rotary": lambda: hf.FalconConfig(**FALCON, alibi=False, new_decoder_architecture=True, num_kv_heads=2),
    "BLOOM": lambda: hf.BloomConfig(vocab_size=4096, hidden_size=32, n_layer=2, n_head=4),
    "GPT-2": lambda: hf.GPT2Config(**OLD),
    "GPT-J": lambda: hf.GPTJConfig(**OLD, rotary_dim=4),
    "GPT-Neo": lambda: hf.GPTNeoConfig(
        vocab_size=4096, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_position_embeddings=128, window_size=24,
        attention_types=[[["global", "local"], 1]],
    ),
    "GPT-NeoX": lambda: hf.GPTNeoXConfig(**SHAPE),
    "GPT-NeoX, serial": lambda: hf.GPTNeoXConfig(**SHAPE, use_parallel_residual=False),
    "GPT-NeoX, tied": lambda: hf.GPTNeoXConfig(**SHAPE, tie_word_embeddings=True),
    "GPT-NeoX, no bias": lambda: hf.GPTNeoXConfig(**SHAPE, attention_bias=False),
    "Mixtral": lambda: hf.MixtralConfig(**GROUPED, num_local_experts=4),
    "Qwen3-MoE": lambda: hf.Qwen3MoeConfig(**HEADS, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
    "GPT-OSS": lambda: hf.GptOssConfig(
        **HEADS, num_local_experts=4, num_experts_per_tok=2, sliding_window=24, layer_types=["sliding_attention", "full_attention"]
    ),
    "OLMo 2": lambda: hf.Olmo2Config(**GROUPED, pad_token_id=0),
    "Mamba": lambda: hf.MambaConfig(vocab_size=4096, hidden_size=32, num_hidden_layers=2, state_size=8),
    "Mamba-2": lambda: hf.Mamba2Config(
        vocab_size=4096, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=2, chunk_size=16
    ),
    "RWKV": lambda: hf.RwkvConfig(
        vocab_size=4096, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=64, rescale_every=1
    ),
    "RecurrentGemma": lambda: hf.RecurrentGemmaConfig(
        vocab_size=4096, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1, intermediate_size=64,
        lru_width=32, attention_window_size=24, logits_soft_cap=5.0, block_types=["recurrent", "recurrent", "attention"],
    ),
    "Falcon-H1": lambda: hf.FalconH1Config(**GROUPED, **MAMBA2, lm_head_multiplier=0.25),
    "LFM2": lambda: hf.Lfm2Config(**GROUPED, block_ff_dim=64, full_attn_idxs=[1], conv_L_cache=3),
    "Cohere": lambda: hf.CohereConfig(**GROUPED, logit_scale=0.0625),
    "Granite": lambda: hf.GraniteConfig(**GROUPED, logits_scaling=8.0),
}  # fmt: skip
