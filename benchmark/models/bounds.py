"""What a model's configuration and tokenizer say about which rows it can read: known before any weight is loaded."""

from __future__ import annotations

from typing import Any

from ..common.errors import UserError


def positions(config: Any) -> int | None:
    """How many tokens a model reads alike in one pass and one by one; None if its configuration names no limit.

    Rotary positions that are stretched as a context grows (dynamic NTK, longrope) turn what was read before by other
    angles than a pass over the whole, so those models are read within the context that is never stretched.
    """
    text = of_text(config)
    most = getattr(text, "max_position_embeddings", None)
    given = getattr(text, "rope_parameters", None) or {}
    for rope in [given, *(v for v in given.values() if isinstance(v, dict))]:
        if rope.get("rope_type") == "longrope":
            most = min(n for n in (most, rope.get("original_max_position_embeddings")) if n is not None)
    return most


def of_text(config: Any) -> Any:
    """The configuration of the language model in a multimodal one."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def mixes(config: Any) -> bool:
    """Whether the model is a mixture of experts: a router that turns in bf16 changes all that follows, by more than any gate expects."""
    given = of_text(config).to_dict().items()
    return any("expert" in name and name.split("_")[0] in ("num", "n", "moe") and isinstance(n, int) and n > 1 for name, n in given)


def require_positions(subject: Any, tokens: int, why: str) -> None:  # a Subject, whose module imports this one
    """Refuse a model that has no position for some of `tokens` tokens, or no embedding for some of its tokenizer's."""
    for config in subject.configs:
        name = f"{type(config).__name__.removesuffix('Config')} in {subject.folder}"
        most = positions(config)
        if most is not None and tokens > most:
            stretched = (
                "" if most == getattr(of_text(config), "max_position_embeddings", most) else " before its rotary positions are stretched"
            )
            raise UserError(f"{name} reads at most {most} tokens{stretched}; {why} takes {tokens}. Lower row, or use another model.")
        size = of_text(config).vocab_size
        if strange := beyond(subject.tokenizer, size):
            raise UserError(
                f"{name} has {size} tokens, and its tokenizer {len(strange)} more, such as {strange[0]!r}: these are not of one model. "
                "Put the model's own tokenizer beside it."
            )


def beyond(tokenizer: Any, size: int) -> list[str]:
    """Tokens that texts may become and a vocabulary of `size` does not have; special tokens stand in no text."""
    special = {i for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    leads = {tokenizer.eos_token_id, *tokenizer("a")["input_ids"]}
    return [token for token, i in tokenizer.get_vocab().items() if i >= size and (i not in special or i in leads)]
