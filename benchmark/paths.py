"""Where things are: the shipped configuration, the cache, and what a short name in a suite stands for."""

from __future__ import annotations

import os
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def cache_dir() -> Path:
    """Rebuildable files (corpus text, token arrays). Set PALIMPSEST_CACHE to move it."""
    return Path(os.environ.get("PALIMPSEST_CACHE") or Path.home() / ".cache" / "palimpsest")
