"""What is stored stays as it is: files of a finished stage are read-only, and what a plug-in changed all the same is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError, listed


def read_only(folder: Path) -> None:
    """Take away the right to write to every file of a folder. The folder itself can still be deleted."""
    for file in _files(folder):
        file.chmod(file.stat().st_mode & ~0o222)


@contextmanager
def untouched(who: str, *folders: Path) -> Iterator[None]:
    """What runs inside may read these folders; a file that it changed, added or removed there is an error that names `who`.

    Permissions alone do not do: they mean nothing to root, and a file can be replaced where its folder can be written to.
    """
    before = {folder: _records(folder) for folder in folders}
    yield
    for folder, was in before.items():
        now = _records(folder)
        if changed := sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name)):
            raise UserError(
                f"{who} changed files that it may only read: {listed(changed)} in {folder}. Nothing that it returned was "
                "kept. Mend the plug-in, then delete that folder if it is a stage of the store, or restore it, and run again."
            )


def _records(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Of each file what changes with it: inode, size, time."""
    return {str(f.relative_to(folder)): (s.st_ino, s.st_size, s.st_mtime_ns) for f in _files(folder) for s in [f.stat()]}


def _files(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file()]
