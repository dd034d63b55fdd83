"""Saving a causal language model as an ordinary Hugging Face folder, and seeing that what can be read again is the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..common.errors import UserError, listed
from .finite import is_finite
from .opening import say_what_is_tied

IDS = 8  # what a model is asked to see that it answers with numbers, and with the same as another
CLOSE = 1e-4  # logits that differ by less, as a share of the largest, are the same


def write(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """A causal language model as safetensors and config.json."""
    say_what_is_tied(model)
    pairs = model.get_expanded_tied_weights_keys(all_submodels=True)  # one of two names for a tensor is written
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items() if k not in pairs}
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    except RuntimeError as error:
        if "share" not in str(error):
            raise
        raise UserError(
            f"{type(model).__name__} cannot be saved: two of its weights are one tensor, of which its architecture says nothing."
        ) from error
    config = json.loads(model.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)  # where it was loaded from is no property of the model
    config |= {"architectures": [type(model).__name__], "dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def require_same(model: Any, again: Any, dtype: torch.dtype) -> None:
    """An error unless a model that was saved in `dtype` and read again has the same weights and gives the same logits."""
    read = again.state_dict()
    lost = [k for k, v in model.state_dict().items() if k not in read or not torch.equal(read[k], v.to(dtype).to(read[k].dtype))]
    before, after = answers(model), answers(again)
    close = CLOSE if dtype == torch.float32 else torch.finfo(dtype).eps * 2**4
    apart = float((before - after).abs().max() / before.abs().max())
    if lost or not apart <= close:
        what = f"its weights {listed(lost)} differ" if lost else f"its logits differ by {apart:.1g} of the largest"
        raise UserError(f"{type(model).__name__} does not survive saving: read again, {what}. Its architecture cannot be used in a run.")


def require_answers(model: Any, where: str) -> None:
    """An error unless the logits of a short input are finite."""
    if not is_finite(answers(model)):
        raise UserError(
            f"{where}: the model's weights are finite and its logits are not (NaN or infinity). It says nothing, which is not forgetting: "
            "look for weights that are far too large, or bring an earlier checkpoint."
        )


@torch.no_grad()
def answers(model: Any) -> Tensor:
    """Logits [T, V] of a few ids."""
    rows = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, IDS + 1, device=next(model.parameters()).device) % rows
    return model(input_ids=ids[None], use_cache=False).logits[0].float()


def put(model: Any, state: dict[str, Tensor]) -> None:
    """Other weights into a model. One that has a head of its own in `state` gets it, though it was tied to the embeddings before."""
    for name, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        parent, _, leaf = name.rpartition(".")
        owner = model.get_submodule(parent)
        if name in state and source in state and not torch.equal(state[name], state[source]):
            setattr(owner, leaf, nn.Parameter(getattr(owner, leaf).detach().clone()))
    strange = model.load_state_dict(state, strict=False).unexpected_keys  # what is tied may be missing
    if strange:
        raise ValueError(f"weights that {type(model).__name__} does not have: {listed(strange, 5)}")
    say_what_is_tied(model)
