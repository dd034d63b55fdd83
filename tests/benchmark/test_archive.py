"""Zip files from strangers: an honest one comes out as it went in, every trick is refused by name, and nothing is written outside."""

from __future__ import annotations

import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from palimpsest.benchmark.common.archive import Archive, Limits, RefusedError, odd_name, write_archive

CONTENT = {"a.json": b"{}", "deep/b-1.parquet": b"x" * 3000, "deep/er/c.py": b"pass\n"}


def zipped(file: Path, *members: tuple[zipfile.ZipInfo | str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", how) as out:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, data in members:
            out.writestr(name, data)
    return file


def member(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def raw_name(file: Path, old: bytes, new: bytes) -> Path:
    """A name that Python would not write."""
    assert len(old) == len(new)
    file.write_bytes(file.read_bytes().replace(old, new))
    return file


def encrypted(file: Path) -> Path:
    zipped(file, ("a", b"secret"))
    data = bytearray(file.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        where = data.index(mark) + at
        data[where : where + 2] = struct.pack("<H", 1)
    file.write_bytes(data)
    return file


def cut(file: Path) -> Path:
    zipped(file, ("a", bytes(range(256)) * 50))
    file.write_bytes(file.read_bytes()[:-60])
    return file


def damaged(file: Path) -> Path:
    zipped(file, ("a", bytes(range(256)) * 50), how=zipfile.ZIP_STORED)
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(data)
    return file


def lying(file: Path) -> Path:
    """A list of members that says less than there is."""
    zipped(file, ("a", b"y" * 5000))
    data = bytearray(file.read_bytes())
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        where = data.index(mark) + at
        data[where : where + 4] = struct.pack("<I", 100)
    file.write_bytes(data)
    return file


def test_an_archive_comes_out_as_it_went_in_and_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT["deep/b-1.parquet"])
    write_archive(tmp_path / "one.zip", CONTENT)
    write_archive(tmp_path / "two.zip", dict(reversed(CONTENT.items())) | {"deep/b-1.parquet": tmp_path / "source"})
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with Archive(tmp_path / "one.zip") as archive:
        assert archive.read("a.json", 10) == b"{}"
        archive.unpack(tmp_path / "out")
    assert {f: (tmp_path / "out" / f).read_bytes() for f in CONTENT} == CONTENT
    assert not any((tmp_path / "out" / f).stat().st_mode & stat.S_IXUSR for f in CONTENT)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil", "leads out"), ("a/../../evil", "leads out"), ("/etc/passwd", "no relative path"), ("C:evil", "no relative path"),
        ("a\\..\\evil", "no relative path"), ("a/./b", "leads out"), ("a//b", "no plain name"), ("a/", "no plain name"), 
        ("", "no plain name"),
        (".git/config", "no plain name"), ("a/nul.txt", "no plain name"), ("trailing.", "no plain name"), ("new\nline", "no plain name"),
        ("ünïcode", "no plain name"), ("x" * 300, "too long"), ("a/" * 20 + "b", "too deep"),
    ],
)  # fmt: skip
def test_an_odd_name_is_refused(name: str, message: str, tmp_path: Path) -> None:
    assert message in odd_name(name)
    if name:
        with pytest.raises(RefusedError, match=message):
            Archive(zipped(tmp_path / "odd.zip", (name, b"")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: zipped(f, (member("a", stat.S_IFLNK | 0o777), b"/etc/passwd")), "symbolic link"),
        (lambda f: zipped(f, (member("a", stat.S_IFIFO | 0o644), b"")), "no ordinary file"),
        (lambda f: zipped(f, ("a", b"1"), ("a", b"2")), "a stands twice"),
        (lambda f: zipped(f, ("a", b"1"), ("A", b"2")), "A stands twice"),
        (lambda f: zipped(f, ("a", b"1"), ("a/b", b"2")), "a/b lies in what is itself a file"),
        (lambda f: zipped(f, ("a", b"\0" * 3_000_000)), "decompression bomb"),
        (lambda f: zipped(f, ("a", b"1"), how=zipfile.ZIP_BZIP2), "compressed in an odd way"),
        (lambda f: zipped(f, *((f"f{i}", b"") for i in range(11))), "holds 11 files; expected at most 10"),
        (lambda f: zipped(f, *((f"f{i}", bytes(range(256)) * 3000) for i in range(5))), "unpacks to 3,840,000 bytes"),
        (lambda f: zipped(f, ("a", bytes(range(256)) * 16_000)), "has 4,096,000 bytes; expected at most 3,000,000"),
        (lambda f: raw_name(zipped(f, ("aXb", b"")), b"aXb", b"a\0b"), "is no plain name"),
        (encrypted, "is encrypted"),
        (cut, "is no zip file"),
        (lambda f: f.write_bytes(b"PK\3\4 and then something else") and f, "is no zip file"),
    ],
)  # fmt: skip
def test_a_trick_is_refused_before_anything_is_unpacked(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=message):
        Archive(make(tmp_path / "trick.zip"), Limits(files=10, file=3_000_000, whole=3_500_000))


@pytest.mark.parametrize(("make", "message"), [(damaged, "cannot be unpacked"), (lying, "cannot be unpacked|than the archive's list says")])
def test_what_does_not_unpack_as_listed_is_refused(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with Archive(make(tmp_path / "wrong.zip")) as archive, pytest.raises(RefusedError, match=message):
        archive.unpack(tmp_path / "out")


def test_what_is_not_there_or_too_large_is_not_read(tmp_path: Path) -> None:
    write_archive(tmp_path / "one.zip", CONTENT)
    with Archive(tmp_path / "one.zip") as archive:
        with pytest.raises(RefusedError, match=r"there is no b\.json"):
            archive.read("b.json", 10)
        with pytest.raises(RefusedError, match="has 2 bytes; expected at most 1"):
            archive.read("a.json", 1)
