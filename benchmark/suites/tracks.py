"""What was tuned for a track: configs/tracks/TRACK.yaml holds methods' fields, TRACK-tuning.csv every trial behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..common.errors import unknown
from ..common.paths import CONFIGS
from ..common.written import read_yaml

TRACKS = CONFIGS / "tracks"
HEAD = (
    "# Written by `palimpsest tune --write`: method -> the fields chosen by the rule of docs/metrics.md. Every trial: {track}-tuning.csv\n"
)


def tuned(track: str) -> dict[str, dict[str, Any]]:
    """Method -> the fields chosen for this track, which stand in for the method's own defaults. No track: none."""
    if not track:
        return {}
    file = TRACKS / f"{track}.yaml"
    if not file.is_file():
        raise unknown("track", track, [f.stem for f in TRACKS.glob("*.yaml")])
    return read_yaml(file) or {}


def write(track: str, method: str, fields: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> None:
    """Put a method's chosen fields (none: it keeps its own defaults) and its trials in place of its earlier ones.

    Trials that another rule chose from stay in the log.
    """
    chosen, table = TRACKS / f"{track}.yaml", TRACKS / f"{track}-tuning.csv"
    fields_of = (tuned(track) if chosen.is_file() else {}) | {method: dict(fields)}
    lines = [f"{name}: {{{', '.join(f'{k}: {v}' for k, v in given.items())}}}\n" for name, given in sorted(fields_of.items()) if given]
    chosen.write_text(HEAD.format(track=track) + "".join(lines), "utf-8")
    rows = pd.DataFrame([{"method": method, **t} for t in trials])
    if table.is_file():
        before = pd.read_csv(table)
        again = (before["method"] == method) & before["rule"].isin(rows["rule"])
        rows = pd.concat([before[~again], rows]).sort_values(["method", "rule"], kind="stable")
    rows.to_csv(table, index=False, float_format="%.4g", lineterminator="\n")
