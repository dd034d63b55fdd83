"""What the study `circuits` shows of its rows: tables and verdicts; the figures are in `circuits_figures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ....leaderboard.statistics import Estimate, mean
from ....leaderboard.study_results import AGREES, CANNOT_TELL, DISAGREES, OURS, Found, StudyTable, Verdict, direction, said
from ...common.types import HELD, TWIN
from .circuits_domains import HALF, TASKS, cells, domain_table, domain_verdicts
from .circuits_figures import checked_figure, sizes_figure, unlearned_figure
from .circuits_pairs import divergence_table, split_table, warnings

Rows = Sequence[Mapping[str, Any]]
NOTES = (
    "The edge count is chosen on a split that was not used for scores, and tests are on a third one; the paper's were not apart.",
    "Every edge count up to 16 and then in steps of a tenth is tried: faithfulness need not rise with it. “Dips” counts larger circuits "
    "below the bar.",
    "A circuit is said to do a task if it restores more than half of the difference between clean and corrupt there; the paper gives no "
    "bar for other tasks. That initiation circuits maintain must also hold against as many random edges, and that maintenance circuits "
    "cannot initiate against as many of the initiation circuit's edges; else size alone may be the reason. Circuits have different sizes: "
    "the table across tasks has both at both sizes.",
    "Across domains a circuit is compared with one of the domain that is asked about, task by task: noising restores more than denoising "
    "in any domain, so preventing (noising in maintenance, denoising in initiation) is compared with inducing by what each loses.",
    "Denoising keeps the clean run on the circuit alone, noising puts the corrupt run on the circuit alone. In maintenance the clean side "
    "is memorised, in initiation the corrupt one; so the same patch has the opposite effect on memorised text.",
    "Retained: what a model has above the twin, of what the held model has above the twin. 1 is all, 0 is as "
    "if never seen. No paper measured it.",
    "Restored: the edges of the held model's circuit, with what they carry there, are put into the other model; the share of its loss on "
    "memorised prompts that comes back. Beside it the same number of random edges.",
)


def page(rows: Rows, enough: float) -> Found:
    """Tables, figures and verdicts; every row carries its seed, and those of other models their name."""
    by = {kind: [r for r in rows if r["kind"] == kind] for kind in {r["kind"] for r in rows}}
    get = lambda kind: by.get(kind, [])  # noqa: E731
    retained = retained_rows(get("model"), get("behaviour"))
    tables = [
        divergence_table(get("memory")),
        split_table(get("pair")),
        _circuits(get("chosen"), get("test"), enough),
        _across_tasks(get("test")),
        domain_table(get("domain")),
        _checked(get("exact")),
        StudyTable("What unlearning removed: the circuit or only its trigger", retained, RETAINED),
        _models(get("model")),
    ]
    figures = [sizes_figure(get("size"), enough), checked_figure(get("exact")), unlearned_figure(retained)]
    verdicts = [*_verdicts(get("test"), get("domain"), get("chosen")), *map(_of_removal, retained)]
    notes = [*warnings(get("memory"), get("pair")), *_of_twin(get("model")), *NOTES]
    return Found(verdicts, [t for t in tables if t.rows], [f for f in figures if f], notes)


# ---- verdicts


def _verdicts(tests: Rows, domains: Rows, chosen: Rows) -> list[Verdict]:
    own = {name: sizes_by_seed(chosen, name) for name in TASKS}
    across = [("initiation", "maintenance"), ("maintenance", "initiation")]
    at = lambda circuit, name, on: [  # noqa: E731
        r for r in tests if r["circuit"] == circuit and r["on"] == on and r["edges"] == own[name].get(r["seed"])
    ]
    cross = {on: at(name, name, on) for name, on in across}
    random, alike = at("random", *across[0]), at("initiation", *across[1])  # of the same size as the circuit that is asked about
    smaller = [[own["maintenance"][s] - own["initiation"][s]] for s in sorted(own["maintenance"].keys() & own["initiation"].keys())]
    return [
        _unless_size(direction(
            "Initiation circuits also maintain.", "They do both tasks.", _mean(cross["maintenance"], "denoised"),
            unit="of the difference restored in maintenance", above=HALF,
        ), "random edges", random, _more(cross["maintenance"], random)),
        _unless_size(direction(
            "Maintenance circuits cannot initiate.", "They do their own task only.", _mean(cross["initiation"], "denoised"),
            unit="of the difference restored in initiation", below=HALF,
        ), "the initiation circuit's first edges", alike, _more(alike, cross["initiation"])),
        *domain_verdicts(domains, tests),
        direction(
            "Maintenance needs fewer edges than initiation.", "14 edges against 141 (faithfulness .73 reported).", mean(smaller),
            unit="edges, maintenance minus initiation", below=0,
        ),
    ]  # fmt: skip


def _of_removal(row: Mapping[str, Any]) -> Verdict:
    """Whether a method took the trigger alone."""
    name, says = row["model"], {"only the trigger": AGREES, "cannot tell": CANNOT_TELL}.get(row["removed"], DISAGREES)
    known = {k: math.nan if value is None else value for k, value in row.items()}
    shares = [Estimate(known[what], known[f"{what} low"], known[f"{what} high"]) for what in ("trigger", *TASKS)]
    left = ", ".join(f"{what} {said(e)}" for what, e in zip(("trigger", *TASKS), shares, strict=True) if e)
    return Verdict(
        f"{name} removes the trigger and leaves the circuit that maintains.",
        f"{OURS}no paper measured it.",
        f"left of the held model's: {left}",
        says,
    )


def _of_twin(models: Rows) -> list[str]:
    """What must be said where the circuits are as faithful in a model that never met the memories."""
    out = []
    for task in TASKS:
        held, twin = ([r for r in models if (r["task"], r["role"], r["model"]) == (task, "forget", name)] for name in (HELD, TWIN))
        faithful, effects = _mean(twin, "denoised"), [_mean(rows, "effect") for rows in (held, twin)]
        if faithful and faithful.value > HALF:
            out.append(
                f"The held model's circuit of {task} is faithful in the twin too ({said(faithful)}), where clean and corrupt differ by "
                f"{effects[1].value:.3g} logits (held: {effects[0].value:.3g}): it carries which token follows such a context, by "
                "heart or not, so its faithfulness by itself says nothing of memory."
            )
            if effects[1].value >= effects[0].value:
                out.append(f"What models retain of {task} has no meaning where the twin has as much of it, and is left out.")
    return out


def _unless_size(verdict: Verdict, name: str, control: Rows, ahead: Estimate) -> Verdict:
    """An agreement holds only against a control of the same size: a circuit of most edges does any task, one of few edges does none."""
    told = _mean(control, "denoised")
    words = f"{verdict.measured}{_test_pairs(control)}; {name} of the same number {said(told)}"
    says = CANNOT_TELL if verdict.says == AGREES and not ahead.low > 0 else verdict.says
    return Verdict(verdict.claim, verdict.published, words, says)


def _test_pairs(tests: Rows) -> str:
    """How many pairs tests were made on, all seeds together."""
    by_seed = {r["seed"]: r["pairs"] for r in tests}
    return f", on {sum(by_seed.values())} test pairs" if by_seed else ""


def _more(mine: Rows, other: Rows) -> Estimate:
    """How much more the first restore than the second, by seed."""
    both = [{r["seed"]: [] for r in rows} for rows in (mine, other)]
    for found, rows in zip(both, (mine, other), strict=True):
        for r in rows:
            found[r["seed"]] += [] if r["denoised"] is None else [r["denoised"]]
    a, b = both
    return mean([[float(np.mean(a[s]) - np.mean(b[s]))] for s in sorted(a.keys() & b.keys()) if a[s] and b[s]])


def sizes_by_seed(chosen: Rows, task: str) -> dict[int, int]:
    return {r["seed"]: r["edges"] for r in chosen if r["task"] == task}


# ---- tables


def _circuits(chosen: Rows, tests: Rows, enough: float) -> StudyTable:
    out = []
    for task in TASKS:
        mine = [r for r in chosen if r["task"] == task]
        if not mine:
            continue
        size = sizes_by_seed(mine, task)
        same = [r for r in tests if r["on"] == task and r["edges"] == size.get(r["seed"])]
        own, random = ([r for r in same if r["circuit"] == name] for name in (task, "random"))
        told: dict[str, Any] = {"task": task} | {k: float(np.mean([r[k] for r in mine])) for k in ("edges", "connected", "of", "dips")}
        told["seeds that reach the bar"] = f"{sum(r['reached'] for r in mine)} of {len(mine)}"
        for way in ("denoised", "noised"):
            told |= cells(way, _mean(own, way)) | cells(f"random, {way}", _mean(random, way))
        out.append(told)
    caption = (
        f"The smallest circuit with a faithfulness of {enough:g} on the split for choosing (the most faithful one "
        "where none reaches it), and its faithfulness "
        "on the test split. Connected: edges on a way from embeddings to logits. Random: as many edges drawn from all. Means over seeds."
    )
    return StudyTable("Circuits", out, caption)


def _across_tasks(tests: Rows) -> StudyTable:
    out = []
    for circuit, on, seed_free in sorted({(r["circuit"], r["on"], r["edges"]) for r in tests}, key=lambda k: (k[1], k[2], k[0])):
        mine = [r for r in tests if (r["circuit"], r["on"], r["edges"]) == (circuit, on, seed_free)]
        told = {"task": on, "circuit": circuit, "edges": seed_free, "seeds": len({r["seed"] for r in mine})}
        out.append(told | {way: _mean(mine, way).value if _mean(mine, way) else None for way in ("denoised", "noised")})
    return StudyTable("Circuits across tasks", out, "Each task's circuit at the sizes chosen for either, on the test split of each task.")


def _checked(exact: Rows) -> StudyTable:
    out = []
    for task in TASKS:
        for seed in sorted({r["seed"] for r in exact if r["task"] == task}):
            a, b = (np.array([r[k] for r in exact if (r["task"], r["seed"]) == (task, seed)]) for k in ("score", "exact"))
            told = {"task": task, "seed": seed, "edges": len(a)}
            varies = len(a) > 2 and a.std() > 0 and b.std() > 0
            told |= {"Pearson": float(np.corrcoef(a, b)[0, 1]) if varies else None}
            told |= {"Spearman": _spearman(a, b) if varies else None}
            told |= {"Spearman of absolute values": _spearman(abs(a), abs(b)) if varies else None}
            out.append(told)
    return StudyTable(
        "Attribution against exact edge patching",
        out,
        "Correlation over edges of scores with the exact change of the metric, on the same pairs.",
    )


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


RETAINED = (
    "Shares that are left of what the held model has above the twin, on forget memories. Trigger: tokens from "
    "the exact opening. Inside: tokens said "
    "right when all before are given. Maintenance and initiation: the difference between clean and corrupt. Only the trigger is removed if "
    "the trigger's interval lies below a half and that of maintenance above it, the circuit if both lie below."
)


def retained_rows(models: Rows, behaviour: Rows) -> list[dict[str, Any]]:
    """A row for each unlearned model: what is retained of trigger and circuit, and what was removed."""
    out = []
    for name in dict.fromkeys(r["model"] for r in behaviour if r["model"] not in (HELD, TWIN)):
        told = {what: _retained(behaviour, name, lambda r, key=key: r[key]) for what, key in (("trigger", "opening"), ("inside", "inside"))}
        told |= {task: _retained([r for r in models if r["task"] == task], name, lambda r: r["effect"]) for task in TASKS}
        row: dict[str, Any] = {"model": name}
        for what, e in told.items():
            row |= {what: e.value if e else None, f"{what} low": _finite(e.low), f"{what} high": _finite(e.high)}
        out.append(row | {"removed": removed(told["trigger"], told["maintenance"])})
    return out


def removed(trigger: Estimate, circuit: Estimate) -> str:
    """In words, from shares retained with their intervals."""
    if not all(np.isfinite(v) for e in (trigger, circuit) for v in (e.low, e.high)):
        return "cannot tell"
    if trigger.high < HALF:
        return "only the trigger" if circuit.low > HALF else "the circuit" if circuit.high < HALF else "cannot tell"
    return "neither" if trigger.low > HALF and circuit.low > HALF else "cannot tell"


def _retained(rows: Rows, name: str, value: Callable[[Mapping[str, Any]], float]) -> Estimate:
    """(model - twin) / (held - twin) of a mean over forget memories, by seed."""
    shares = []
    for seed in sorted({r["seed"] for r in rows}):
        told = {m: [value(r) for r in rows if (r["seed"], r["model"], r["role"]) == (seed, m, "forget")] for m in (name, HELD, TWIN)}
        if all(told.values()):
            mine, held, twin = (float(np.mean(told[m])) for m in (name, HELD, TWIN))
            shares += [[(mine - twin) / (held - twin)]] if held - twin > 1e-6 else []
    return mean(shares)


def _models(models: Rows) -> StudyTable:
    out = []
    for key in dict.fromkeys((r["task"], r["role"], r["model"]) for r in models):
        mine = [r for r in models if (r["task"], r["role"], r["model"]) == key]
        told = dict(zip(("task", "role", "model"), (key[0], key[1], "held" if key[2] == HELD else key[2]), strict=True))
        names = ("effect", "denoised", "noised", "alike", "same_edges", "restored", "restored_random")
        out.append(told | {n.replace("_", " "): e.value if (e := _mean(mine, n)) else None for n in names})
    caption = (
        "Test pairs of the held model on other models. Effect: m(clean) - m(corrupt) in logits. Denoised, noised: "
        "faithfulness of the held model's circuit "
        "there. Alike: Spearman correlation of edge scores with the held model's; same edges: share of its circuit among the largest there."
    )
    return StudyTable("The held model's circuits on other models", out, caption)


# ---- estimates


def _mean(rows: Rows, name: str) -> Estimate:
    return mean(_by_seed([r for r in rows if r[name] is not None], lambda r: r[name]))


def _by_seed(rows: Rows, value: Callable[[Mapping[str, Any]], float]) -> list[list[float]]:
    return [[float(value(r)) for r in rows if r["seed"] == seed] for seed in sorted({r["seed"] for r in rows})]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
