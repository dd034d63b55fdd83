"""Forged bundles whose archive or JSON is not what it should be: nothing more of them is read."""

from __future__ import annotations

import json
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.running.plan import Run
from tests.forging import Forger, Forgery, caught

Make = Callable[[Path, Path], Any]

# ---- the archive


def zipped(honest: Path, to: Path, *more: tuple[zipfile.ZipInfo | str, bytes], how: int = zipfile.ZIP_DEFLATED) -> None:
    to.write_bytes(honest.read_bytes())
    with warnings.catch_warnings(), zipfile.ZipFile(to, "a", how) as out:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, data in more:
            out.writestr(name, data)


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted(honest: Path, to: Path) -> None:
    zipped(honest, to, ("zz", b"secret"))
    data = bytearray(to.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        where = data.rindex(mark) + at
        data[where : where + 2] = struct.pack("<H", 1)
    to.write_bytes(data)


def in_each_other(honest: Path, to: Path) -> None:
    """Ten names for the one file of weights: every member of the list tells the same place."""
    zipped(honest, to)
    data = to.read_bytes()
    with zipfile.ZipFile(to) as archive:
        at, weights = archive.start_dir, archive.getinfo("weights/0/model.safetensors")
    begin = data.rindex(weights.filename.encode()) - 46
    member = data[begin : begin + 46 + len(weights.filename)]
    more = b"".join(member.replace(b"weights/0/", f"weights/{i}/".encode()) for i in range(1, 10))
    listed, end = data[at:-22] + more, bytearray(data[-22:])
    end[8:12] = struct.pack("<HH", *(2 * [struct.unpack("<H", end[10:12])[0] + 9]))
    end[12:16] = struct.pack("<I", len(listed))
    to.write_bytes(data[:at] + listed + end)


def long_list(honest: Path, to: Path) -> None:
    """A list of members that says that it takes seventeen mebibytes."""
    data = bytearray(honest.read_bytes())
    data[-10:-6] = struct.pack("<I", 17 << 20)
    to.write_bytes(bytes(17 << 20) + data)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda h, to: zipped(h, to, ("../../evil.py", b"")), "leads out of the archive"),
        (lambda h, to: zipped(h, to, ("/etc/cron.d/evil", b"")), "no relative path"),
        (lambda h, to: zipped(h, to, ("stages\\..\\evil", b"")), "no relative path"),
        (lambda h, to: zipped(h, to, ("C:evil", b"")), "no relative path"),
        (lambda h, to: zipped(h, to, (link("card.txt"), b"/etc/passwd")), "is a symbolic link"),
        (lambda h, to: zipped(h, to, ("stages/bomb", b"\0" * 20_000_000)), "decompression bomb"),
        (lambda h, to: zipped(h, to, *((f"f{i}", b"") for i in range(20_001))), "expected at most 20,000"),
        (lambda h, to: zipped(h, to, ("entry.json", b"{}")), "entry.json stands twice"),
        (lambda h, to: zipped(h, to, ("odd", b"x"), how=zipfile.ZIP_LZMA), "compressed in an odd way"),
        (encrypted, "is encrypted"),
        (in_each_other, "some lie in others (a decompression bomb?)"),
        (long_list, "has a list of 17,825,792 bytes of what is in it"),
        (lambda h, to: to.write_bytes(h.read_bytes()[:-300]), "no zip file"),
        (lambda h, to: to.write_bytes(b"not a bundle"), "no zip file"),
    ],
)
def test_an_archive_that_plays_tricks_is_refused(
    make_it: Callable[[Path, Path], Any], message: str, honest: Path, clean: Run, tmp_path: Path
) -> None:
    make_it(honest, tmp_path / "forged.zip")
    level, said = caught(tmp_path / "forged.zip", clean.suite)
    assert level == "refused"
    assert message in said
    assert not (tmp_path.parent / "evil.py").exists()


def raw(name: str, change: Callable[[str], str]) -> Forgery:
    """Write one of the two JSON files as no JSON writer would."""

    def forge(f: Forger) -> None:
        text = json.dumps(f.entry if name == "entry.json" else f.info)
        changed = change(text)
        assert changed != text
        f.content[name] = changed.encode()

    return forge


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (raw("entry.json", lambda t: t.replace('"kept": {', '"kept": {"value": 0.5, ', 1)), "the key 'value' stands twice"),
        (raw("entry.json", lambda t: t.replace('"learnt": ', '"learnt": NaN, "x": ')), "NaN, which is no JSON number"),
        (raw("entry.json", lambda t: "[" * 50_000), "is nested too deeply"),
        (raw("bundle.json", lambda t: '{"surprise": 1, ' + t[1:]), "There is no field named 'surprise'"),
        (lambda f: f.info.update(schema=7), "schema 7; expected 1"),
        (lambda f: f.info.update(seeds="0"), "seeds: expected a list"),
        (lambda f: f.info["method"].update(module="a.b.c.d.e", file="x.py"), "'x.py' is not where the module 'a.b.c.d.e' lies"),
        (lambda f: f.info["method"].update(file="deep/x.py"), "'deep/x.py' is not where"),
        (lambda f: f.info["method"].update(name="retrain", file="mine.py"), "'retrain' is the name of a reference"),
        (lambda f: f.info.update(device="abacus"), "expected cpu or cuda"),
        (lambda f: f.entry.update(code="javascript:alert(1)"), "an address that begins with https"),
        (lambda f: f.entry.update(doc=os.urandom(9 << 20).hex()), "expected at most 16,777,216"),
        (lambda f: f.entry["memories"]["by_seed"][0]["lengths"].update(prefix=[10**9] * 4), "expected 0 to 64 tokens"),
    ],
)
def test_json_that_is_not_strict_is_refused(forge: Forgery, message: str, honest: Path, clean: Run, tmp_path: Path) -> None:
    f = Forger.of(honest)
    forge(f)
    level, said = caught(f.pack(tmp_path / "forged.zip"), clean.suite)
    assert level == "refused"
    assert message in said
