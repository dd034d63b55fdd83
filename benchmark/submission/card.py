"""What of a bundle is for people: the entry as a page, and the resolved suite as YAML. Both follow from the entry."""

from __future__ import annotations

import yaml

from ...leaderboard.entry import Entry
from ...leaderboard.entry_values import Number


def config(e: Entry) -> str:
    """The resolved suite."""
    return yaml.safe_dump(e.config, sort_keys=True, allow_unicode=True)


def card(e: Entry, seen: str = "") -> str:
    """The entry for people; `seen` takes the place of the line that says what the method may have seen."""
    v = e.claimed
    lines = [f"# {e.name}", "", f"Method `{e.method}` on {f'the track {e.track}' if e.track else 'a suite of its own'}. {e.doc}", ""]
    lines += [f"* Paper: {e.paper or 'none'}", f"* Code: {e.code or 'none'}", f"* Seeds: {', '.join(map(str, e.seeds))}"]
    lines += [
        f"* {seen or f'It may have seen: {e.may_see}'}",
        f"* Tuned on: {e.tuned_on or 'nothing'}",
        f"* Machine: {e.machine.device}, {e.machine.precision}",
    ]
    lines += ["", "| claimed | |", "|---|---|"]
    for leak in v.leaks:
        name, found = ("leak", leak.leak) if leak.leak else ("excess, tokens", leak.excess)
        lines.append(f"| {name}, {leak.access} | {_interval(found)} |")
    rows = {"exact": v.exact, "worst, tokens": v.worst_length, "damage, %": v.damage, "collateral, points": v.collateral, "kept": v.kept}
    lines += [f"| {name} | {_interval(x)} |" for name, x in rows.items()]
    return "\n".join([*lines, "", f"Made on {e.date} by palimpsest {e.versions.palimpsest}, commit {e.versions.commit}.", ""])


def former_card(e: Entry) -> str:
    """The card as it was worded until 27 November 2026, which bundles from then hold."""
    return card(e, f"It saw: {', '.join(e.saw)}")


def _interval(x: Number) -> str:
    return f"{x.value:.4g} [{x.low}, {x.high}]" if x.value is not None else f"none: {x.why}"
