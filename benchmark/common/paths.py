"""Where things are: the shipped configuration, the cache, and what a short name in a suite stands for."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile

from .errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def cache_dir() -> Path:
    """Rebuildable files (corpus text, token arrays). Set PALIMPSEST_CACHE to move it."""
    return Path(os.environ.get("PALIMPSEST_CACHE") or Path.home() / ".cache" / "palimpsest")


def writable(file: Path) -> None:
    """Make the folder of a file that is to be written later; refuse now what would be refused then."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}. Name a file in a folder that can be written to.") from None
    if file.is_dir():
        raise UserError(f"{file} is a folder; name a file.")
