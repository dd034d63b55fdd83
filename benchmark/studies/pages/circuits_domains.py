"""Circuits of one domain of memories on pairs of others: what is lost against a circuit of their own domain, task by task.

In maintenance denoising induces memorised text and noising prevents it, in initiation the reverse; and noising restores more than denoising
whatever the domain. So nothing is compared across tasks or ways of patching but what each loses away from home.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....leaderboard.statistics import Estimate, mean
from ....leaderboard.study_results import AGREES, CANNOT_TELL, DISAGREES, StudyTable, Verdict, direction, said

Rows = Sequence[Mapping[str, Any]]
HALF = 0.5  # of the difference between clean and corrupt: what a circuit that does a task restores at least
TASKS = ("maintenance", "initiation")
PREVENTS = {"maintenance": "noised", "initiation": "denoised"}  # which way of patching keeps memorised text from coming
FEW = 10  # test pairs of a task, below which nothing is sure
INDUCES = {"maintenance": "denoised", "initiation": "noised"}


def domain_verdicts(domains: Rows, tests: Rows) -> list[Verdict]:
    """An agreement needs both tasks, enough pairs in both, and more than random edges do; units are the domains that are asked about."""
    random = {task: _of_random(tests, task, PREVENTS[task]) for task in TASKS}
    away = {task: _over_domains(domains, task, PREVENTS[task], own=None) for task in TASKS}
    more = {task: _lost_more(domains, task) for task in TASKS}
    return [
        _in_both("Preventing memorisation transfers across corpora.", "A circuit of one corpus prevents it in another.",
                 domains, away, "of the difference, on other domains", HALF, random),
        _in_both("Inducing memorisation depends on context.", "It transfers less than preventing does.",
                 domains, more, "more lost on other domains by inducing than by preventing", 0, {}),
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


def _in_both(
    claim: str, published: str, domains: Rows, found: Mapping[str, Estimate], unit: str, above: float, random: Mapping[str, Estimate]
) -> Verdict:
    each = {task: direction(claim, published, e, above=above) for task, e in found.items()}
    words = "; ".join(f"{v.measured} in {task} ({_asked(domains, task)}{_beside(random.get(task))})" for task, v in each.items())
    says = {v.says for v in each.values()}
    enough = all(_pairs(domains, task) >= FEW for task in TASKS)
    by_chance = any(control and not found[task].low > control.high for task, control in random.items())
    sure = says == {DISAGREES} or (says == {AGREES} and not by_chance)
    return Verdict(claim, published, f"{unit}: {words}", says.pop() if sure and enough else CANNOT_TELL)


def _asked(domains: Rows, task: str) -> str:
    return f"{_pairs(domains, task)} test pairs of {len({r['on'] for r in domains if r['task'] == task})} domains"


def _pairs(domains: Rows, task: str) -> int:
    """Test pairs, all seeds and domains together."""
    return sum({(r["seed"], r["on"]): r["pairs"] for r in domains if r["task"] == task}.values())


def _beside(random: Estimate | None) -> str:
    return f"; random edges {said(random)}" if random else ""


def _of_random(tests: Rows, task: str, way: str) -> Estimate:
    """What random circuits of the sizes that were chosen do, by seed."""
    mine = [r for r in tests if r["on"] == task and r["circuit"] == "random" and r[way] is not None]
    return mean([[r[way] for r in mine if r["seed"] == seed] for seed in sorted({r["seed"] for r in mine})])


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
