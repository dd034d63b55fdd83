"""Forged bundles that the level `rescore` catches, and one that only asking the model again could."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load, save

from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import canonical
from palimpsest.benchmark.submission.bundle import opened
from palimpsest.benchmark.submission.row import entry_in, row_in
from tests.forging import ON, Forger, Forgery, caught, stage_of, table_at


def copied_readings(f: Forger) -> None:
    """What the twin says of each token, as what the method says."""
    mine, other = (f"{stage_of(f, 0, m)}" for m in (ON, "on twin, seed 0"))
    for name in ("tokens.safetensors", "answers.parquet"):
        f.content[f"{mine}/{name}"] = f.content[f"{other}/{name}"]
    f.sign()


def easier(table: Any) -> Any:
    """The answers about a forget memory, from one that was never seen."""
    return table.assign(memory=table.memory.replace(table.memory.iloc[0], "somebody-else"))


def aggregate(f: Forger) -> None:
    f.entry["claimed"]["leaks"][0]["excess"]["value"] -= 1


def severity(f: Forger) -> None:
    f.entry["claimed"]["severity"][1]["over"]["high"] += 0.1


def one_length(f: Forger) -> None:
    f.entry["memories"]["by_seed"][0]["lengths"]["prefix"][0] = 63


def other_method(name: str) -> Forgery:
    def forge(f: Forger) -> None:
        f.info["method"]["name"] = f.entry["method"] = name

    return forge


def unparsable(f: Forger) -> None:
    f.content["method/mine.py"] = b"def ("
    f.info["method"].update(file="mine.py", attribute="Mine")


def quality_value(f: Forger) -> None:
    f.lines(f"{f.stage('quality', 'npo')}/quality.jsonl", lambda row: row.update(value=row["value"] * 0.9))
    f.sign()


def quality_of_digits(f: Forger) -> None:
    f.lines(f"{f.stage('quality', 'npo')}/quality.jsonl", lambda row: row.update(value=10**299))
    f.sign()


def quality_fewer(f: Forger) -> None:
    f.lines(f"{f.stage('quality', 'npo')}/quality.jsonl", lambda row: row.update(documents=row["documents"][:4]))
    f.sign()


def other_text(f: Forger) -> None:
    f.lines(f"{f.stage('excerpts', '')}/excerpts.jsonl", lambda row: row.update(truth="An easy text."))
    f.sign()


def other_inputs(kind: str, label: str, **changes: Any) -> Forgery:
    """A stage that was made with other inputs and says so."""

    def forge(f: Forger) -> None:
        folder = f.stage(kind, label)
        told = json.loads(f.content[f"{folder}/manifest.json"])
        inputs = told["inputs"] | changes
        key = hashlib.sha256(canonical({"kind": kind, "version": told["version"], **inputs}).encode()).hexdigest()[:16]
        for name in [n for n in f.content if n.startswith(folder + "/")]:
            f.content[name.replace(folder, f"stages/{kind}/{key}")] = f.content.pop(name)
        f.manifest(f"stages/{kind}/{key}", lambda m: m.update(inputs=inputs, key=key))

    return forge


def denied(f: Forger) -> None:
    f.table(f"{f.stage('checks', 'npo')}/findings.parquet", lambda t: t.assign(value=t.value + 5.0 * (t.quantity == "generated")))
    f.sign()


def without_answers(f: Forger) -> None:
    """A stage that never had a table of answers, as its manifest has it."""
    f.content.pop(f"{stage_of(f, 0)}/answers.parquet")
    f.sign()


OPENING_17 = table_at(0, lambda t: t.assign(matched=t.matched.where(t.variant != "opening", 17)))

RESCORE: dict[str, tuple[Forgery, str]] = {
    "an edited aggregate": (aggregate, "claimed.leaks[0].excess.value: claimed -"),
    "an edited severity": (severity, "claimed.severity[1].over.high: claimed "),
    "an edited length of one memory": (one_length, "memories.by_seed[0].lengths.prefix[0]: claimed 63"),
    "an edited record of the exact opening": (
        OPENING_17, "is recorded with 17 tokens, and the model's readings",
    ),
    "readings of another model": (copied_readings, "the readings of npo, seed 0 are those of twin"),
    "answers about other memories": (table_at(0, easier), "answers about somebody-else, which is no memory of this seed"),
    "a memory left out": (table_at(1, lambda t: t[t.memory != t.memory.iloc[0]]), "leaves out"),
    "memories marked as asked on top": (table_at(1, lambda t: t.assign(extra=True)), "as asked on top; expected 0"),
    "questions left out": (table_at(1, lambda t: t[t.variant != t.variant.iloc[0]]), "with other questions than none and twin"),
    "an answer twice": (table_at(1, lambda t: t.iloc[[0, *range(len(t))]]), "answers one question twice"),
    "another access level": (table_at(1, lambda t: t.assign(access="weights")), "says another access level"),
    "an altered value of quality": (quality_value, "and its documents give"),
    "quality on fewer documents": (quality_fewer, "was not asked with the same documents of every model"),
    "another text in the place of a memory": (other_text, "is shown with another prompt or truth"),
    "checks that do not fit": (denied, "which checks deny"),
    "a held model of easier memories": (other_inputs("held", "inject", memories="0" * 16), "memories changed"),
    "a method with other fields than it says": (other_inputs("method", "npo", fields={"lr": 1.0}), "fields"),
    "readings by other code": (other_inputs("battery", f"tier 1 {ON}", attacks=[]), "attacks"),
    "fields that are not those of the stage": (lambda f: f.info["method"]["fields"].update(epochs=9), "suite: "),
    "another suite than the track's": (lambda f: f.entry["config"].update(per_role=8), "per_role: 8, not 4"),
    "a stage more": (other_inputs("quality", "npo", quality={}), "quality"),
    "a file of the verifier's in the place of a method": (other_method("setup.py"), "no method of the repository named 'setup.py'"),
    "source that no parser takes": (unparsable, "cannot be parsed: SyntaxError"),
    "no answers, and a manifest that knows of none": (without_answers, "cannot be read: FileNotFoundError"),
    "a quality of 300 digits": (quality_of_digits, "and its documents give"),
    "a lower cost": (lambda f: f.entry["cost"][0].update(seconds=0.1), "cost[0].seconds: claimed 0.1"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESCORE)
def test_rescore_catches(name: str, honest: Path, clean: Run, tmp_path: Path) -> None:
    forge, message = RESCORE[name]
    f = Forger.of(honest)
    forge(f)
    level, said = caught(f.pack(tmp_path / "forged.zip"), clean.suite)
    assert level == "rescore", said
    assert message in said


def test_an_edited_record_with_every_aggregate_recomputed(honest: Path, clean: Run, tmp_path: Path) -> None:
    """Of the exact opening `rescore` sees it; of a paraphrase nothing but asking again can."""

    def forged(edit: Forgery, name: str) -> Path:
        f = Forger.of(honest)
        edit(f)
        with opened(f.pack(tmp_path / f"{name}-first.zip")) as b:
            said = {k: getattr(b.entry, k) for k in ("name", "track", "paper", "code", "date", "saw", "tuned_on", "curve")}
            entry, _ = entry_in(row_in(b, clean.suite), b.info.method, said, b.info.weights)
        f.content["entry.json"] = entry.as_json().encode()
        return f.pack(tmp_path / f"{name}.zip")

    opening = forged(OPENING_17, "opening")
    level, said = caught(opening, clean.suite)
    assert level == "rescore"
    assert "the model's readings give" in said
    paraphrase = forged(table_at(1, lambda t: t.assign(matched=3)), "paraphrase")
    assert caught(paraphrase, clean.suite) == ("", ""), "what the page says that only asking again can see"


def test_readings_that_are_not_of_the_memory_are_caught(honest: Path, clean: Run, tmp_path: Path) -> None:
    f = Forger.of(honest)
    name = f"{stage_of(f, 0)}/tokens.safetensors"
    f.content[name] = save({k: v[:-1].copy() for k, v in load(f.content[name]).items()})
    f.sign()
    level, said = caught(f.pack(tmp_path / "forged.zip"), clean.suite)
    assert level == "rescore"
    assert "the readings of" in said
