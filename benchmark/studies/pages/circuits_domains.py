"""Circuits of one domain of memories on pairs of others: what is lost against a circuit of their own domain, task by task.

In maintenance denoising induces memorised text and noising prevents it, in initiation the reverse; and noising restores more than denoising
whatever the domain. So nothing is compared across tasks or ways of patching but what each loses away from home.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....leaderboard.statistics import Estimate, mean
from ....leaderboard.study_results import AGREES, CANNOT_TELL, DISAGREES, StudyTable, Verdict, direction

Rows = Sequence[Mapping[str, Any]]
HALF = 0.5  # of the difference between clean and corrupt: what a circuit that does a task restores at least
TASKS = ("maintenance", "initiation")
PREVENTS = {"maintenance": "noised", "initiation": "denoised"}  # which way of patching keeps memorised text from coming
INDUCES = {"maintenance": "denoised", "initiation": "noised"}


def domain_verdicts(domains: Rows) -> list[Verdict]:
    """An agreement needs both tasks; units are the domains that are asked about."""
    away = {task: _over_domains(domains, task, PREVENTS[task], own=None) for task in TASKS}
    more = {task: _lost_more(domains, task) for task in TASKS}
    return [
        _in_both("Preventing memorisation transfers across corpora.", "A circuit of one corpus prevents it in another.",
                 away, "of the difference, on other domains", HALF),
        _in_both("Inducing memorisation depends on context.", "It transfers less than preventing does.",
                 more, "more lost on other domains by inducing than by preventing", 0),
    ]  # fmt: skip


def domain_table(domains: Rows) -> StudyTable:
    out = []
    for task in TASKS:
        for where in ("same", "other", "lost"):
            told: dict[str, Any] = {"task": task, "domain": where if where != "lost" else "same minus other"}
            found = {}
            for name, ways in (("prevents", PREVENTS), ("induces", INDUCES)):
                own = {"same": True, "other": None, "lost": False}[where]
                found[name] = _over_domains(domains, task, ways[task], own)
                told |= cells(name, found[name])
            if any(found.values()):
                out.append(told | {"domains": found["prevents"].count})
    caption = (
        "Circuits of the memories of one domain on test pairs of the same domain and of others: shares of the difference between clean and "
        "corrupt. A domain that is asked about counts once: of circuits of others the mean is taken; differences are of domains with "
        "both. Intervals are over seeds; of one seed over these domains, whose circuits are partly the same."
    )
    return StudyTable("Circuits across domains of memories", out, caption)


def _in_both(claim: str, published: str, found: Mapping[str, Estimate], unit: str, above: float) -> Verdict:
    each = {task: direction(claim, published, e, above=above) for task, e in found.items()}
    words = "; ".join(f"{v.measured} in {task} ({_domains(found[task].count)})" for task, v in each.items())
    says = {v.says for v in each.values()}
    return Verdict(claim, published, f"{unit}: {words}", says.pop() if says in ({AGREES}, {DISAGREES}) else CANNOT_TELL)


def _domains(count: int) -> str:
    return "1 domain" if count == 1 else f"{count} domains"


def _lost_more(domains: Rows, task: str) -> Estimate:
    """How much more inducing loses on other domains than preventing does, by seed and domain."""
    lost = [_by_domain(domains, task, ways[task], own=False) for ways in (INDUCES, PREVENTS)]
    keys = sorted(lost[0].keys() & lost[1].keys())
    return _of({key: lost[0][key] - lost[1][key] for key in keys})


def _over_domains(domains: Rows, task: str, way: str, own: bool | None) -> Estimate:
    return _of(_by_domain(domains, task, way, own))


def _of(values: Mapping[tuple[int, str], float]) -> Estimate:
    return mean([[v for (s, _), v in values.items() if s == seed] for seed in sorted({s for s, _ in values})])


def _by_domain(domains: Rows, task: str, way: str, own: bool | None) -> dict[tuple[int, str], float]:
    """(seed, domain that is asked about) -> what its own circuit does (True), others do in the mean (None), or the difference (False)."""
    mine = [r for r in domains if r["task"] == task and r[way] is not None]
    home = {(r["seed"], r["on"]): r[way] for r in mine if r["from"] == r["on"]}
    away: dict[tuple[int, str], list[float]] = {}
    for r in mine:
        if r["from"] != r["on"]:
            away.setdefault((r["seed"], r["on"]), []).append(r[way])
    if own:
        return home
    others = {key: float(np.mean(values)) for key, values in away.items()}
    return others if own is None else {key: home[key] - others[key] for key in home.keys() & others.keys()}


def cells(name: str, e: Estimate) -> dict[str, float | None]:
    """An estimate as cells of a table, none of them NaN."""
    ends = {end: v if np.isfinite(v) else None for end, v in (("low", e.low), ("high", e.high))}
    return {name: e.value if e else None, f"{name}, low": ends["low"], f"{name}, high": ends["high"]}
