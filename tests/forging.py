"""Forges bundles: takes an honest one apart, changes something, and makes as much of the rest fit as a clever forger would."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from palimpsest.benchmark.common.archive import RefusedError, write_archive
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.running.store import _sha_of
from palimpsest.benchmark.submission.bundle import CARD, CONFIG, ENTRY, INFO, opened
from palimpsest.benchmark.submission.card import card, config
from palimpsest.benchmark.submission.levels import Case, verify
from palimpsest.benchmark.suites.config import Suite
from palimpsest.leaderboard.entry import entry_from

MODEL = "model.safetensors"
ON = "on npo, seed 0"
Forgery = Callable[["Forger"], Any]


@dataclass
class Forger:
    """The files of a bundle by name; `info` and `entry` are its two JSON files as plain values."""

    content: dict[str, bytes]
    info: dict[str, Any] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, bundle: Path) -> Forger:
        with zipfile.ZipFile(bundle) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        info, entry = (json.loads(content.pop(name)) for name in (INFO, ENTRY))
        for name in (CARD, CONFIG):  # made to fit the entry when the bundle is packed
            content.pop(name)
        return cls(content, info, entry)

    def stage(self, kind: str, label: str) -> str:
        """The folder of the stage of this kind whose label holds these words."""
        found = [n for n, m in self.manifests().items() if f"/{kind}/" in n and label in m["label"]]
        assert len(found) == 1, found
        return found[0].removesuffix("/manifest.json")

    def manifests(self) -> dict[str, dict[str, Any]]:
        return {n: json.loads(c) for n, c in self.content.items() if n.endswith("/manifest.json")}

    def table(self, name: str, change: Callable[[pd.DataFrame], pd.DataFrame | None], **how: Any) -> None:
        """Change a Parquet file; `how` it is written, as pandas and pyarrow take it."""
        frame = pd.read_parquet(io.BytesIO(self.content[name]))
        changed = change(frame)
        out = io.BytesIO()
        (frame if changed is None else changed).to_parquet(out, **{"index": False, **how})
        self.content[name] = out.getvalue()

    def lines(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change every line of a file of JSON lines."""
        rows = [json.loads(line) for line in self.content[name].splitlines()]
        for row in rows:
            change(row)
        self.content[name] = "".join(json.dumps(row) + "\n" for row in rows).encode()

    def manifest(self, folder: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change a manifest, which then says of itself that it is as it was written."""
        told = json.loads(self.content[f"{folder}/manifest.json"])
        change(told)
        told["sha"] = _sha_of(told)
        self.content[f"{folder}/manifest.json"] = json.dumps(told).encode()

    def sign(self) -> None:
        """Make every manifest list the files that are there now, weights aside."""
        for name in self.manifests():
            folder = name.removesuffix("/manifest.json")
            there = {n.removeprefix(folder + "/"): c for n, c in self.content.items() if n.startswith(folder + "/") and n != name}

            def change(told: dict[str, Any], there: dict[str, bytes] = there) -> None:
                kept = {n: sha for n, sha in told["files"].items() if n.endswith(MODEL)}
                told["files"] = kept | {n: hashlib.sha256(c).hexdigest()[:16] for n, c in there.items()}

            self.manifest(folder, change)

    def pack(self, to: Path, listed: bool = True) -> Path:
        """Write the bundle; `listed`: bundle.json gets the hashes of what is there now."""
        content: dict[str, bytes | Path] = {**self.content}
        told = self.content.get(ENTRY) or json.dumps(self.entry).encode()
        with suppress(UserError):  # of an entry that is none there is no card
            made = entry_from(told)
            content = {CARD: card(made).encode(), CONFIG: config(made).encode(), **content}
        content[ENTRY] = told
        if listed:
            files = {n: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for n, c in content.items() if isinstance(c, bytes)}
            self.info["files"] = {n: f for n, f in files.items() if n != INFO}
        content.setdefault(INFO, json.dumps(self.info).encode())
        write_archive(to, content)
        return to


def caught(file: Path, suite: Suite) -> tuple[str, str]:
    """(level, what was said) of the first thing that differs; "refused" where the file is no bundle; nothing if all agrees."""
    try:
        with opened(file) as b:
            for level, found in verify(Case(b, suite), "rescore"):
                if found.agreed is False:
                    return level, f"{found.what}: {found.seen}"
    except RefusedError as error:
        return "refused", str(error)
    return "", ""


def stage_of(f: Forger, tier: int, model: str = ON) -> str:
    """The folder of the answers of one model to the attacks of a tier."""
    return f.stage("battery", f"attacks of tier {tier} {model}")


def table_at(tier: int, change: Callable[[pd.DataFrame], pd.DataFrame | None], **how: Any) -> Forgery:
    """Change the method's answers to the attacks of a tier."""

    def forge(f: Forger) -> None:
        f.table(f"{stage_of(f, tier)}/answers.parquet", change, **how)
        f.sign()

    return forge


def many(rows: int, **columns: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """So many times the first row of a table, with these columns in place of its own."""
    return lambda t: t.iloc[[0] * rows].reset_index(drop=True).assign(**columns)


def metadata_bomb(rows: int = 7_000) -> Forgery:
    """One text in every row, each time written out: packed it is a twentieth, and the footer tells what it unpacks to."""
    return table_at(0, many(rows, prompt="x" * 19_900), use_dictionary=False)


def dictionary_bomb(rows: int = 7_000) -> Forgery:
    """The same text once, in a dictionary, and in every row its number: a few kilobytes, of which neither footer nor pages tell more."""
    return table_at(0, many(rows, prompt="x" * 19_900))


def denied_bomb(f: Forger) -> None:
    """A metadata bomb whose footer tells of columns that are small."""
    metadata_bomb()(f)
    name = f"{stage_of(f, 0)}/answers.parquet"
    told = pq.ParquetFile(io.BytesIO(f.content[name])).metadata.row_group(0)
    size = max(told.column(i).total_uncompressed_size for i in range(told.num_columns))
    footer = f.content[name].rindex(was := varint(2 * size))
    f.content[name] = f.content[name][:footer] + varint(2, len(was)) + f.content[name][footer + len(was) :]
    f.sign()


def varint(value: int, width: int = 1) -> bytes:
    """A whole number as Parquet's headers have it, in at least so many bytes."""
    digits = [value >> 7 * i & 127 for i in range(max(width, -(-value.bit_length() // 7)))]
    return bytes([*(d | 128 for d in digits[:-1]), digits[-1]])
