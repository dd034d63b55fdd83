"""Finds the entries of a folder, `TRACK/NAME.json` each, and refuses what lies there in another way."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from ...benchmark.common.errors import UserError
from ..entry import Entry, read_entry

LARGEST = 4 * 2**20  # bytes of an entry: with a hundred memories and thirty attacks it has a fortieth of that


def shelf(folder: Path) -> list[Entry]:
    """Every entry of the folder, by track and name."""
    if not folder.is_dir():
        raise UserError(f"There is no folder of entries at {folder}; name one with --entries.")
    return by_name(_entry(file, folder) for file in folder.rglob("*.json"))


def by_name(entries: Iterable[Entry]) -> list[Entry]:
    """In the order of the board. Two names that a file system may take for one are refused, since each becomes a file."""
    found = sorted(entries, key=lambda e: (e.track, e.name))
    seen: dict[str, str] = {}
    for e in found:
        if not e.track:
            raise UserError(f"entry {e.name}: it names no track; expected the name of the folder that it lies in.")
        mine = f"{e.track}/{e.name}"
        if (other := seen.setdefault(mine.lower(), mine)) is not mine:
            raise UserError(f"entries {other} and {mine}: the names must differ in more than capitals.")
    return found


def by_track(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Track -> its entries, both in order."""
    return {track: list(found) for track, found in groupby(by_name(entries), key=lambda e: e.track)}


def _entry(file: Path, folder: Path) -> Entry:
    if file.is_symlink() or not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{file}: expected a plain file within {folder}, not a link.")
    if file.stat().st_size > LARGEST:
        raise UserError(f"{file}: {file.stat().st_size / 2**20:.1f} MiB; an entry has at most {LARGEST // 2**20}.")
    entry, place = read_entry(file), file.relative_to(folder)
    if place.parts != (entry.track, f"{entry.name}.json"):
        raise UserError(
            f"{file}: it says that it is {entry.name!r} of the track {entry.track!r}; expected it at {entry.track}/{entry.name}.json."
        )
    return entry
