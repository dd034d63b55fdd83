"""From what a run is made, as the record of a frozen track tells it, and the record of a track that is to be frozen."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..battery.shared_pass import Armed
from ..common.errors import UserError
from ..common.frozen import Frozen, MadeFrom, frozen
from ..common.sources import digest
from ..common.versions import VERSIONS
from ..running.plan import Run
from ..running.provenance import provenance
from ..running.store import Store
from ..suites.config import load_suite
from ..suites.frozen import plain_config
from ..suites.tracks import tuned
from ..texts.memories import memories_hash


def made_from(run: Run, libraries: Mapping[str, str]) -> MadeFrom:
    """What a run that is bound to its inputs is made from, with these libraries."""
    return MadeFrom(
        suite=plain_config(run.suite),
        base=run.base.hash,
        corpus=run.corpus.key,
        memories=memories_hash(run.memories),
        tokenizer=run.base.encoding,
        deepspeed=run.deepspeed["content"],
        precision=run.precision,
        kinds=dict(VERSIONS),
        libraries=dict(libraries),
        attacks=attack_hashes([*run.who.attacks, *run.who.reasked]),
    )


def attack_hashes(armed: Iterable[Armed]) -> dict[str, str]:
    """Attack -> hash of its code and of the files that it reads; its fields stand in the suite."""
    return {a.name: digest([a.plugin.source, a.plugin.read_by(a.attack)]) for a in armed}


def libraries_of(manifests: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Library -> its version in all of these stages, or its versions where they differ."""
    found: dict[str, dict[str, None]] = {}
    for m in manifests:
        for name, version in m.get("versions", {}).items():
            found.setdefault(str(name), {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in sorted(found.items())}


def record_from(track: str, store: Path) -> Frozen:
    """The record of a track as it is here: of the shipped suite of that name, in the precision that this store's models have."""
    suite, now = load_suite(track), provenance()
    if suite.track != track:
        raise UserError(
            f"The suite {track} belongs to {f'the track {suite.track}' if suite.track else 'no track'}, not to one of its own name."
        )
    if now["commit"] is None or now["dirty"]:
        raise UserError("A track is frozen from a checkout without changes of its own, since its record names the commit.")
    run = Run(replace(suite, strengths=()), Store(store))
    if not run.corpus.comparable:
        raise UserError(f"Only {run.corpus.coverage:.1%} of the corpus is installed here; a track is frozen where all of it is.")
    return frozen(track, datetime.date.today().isoformat(), now["commit"], made_from(run, now["versions"]), tuned(track))
