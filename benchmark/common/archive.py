"""Zip files from strangers: looked at before anything is unpacked, unpacked within limits, and nothing in them is followed or run.

Refused are names that lead out of the folder or that file systems read differently, links, two files of one name, encryption, odd
compression, and files or sums that are too large, packed or not.
"""

from __future__ import annotations

import io
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError

PART = re.compile(r"[A-Za-z0-9_@+=-][A-Za-z0-9._@+=-]*")  # of a path: no blank, no colon, no backslash, no dot at the beginning
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}  # what Windows takes for no files
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LONGEST, DEEPEST = 240, 12  # characters and folders of a name
CHUNK = 1 << 20
DIRECTORY = 16 << 20  # bytes of the list of members, which zipfile reads in one piece before anybody can count them
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every member that is written: the same content gives the same bytes
AS_IT_IS = (".safetensors", ".parquet")  # packing these gains nothing


class RefusedError(UserError):
    """A file that is not what it should be, and of which nothing more is read."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most. Sizes in bytes, unpacked."""

    files: int = 20_000
    file: int = 4 << 30
    whole: int = 16 << 30
    ratio: int = 200  # unpacked by packed, of every file above a mebibyte


class Archive:
    """A zip file whose list of members was checked. Use as a context manager."""

    def __init__(self, file: Path, limits: Limits = Limits()):
        self.file, self.limits = file, limits
        with ExitStack() as opened:
            try:
                self._zip = opened.enter_context(zipfile.ZipFile(opened.enter_context(_Sparing(io.FileIO(file)))))
            except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
                raise RefusedError(f"{file} is no zip file that can be read: {error}.") from None
            self.sizes = {m.filename: m.file_size for m in self._checked(self._zip.infolist())}
            self._opened = opened.pop_all()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self, name: str, at_most: int) -> bytes:
        """The content of a small file; more than `at_most` bytes are refused."""
        if name not in self.sizes:
            raise RefusedError(f"{self.file}: there is no {name} in it.")
        if self.sizes[name] > at_most:
            raise RefusedError(f"{self.file}: {name} has {self.sizes[name]:,} bytes; expected at most {at_most:,}.")
        return b"".join(self._chunks(name))

    def unpack(self, folder: Path) -> None:
        """Write every file into an empty folder, as plain files that nobody can run."""
        for name in self.sizes:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                for chunk in self._chunks(name):
                    out.write(chunk)

    def _chunks(self, name: str):
        """The content of a file, never more of it than the list of members says."""
        left = self.sizes[name]
        try:
            with self._zip.open(name) as member:
                while chunk := member.read(CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        break
                    yield chunk
        except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise RefusedError(f"{self.file}: {name} cannot be unpacked ({error}).") from None
        if left:
            raise RefusedError(f"{self.file}: {name} is {'longer' if left < 0 else 'shorter'} than the archive's list says.")

    def _checked(self, members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
        limits, seen, files = self.limits, set(), []
        if len(members) > limits.files:
            raise RefusedError(f"{self.file} holds {len(members):,} files; expected at most {limits.files:,}.")
        for m in members:
            if why := _odd(m, limits):
                raise RefusedError(f"{self.file}: {m.orig_filename[:LONGEST]!r} {why}.")
            if (folded := m.filename.casefold()) in seen:
                raise RefusedError(f"{self.file}: {m.filename} stands twice in it (large and small letters are one).")
            seen.add(folded)
            files.append(m)
        if inside := next((f for f in seen for p in _above(f) if p in seen), None):
            raise RefusedError(f"{self.file}: {inside} lies in what is itself a file.")
        if (whole := sum(m.file_size for m in files)) > limits.whole:
            raise RefusedError(f"{self.file} unpacks to {whole:,} bytes; expected at most {limits.whole:,}.")
        if sum(m.compress_size for m in files) > self.file.stat().st_size:
            raise RefusedError(f"{self.file}: its files are larger than it, so some lie in others (a decompression bomb?).")
        return files


class _Sparing(io.BufferedReader):
    """A file of which no more is read at once than a list of members may take."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size and size > DIRECTORY:
            raise RefusedError(f"{self.name} has a list of {size:,} bytes of what is in it; expected at most {DIRECTORY:,}.")
        return super().read(size)


def odd_name(name: str) -> str:
    """Why a name of a file in an archive is refused; "" for a plain relative path."""
    parts = name.split("/")
    if "\\" in name or ":" in name or name.startswith("/"):
        return "is no relative path with forward slashes"
    if ".." in parts or "." in parts:
        return "leads out of the archive"
    if len(name) > LONGEST or len(parts) > DEEPEST:
        return f"is too long or too deep (at most {LONGEST} characters and {DEEPEST} folders)"
    if not all(PART.fullmatch(p) and not p.endswith(".") and p.partition(".")[0].lower() not in DEVICES for p in parts):
        return "is no plain name: letters, digits and . _ - @ + =, not beginning with a dot"
    return ""


def write_archive(file: Path, content: Mapping[str, bytes | Path]) -> None:
    """Write a zip file: name -> bytes, or the file that holds them. The same content gives the same bytes; an existing file is replaced."""
    part = file.with_name(f".{file.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as out:
        for name in sorted(content):
            if why := odd_name(name):
                raise UserError(f"{name!r} {why}; it cannot stand in an archive.")
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.create_system = 3
            info.compress_type = zipfile.ZIP_STORED if name.endswith(AS_IT_IS) else zipfile.ZIP_DEFLATED
            source = content[name]
            if isinstance(source, bytes):
                out.writestr(info, source)
                continue
            info.file_size = source.stat().st_size
            with source.open("rb") as data, out.open(info, "w") as member:
                while chunk := data.read(CHUNK):
                    member.write(chunk)
    part.replace(file)


def _odd(m: zipfile.ZipInfo, limits: Limits) -> str:
    """Why a member is refused; "" if it is an ordinary file."""
    kind = stat.S_IFMT(m.external_attr >> 16)
    if m.orig_filename != m.filename:
        return "is no plain name"
    if why := odd_name(m.filename):
        return why
    if stat.S_ISLNK(kind):
        return "is a symbolic link"
    if kind not in (0, stat.S_IFREG):
        return "is no ordinary file"
    if m.flag_bits & 0x1:
        return "is encrypted"
    if m.compress_type not in METHODS:
        return "is compressed in an odd way (stored and deflated are read)"
    if m.file_size > limits.file:
        return f"has {m.file_size:,} bytes; expected at most {limits.file:,}"
    if m.file_size > CHUNK and m.file_size > limits.ratio * max(1, m.compress_size):
        return f"unpacks to {m.file_size // max(1, m.compress_size):,} times its size (a decompression bomb?)"
    return ""


def _above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]
