"""Forged bundles that the level `schema` catches: it computes nothing, and looks at every file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.submission.card import former_card
from palimpsest.leaderboard.entry import entry_from
from tests.forging import Forger, Forgery, caught, denied_bomb, dictionary_bomb, many, metadata_bomb, stage_of, table_at


def huge_array(f: Forger) -> None:
    """Readings whose header promises far more numbers than there are."""
    name = f"{stage_of(f, 0)}/tokens.safetensors"
    header = json.dumps({"rank/x": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    f.content[name] = len(header).to_bytes(8, "little") + header
    f.sign()


def quality_nan(f: Forger) -> None:
    f.lines(f"{f.stage('quality', 'npo')}/quality.jsonl", lambda row: row.update(value=float("nan")))
    f.sign()


def quality_beyond(number: str) -> Forgery:
    """A value that no float can hold."""

    def forge(f: Forger) -> None:
        name = f"{f.stage('quality', 'npo')}/quality.jsonl"
        f.lines(name, lambda row: row.update(value="here"))
        f.content[name] = f.content[name].replace(b'"here"', number.encode())
        f.sign()

    return forge


def in_stage(kind: str, name: str, change: Callable[[bytes], bytes]) -> Forgery:
    """Change a file of a stage of the method."""

    def forge(f: Forger) -> None:
        folder = stage_of(f, 0) if kind == "battery" else f.stage(kind, "npo")
        f.content[f"{folder}/{name}"] = change(f.content[f"{folder}/{name}"])
        if name != "manifest.json":
            f.sign()

    return forge


def odd_remarks(content: bytes) -> bytes:
    """Readings whose header has a number for remarks, on which the library that reads them would stumble."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = json.dumps(header | {"__metadata__": 5}).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + int.from_bytes(content[:8], "little") :]


def remote_code(f: Forger) -> None:
    name = f"{f.stage('method', 'npo')}/config.json"
    f.content[name] = json.dumps(json.loads(f.content[name]) | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}).encode()
    f.sign()


def renamed(f: Forger) -> None:
    """The twin's stage under the name of the method's."""
    mine, other = stage_of(f, 0), stage_of(f, 0, "on twin, seed 0")
    for name in [n for n in f.content if n.startswith(other + "/")]:
        f.content[name.replace(other, mine)] = f.content[name]
    f.manifest(mine, lambda told: told.update(key=mine.rpartition("/")[2]))


def swapped_weights(f: Forger) -> None:
    weights = load(f.content["weights/0/model.safetensors"])
    f.content["weights/0/model.safetensors"] = save({k: v + np.float32(1) for k, v in weights.items()})


def with_file(name: str, data: bytes) -> Forgery:
    return lambda f: f.content.update({name: data})


def other_weights(f: Forger) -> None:
    """A hash of weights of which the stages know nothing, wherever it stands."""
    for told in (f.info["weights"], f.entry["hashes"]["weights"]):
        told["0"] = "a" * 64


def verified_by_author(f: Forger) -> None:
    f.entry["verified"] = {"level": "retrain", "date": "2026-11-26", "by": "me", "bundle": "0" * 64, "values": f.entry["claimed"]}


SCHEMA: dict[str, tuple[Forgery, str]] = {
    "a file that is not listed": (lambda f: f.content.update({"stages/battery/extra": b""}), "is not listed"),
    "a changed file": (lambda f: f.content.update({"card.md": b"# The best method"}), "card.md is not as listed"),
    "a card that boasts": (lambda f: f.content.update({"card.md": b"# The best method"}), "card.md says something else"),
    "a pickle for weights": (with_file("weights/0/pytorch_model.bin", b"\x80\x04."), "only safetensors are read"),
    "a pickle in a stage": (lambda f: with_file(f"{stage_of(f, 0)}/cache.pkl", b"\x80\x04.")(f), "no kind of file that a stage leaves"),
    "code beside a model": (lambda f: with_file(f"{f.stage('method', 'npo')}/modeling.py", b"import os")(f), "no kind of file"),
    "a configuration that names code": (remote_code, "names code of its own (auto_map)"),
    "an array larger than its file": (huge_array, "expected one of at most 100,000 numbers"),
    "a text of a megabyte": (table_at(0, lambda t: t.assign(prompt="x" * 2**20)), "a text of more than 20,000 characters"),
    "a length beyond the horizon": (table_at(0, lambda t: t.assign(matched=65)), "a matched length of 65 of 64"),
    "a column more": (table_at(0, lambda t: t.assign(remark="")), "has the columns"),
    "a column of another type": (table_at(0, lambda t: t.assign(matched=t.matched.astype(float))), "column matched holds double"),
    "an empty cell": (table_at(0, lambda t: t.assign(variant=t.variant.where(t.variant != "opening"))), "column variant has empty cells"),
    "a text in every row": (metadata_bomb(), "bytes, as its footer tells; expected at most 134,217,728 (a decompression bomb?)"),
    "a text in every row, and a footer that denies it": (denied_bomb, "bytes, as its pages tell; expected at most 134,217,728"),
    "a text once, for every row": (dictionary_bomb(), "bytes, with its texts written out; expected at most 134,217,728"),
    "texts that share their beginning": (
        table_at(0, many(1000, prompt="x" * 19_900), use_dictionary=False, column_encoding={"prompt": "DELTA_BYTE_ARRAY"}),
        "a page with an odd encoding (7)",
    ),
    "an odd codec": (table_at(0, many(9), compression="zstd"), "is compressed in an odd way (ZSTD)"),
    "too many rows": (table_at(0, many(500_001)), "has 500,001 rows in 1 groups; expected at most 500,000"),
    "too many groups of rows": (table_at(0, many(1_001), row_group_size=1), "is no Parquet table that can be read"),
    "a column kept as an index": (
        table_at(0, lambda t: t.set_index("memory")[[*t.columns[1:]]], index=True), "has the columns attack",
    ),
    "a table that is none": (in_stage("battery", "answers.parquet", lambda c: c[:-1] + b"?"), "is no Parquet table that can be read"),
    "a number beyond all": (quality_beyond("1e999"), "holds 1e999, which is no JSON number"),
    "a number of 400 digits": (quality_beyond("1" + "0" * 400), "which is no JSON number"),
    "a manifest of brackets": (in_stage("method", "manifest.json", lambda c: b"[" * 50_000), "is nested too deeply"),
    "lines without end": (in_stage("quality", "quality.jsonl", lambda c: c + b"\n" * 100_000), "has more than 100,000 lines"),
    "remarks that are none": (in_stage("battery", "tokens.safetensors", odd_remarks), "its __metadata__ is no object of texts"),
    "NaN in quality": (quality_nan, "holds NaN"),
    "a stage without its file": (lambda f: f.content.pop(f"{stage_of(f, 0)}/answers.parquet"), "answers.parquet is missing"),
    "an edited record, its hash left": (
        lambda f: f.table(f"{stage_of(f, 1)}/answers.parquet", lambda t: t.assign(matched=0, variant="v")), "answers.parquet was changed",
    ),
    "an edited quality file, its hash left": (
        lambda f: f.lines(f"{f.stage('quality', 'npo')}/quality.jsonl", lambda row: row.update(value=0.1)), "quality.jsonl was changed",
    ),
    "an edited manifest": (
        lambda f: f.content.update(
            {(n := f"{f.stage('method', 'npo')}/manifest.json"): f.content[n].replace(b'"seconds"', b'"second"')}
        ), "it is not as it was written",
    ),
    "the stage of another model under this one's name": (renamed, "its key is not that of its inputs"),
    "another version of the code": (lambda f: f.entry["versions"]["kinds"].update(battery=1), "battery was made by version 1"),
    "code with changes of its own": (lambda f: f.entry["versions"].update(dirty=True), "changes of its own (dirty)"),
    "a commit that nobody has": (lambda f: f.entry["versions"].update(commit="d" * 40), "is not in your checkout"),
    "swapped weights": (swapped_weights, "the file is not that of its hash"),
    "weights of another model, hash and all": (other_weights, "is no model of these stages"),
    "another method in the entry": (lambda f: f.entry.update(method="simnpo"), "method: npo, and in the entry simnpo"),
    "a verification by the author": (verified_by_author, "says already that it was verified"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMA)
def test_schema_catches(name: str, honest: Path, clean: Run, tmp_path: Path) -> None:
    forge, message = SCHEMA[name]
    f = Forger.of(honest)
    listed = dict(f.info["files"])
    forge(f)
    if name in ("a file that is not listed", "a changed file"):
        f.info["files"] = listed
        f.pack(tmp_path / "forged.zip", listed=False)
    else:
        f.pack(tmp_path / "forged.zip")
    level, said = caught(tmp_path / "forged.zip", clean.suite)
    assert level == "schema", said
    assert message in said


@pytest.mark.parametrize(
    ("seeds", "message"),
    [((0, 1), "missing 1"), ((1,), "missing 1; 0 instead: seeds are not chosen"), ((0, 1, 2), "missing 1, 2")],
)
def test_missing_and_chosen_seeds_are_caught_by_schema(seeds: tuple[int, ...], message: str, honest: Path, clean: Run) -> None:
    assert caught(honest, replace(clean.suite, seeds=seeds)) == ("schema", f"seeds: {message}")


def test_a_card_of_before_is_still_a_card_of_its_entry(honest: Path, clean: Run, tmp_path: Path) -> None:
    f = Forger.of(honest)
    f.content["card.md"] = former_card(entry_from(json.dumps(f.entry))).encode()
    assert b"It saw: forget, shown, retain" in f.content["card.md"]
    assert caught(f.pack(tmp_path / "of-before.zip"), clean.suite) == ("", "")
