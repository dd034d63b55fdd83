"""Where results come from: the commit, the libraries and the machine, as manifests record them."""

from __future__ import annotations

import platform
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from ..common.processes import device
from ..common.sources import TREE

LIBRARIES = ("torch", "transformers", "datasets", "lm_eval", "deepspeed", "tokenizers", "numpy", "safetensors")
RECORDED = ("commit", "versions", "device", "precision")  # what a report should not mix in silence
TRAINED = ("held", "twin", "method")  # kinds whose precision changes results; readings are gated


def provenance() -> dict[str, Any]:
    """Commit and whether the tree differs from it (None outside a checkout), versions, device and threads of this process."""
    commit, dirty = _checkout()
    libraries = {name: version(name) for name in LIBRARIES}
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **libraries},
        "device": _device(),
        "threads": torch.get_num_threads(),
    }


def mixtures(manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence for each thing in which stages (label -> manifest) differ; stages that say nothing of it are left out."""
    out = []
    for what in RECORDED:
        recorded = {label: m for label, m in manifests.items() if m.get(what) and (what != "precision" or m["kind"] in TRAINED)}
        found = {label: _parts(what, m) for label, m in recorded.items()}
        differ = {k for k in dict.fromkeys(k for parts in found.values() for k in parts) if len({p.get(k) for p in found.values()}) > 1}
        made: dict[str, list[str]] = defaultdict(list)
        for label, parts in found.items():
            made[", ".join(f"{k} {v}".strip() for k, v in parts.items() if k in differ) or "none"].append(label)
        if len(made) > 1:
            those = "; ".join(f"{said}: {labels[0]}{f' and {len(labels) - 1} more' if labels[1:] else ''}" for said, labels in made.items())
            out.append(f"Not all stages were made with the same {what}. {those}.")
    return out


def _parts(what: str, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    value = manifest[what]
    if what == "commit":
        return {"": value[:10] + (" with changes of its own" if manifest.get("dirty") else "")}
    return value if isinstance(value, Mapping) else {"": value}


def _device() -> str:
    here = device()
    return f"{here.type} ({torch.cuda.get_device_name(here)})" if here.type == "cuda" else here.type


@cache
def _checkout() -> tuple[str | None, bool | None]:
    """The commit of the checkout that this code is run from, as it was when first asked."""
    try:
        top = _git("rev-parse", "--show-toplevel")
        if top != str(TREE):
            return None, None
        return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def has_commit(commit: str) -> bool | None:
    """Whether the checkout that this code is run from has a commit (40 hexadecimal digits); None outside a checkout."""
    if _checkout()[0] is None:
        return None
    try:
        return bool(_git("cat-file", "-t", commit))
    except (OSError, subprocess.SubprocessError):
        return False


def _git(*words: str) -> str:
    return subprocess.run(("git", "-C", str(TREE), *words), capture_output=True, text=True, check=True, timeout=10).stdout.strip()
