"""Where a model lies and how it is opened: every weight from its files, under its own name and in its own shape, or an error.

A place is a Hugging Face folder, a folder with an adapter (opened over its base and merged), or a GGUF file.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ..common.errors import UserError, first_line
from ..common.paths import CONFIGS
from ..texts.tokenizer import open_tokenizer
from .fetchable import FETCHABLE, fetched
from .finite import require_finite
from .unread import complain

ADAPTER = "adapter_model.safetensors"
# What a quantised checkpoint is unpacked with: the package's name for pip and for import. Other kinds the library unpacks, or refuses.
UNPACKS = {
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "gptq": ("gptqmodel optimum", "gptqmodel"),
    "awq": ("gptqmodel", "gptqmodel"),
    "compressed-tensors": ("compressed-tensors", "compressed_tensors"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum-quanto", "optimum"),
    "aqlm": ("aqlm", "aqlm"),
    "auto-round": ("auto-round", "auto_round"),
}


def located(name: str, revision: str | None = None) -> Path:
    """The place of a shipped model (`pocket`, `pocket/step256`), a fetched one (`smollm2`), a local folder or GGUF file, or a hub id."""
    shipped = CONFIGS / "models" / name
    if revision is None and not name.startswith((".", "/", "~")) and shipped.is_dir():
        points = sorted(shipped.glob("step*"), key=lambda p: int(p.name.removeprefix("step")))
        return points[-1] if points else shipped
    if revision is None and name in FETCHABLE:
        return fetched(name)
    if Path(name).is_dir():
        return _only_gguf(Path(name)) or Path(name)
    if name.endswith(".gguf") and Path(name).is_file():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(".gguf"):
        raise UserError(f"There is no model directory or GGUF file {name!r}.")
    return _from_hub(name, revision)


def shipped_models() -> list[str]:
    """Names of the models in configs/models."""
    folder = CONFIGS / "models"
    return sorted(str(p.parent.relative_to(folder)) for p in folder.glob("**/config.json"))


def files(place: Path) -> list[Path]:
    """What a model is read from, configuration last: what its hash is over."""
    if place.suffix == ".gguf":
        return [place]
    if is_adapter(place):
        return [place / ADAPTER, place / "adapter_config.json", *files(base_of(place))]
    return [*sorted(place.glob("*.safetensors")), place / "config.json"]


def ends_named(place: Path, file: str) -> frozenset[int]:
    """Ids that end a text by `config` or `generation_config` of a model; of an adapter, those of its base."""
    found = (base_of(place) if is_adapter(place) else place) / f"{file}.json"
    named = json_of(found).get("eos_token_id") if found.is_file() else None
    return frozenset(i for i in (named if isinstance(named, list) else [named]) if type(i) is int)


def refuse(place: Path) -> None:
    """Raise what can be known without reading weights."""
    if place.suffix == ".gguf":
        return
    weights = sorted(place.glob("*.safetensors"))
    pickled = [p.name for p in place.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"}]
    unsafe = f"its weights are pickled ({', '.join(pickled)}), which could run code" if pickled else "it has no weights"
    if (place / "adapter_config.json").is_file():
        if [w for w in weights if w.name != ADAPTER]:
            raise UserError(f"{place} holds an adapter and weights of a whole model; move adapter_config.json away, or the weights.")
        if not weights:
            raise UserError(f"{place}: {unsafe}. Expected {ADAPTER} beside adapter_config.json.")
        return refuse(base_of(place))
    if not (place / "config.json").is_file():
        raise UserError(f"{place} is not a Hugging Face model directory: it has no config.json.")
    if not weights:
        raise UserError(f"{place}: {unsafe}. Expected model.safetensors; convert with save_pretrained(..., safe_serialization=True).")
    _refuse_config(place, _object(place / "config.json"))


def load(place: Path) -> Any:
    """The model in fp32 on the CPU."""
    refuse(place)
    if is_adapter(place):
        model = _merged(place)
    else:
        model, found = _from_library(place)
        complain(str(place), model, found)
    advice = "Such a model says nothing, which is not forgetting. Training diverged, or the file is damaged: bring another checkpoint."
    require_finite(model.named_parameters(), str(place), advice)
    say_what_is_tied(model)
    return model


def tokenizer_of(place: Path) -> Any:
    """The tokenizer that lies with a model; that of the base where an adapter has none of its own."""
    if is_adapter(place) and not (place / "tokenizer_config.json").is_file():
        return tokenizer_of(base_of(place))
    return open_tokenizer(place.parent, place.name) if place.suffix == ".gguf" else open_tokenizer(place)


def config_at(place: Path) -> Any:
    """The configuration of the model at a place; no weights are read."""
    if is_adapter(place):
        return config_at(base_of(place))
    folder, more = (place.parent, {"gguf_file": place.name}) if place.suffix == ".gguf" else (place, {})
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, **more)
    except Exception as error:  # whatever a strange file makes the library say
        raise UserError(f"{place} could not be loaded as a causal language model: {first_line(error)}") from error


def say_what_is_tied(model: Any) -> None:
    """Let each configuration say that heads and embeddings are tied only where they are.

    A file may hold a head of its own though the configuration calls it tied (a merged adapter): the library reads it, and ties it later.
    """
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            pairs = part.get_expanded_tied_weights_keys()
            same = [part.get_parameter_or_buffer(a) is part.get_parameter_or_buffer(b) for a, b in pairs.items()]
            if any(same) and not all(same):
                raise UserError(
                    f"{type(part).__name__}: of the weights {', '.join(pairs)} some are tied and some are not; tie all or none."
                )
            if pairs and not any(same):
                part.config.tie_word_embeddings = False


def is_adapter(place: Path) -> bool:
    return (place / "adapter_config.json").is_file()


def base_of(adapter: Path) -> Path:
    """The place of the model that an adapter was trained on."""
    given = _object(adapter / "adapter_config.json")
    name = given.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UserError(f"{adapter}/adapter_config.json names no base model; expected base_model_name_or_path, a directory or hub id.")
    try:
        base = located(name, given.get("revision"))
    except UserError as error:
        raise UserError(f"{adapter} is an adapter over {name!r}, which cannot be opened. {error}") from None
    if is_adapter(base):
        raise UserError(f"{adapter} is an adapter over another one, {base}. Merge that into its base first (merge_and_unload).")
    return base


def json_of(file: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from None


def _object(file: Path) -> dict[str, Any]:
    content = json_of(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, not {type(content).__name__}.")
    return content


# ---- details


def _only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that has no other weights."""
    found = sorted(folder.glob("*.gguf"))
    if not found or list(folder.glob("*.safetensors")):
        return None
    if len(found) > 1:
        raise UserError(
            f"{folder} holds {len(found)} GGUF files; name one of them. Parts of one model must be merged first (llama-gguf-split --merge)."
        )
    return found[0]


def _refuse_config(place: Path, config: dict[str, Any]) -> None:
    own = sorted(k for k in config.get("auto_map") or {} if k.startswith(("AutoConfig", "AutoModel")))
    if own:
        kind = config.get("model_type")
        known = f" The library has a {kind} of its own: remove auto_map to use that." if kind in CONFIG_MAPPING else ""
        raise UserError(f"{place}/config.json names code of its own (auto_map: {', '.join(own)}), which is never run here.{known}")
    quantised = config.get("quantization_config")
    if not isinstance(quantised, dict):
        return
    method = str(quantised.get("quant_method") or "bitsandbytes").removesuffix("_4bit").removesuffix("_8bit")
    package, module = UNPACKS.get(method, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise UserError(
            f"{place} is quantised by {method}, which is not installed: pip install {package}; or bring its weights dequantised "
            "(model.dequantize() and save_pretrained, where it is)."
        )


def _from_library(place: Path) -> tuple[Any, dict[str, Any]]:
    """The model and what the library says of the names and shapes that it met."""
    folder, more = place, {}
    if place.suffix == ".gguf":
        folder, more = place.parent, {"gguf_file": place.name, "quantization_config": transformers.GgufConfig(dequantize=True)}
    with _quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **more,
            )
            model, found = loaded  # with its report, since it was asked for
            return _dequantised(model), found
        except ImportError as error:
            cure = "pip install gguf, or convert it to safetensors" if more else "install that, or bring weights that need nothing"
            raise UserError(f"{place} cannot be read without a package that is not installed: {cure}. ({first_line(error)})") from error
        except Exception as error:  # whatever a strange file makes the library say
            raise UserError(f"{place} could not be loaded as a causal language model: {first_line(error)}") from error


def _dequantised(model: Any) -> Any:
    """Ordinary weights in place of packed ones; what is trained, saved and read are numbers."""
    if getattr(model, "hf_quantizer", None) is None:
        return model
    if not getattr(model.hf_quantizer.quantization_config, "dequantize", False):
        model = model.dequantize(torch.float32)
    del model.hf_quantizer
    for part in (model, model.config):
        vars(part).pop("quantization_config", None)
    return model.float()


def _merged(place: Path) -> Any:
    """The base model with an adapter's change added in."""
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    base = load(base_of(place))
    with _quiet():
        try:
            whole: Any = get_peft_model(base, PeftConfig.from_pretrained(str(place)), autocast_adapter_dtype=False)
            read = set_peft_model_state_dict(whole, load_file(place / ADAPTER))
            missing = {k for k in read.missing_keys if ".lora_" in k or "modules_to_save" in k}
            complain(str(place), base, {"missing_keys": missing, "unexpected_keys": set(read.unexpected_keys), "mismatched_keys": set()})
            return whole.merge_and_unload().float()
        except UserError:
            raise
        except Exception as error:  # a kind of adapter that cannot be merged, or one of another model
            raise UserError(f"{place}: the adapter cannot be merged into its base {base_of(place)}: {first_line(error)}") from error


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.safetensors", "*.json", "tokenizer*", "*.txt", "*.model"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise UserError(
            f"The model {name!r} is neither shipped ({', '.join(shipped_models())}), nor to be fetched ({', '.join(FETCHABLE)}), "
            "nor a directory here, "
            f"and the hub did not give it: {first_line(error)}"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """What the library reports of a model in tables and warnings is said by our own errors."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
