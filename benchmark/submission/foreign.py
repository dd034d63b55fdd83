"""Opens models that strangers made: their weights alone, from safetensors that were checked; all else is the base's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.strict import parse
from ..models.kinds import kind_from
from ..models.subject import Subject
from .bundle import LIMITS, MODEL, Bundle, sha256_of
from .files import check_safetensors
from .making import REVISION

# Fields of a configuration that say nothing about the architecture, or that differ where weights of their own were given to a tied head.
APART = {"transformers_version", "dtype", "torch_dtype", "_name_or_path", "architectures", "tie_word_embeddings"}
JSON = 8 << 20  # bytes of a configuration


def weights_file(bundle: Bundle, key: str, folder: Path) -> Path:
    """The file of the weights of SEED or SEED/PART, from the bundle or the hub, with the hash that bundle.json and the entry tell."""
    told = {bundle.info.weights.get(key, ""), bundle.entry.hashes.weights.get(key, "")}
    if len(told) > 1 or not all(told):
        raise UserError(f"weights of seed {key}: bundle.json and the entry name {' and '.join(sorted(told)) or 'none'}; expected one hash")
    file = bundle.weights(key) or (_from_hub(bundle.info.hub, key, folder) if bundle.info.hub else None)
    if file is None:
        raise UserError(f"weights of seed {key}: neither in the bundle nor named on the hub")
    if (sha := sha256_of(file)) != min(told):
        raise UserError(f"weights of seed {key}: the file has the hash {sha[:16]}; expected {min(told)[:16]}")
    return file


def adopted(source: Path, base: Subject, to: Path, weights: Mapping[str, Path] | None = None) -> Subject:
    """A subject in the empty folder `to` with the weights of a stranger's folder, and nothing else of it.

    `weights` names other files of them by part ("" for a model that is one). Configurations and tokenizer are the base's; how parts are
    combined is one of the kinds that we know, with the stranger's numbers. A part of another architecture is refused, and so are links
    and damaged files.
    """
    _adopt(source, base, to, weights)
    base.tokenizer.save_pretrained(to)
    return Subject(to)


def _adopt(source: Path, base: Subject, to: Path, weights: Mapping[str, Path] | None, at: str = "") -> None:
    to.mkdir(parents=True, exist_ok=True)
    kind = kind_from(_json(source / "subject.json"), "subject.json") if (source / "subject.json").exists() else None
    if kind is not None:
        (to / "subject.json").write_text(json.dumps(kind.spec()) + "\n")
        for part in kind.parts:
            if (source / part).is_symlink():
                raise UserError(f"{part} of the model is a link, which is not followed")
            _adopt(source / part, base, to / part, weights, f"{at}/{part}" if at else part)
        return
    file = source / MODEL if weights is None else weights.get(at)
    if file is None:
        raise UserError(f"the model has {f'a part {at}' if at else 'no parts'}, and no weights are told of {'it' if at else 'the whole'}")
    _regular(file, LIMITS.file)
    check_safetensors(file, small=False)
    shutil.copyfile(file, to / MODEL)
    (to / "config.json").write_text(json.dumps(_config(source / "config.json", base), indent=2, sort_keys=True) + "\n")


def _config(file: Path, base: Subject) -> dict[str, Any]:
    """The base's configuration; that of a stranger may only say whether head and embeddings are tied."""
    mine, theirs = json.loads(base.configs[0].to_json_string(use_diff=False)), _json(file)
    if other := sorted(k for k in mine.keys() & theirs.keys() - APART if mine[k] != theirs[k]):
        k = other[0]
        raise UserError(f"the model has another architecture than the base: {k} is {theirs[k]!r:.60}, not {mine[k]!r:.60}")
    tied = theirs.get("tie_word_embeddings")
    return mine | ({"tie_word_embeddings": tied} if isinstance(tied, bool) else {})


def _json(file: Path) -> dict[str, Any]:
    _regular(file, JSON)
    value = parse(file.read_bytes(), file.name)
    if not isinstance(value, dict):
        raise UserError(f"{file.name}: expected an object")
    return value


def _regular(file: Path, most: int) -> None:
    if file.is_symlink() or not file.is_file():
        raise UserError(f"{file.name} of the model is missing, or no ordinary file")
    if file.stat().st_size > most:
        raise UserError(f"{file.name} of the model has {file.stat().st_size:,} bytes; expected at most {most:,}")


def _from_hub(hub: str, key: str, folder: Path) -> Path:
    """The file of a hub repository at a pinned revision, fetched without any token of ours."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    found = REVISION.fullmatch(hub)
    if not found:
        raise UserError(f"hub reference {hub!r}: expected OWNER/NAME@REVISION with the 40 digits of a commit")
    name = f"{key}/{MODEL}"
    try:
        size = get_hf_file_metadata(hf_hub_url(found["ref"], name, revision=found["revision"]), token=False).size
        if size is None or size > LIMITS.file:
            raise UserError(f"{hub}: {name} has {size} bytes; expected at most {LIMITS.file:,}")
        place = folder / "hub" / key
        return Path(hf_hub_download(found["ref"], name, revision=found["revision"], token=False, local_dir=place))
    except UserError:
        raise
    except Exception as error:  # of the network, the hub or the library
        raise UserError(f"{hub}: the hub did not give {name} ({type(error).__name__}: {str(error).splitlines()[0][:120]})") from None
