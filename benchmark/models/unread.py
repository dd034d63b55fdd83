"""Where a model's files and its configuration disagree about weights: which, and what mends it.

The library fills what is missing with random numbers and warns; a broken model would look like a forgetful one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..common.errors import UserError, listed

# Tables that older releases of the library saved beside the weights and now compute anew: masks, rotations, positions.
COMPUTED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids)$")
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel or DeepSpeed",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "base_model.model.": "peft",
    "_forward_module.": "Lightning Fabric",
}
PACKED = (".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".SCB", ".absmax", ".quant_map", ".weight_scale_inv")


def complain(where: str, model: Any, found: Mapping[str, Any]) -> None:
    """Raise if some weights of a model were not read as they stand in its files. `found` is the library's own account."""
    missing, unexpected = set(found["missing_keys"]), {k for k in found["unexpected_keys"] if not COMPUTED.search(k)}
    shapes = {name: (tuple(there), tuple(here)) for name, there, here in found["mismatched_keys"]}
    said = []
    if missing:
        said.append(f"{len(missing)} weights of the model are not in its files ({listed(sorted(missing))})")
    if unexpected:
        said.append(f"{len(unexpected)} in its files are not the model's ({listed(sorted(unexpected))})")
    if shapes:
        some = listed(f"{k} is {there}, expected {here}" for k, (there, here) in sorted(shapes.items()))
        said.append(f"{len(shapes)} have another shape than config.json gives them ({some})")
    if said:
        cure = _cure(model, missing, unexpected, shapes)
        raise UserError(f"{where} does not hold the {type(model).__name__} that it describes: {'; '.join(said)}. {cure}")


def _cure(model: Any, missing: set[str], unexpected: set[str], shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    if any(0 in there for there, _ in shapes.values()):
        return (
            "Empty tensors are what one rank of ZeRO-3 has of a weight: gather them with zero_to_fp32.py, or save with "
            "stage3_gather_16bit_weights_on_model_save."
        )
    if any(".lora_" in k or ".base_layer." in k for k in unexpected):
        return "Adapters stand beside the weights: merge them (merge_and_unload) and save again, or bring the adapter's own folder."
    if any(k.endswith(PACKED) for k in unexpected):
        return "These are quantised weights, of which config.json says nothing: bring the original config.json, or dequantised weights."
    for part, wrapper in WRAPPERS.items():
        if any(part in k and k.replace(part, "") in missing for k in unexpected):
            return f"{part!r} in the names is the work of a wrapper ({wrapper}): save the model inside it, or strip it from the names."
    if missing == _head(model) and not unexpected and not shapes:
        return "If the head is the embeddings' matrix, config.json should say tie_word_embeddings: true; else the file is incomplete."
    said = int(model.config.get_text_config().vocab_size)
    if rows := {there[0] for there, here in shapes.values() if there and there[1:] == here[1:] and here[0] == said}:
        return f"config.json says vocab_size={said}, the weights have {listed(map(str, sorted(rows)))} rows: one belongs to another model."
    return "Bring the config.json that belongs to these weights, or save the model again with save_pretrained."


def _head(model: Any) -> set[str]:
    head = model.get_output_embeddings()
    return {name for name, p in model.named_parameters() if head is not None and p is head.weight}
