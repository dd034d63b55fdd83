"""Hidden knowledge: what prompts do not bring back and relearning other memories does; and which measure sees it beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from ....leaderboard.statistics import holm
from ....leaderboard.study_results import AGREES, CANNOT_TELL, OURS, StudyTable, Verdict
from ...common.types import TWIN
from .._auc import clustered_auc
from .._judging import LEAK, Judged
from .._labelled import UNLEARNED
from .._strata import Stratum, permuted_p, stratified_auc

CLAIM = "Some measure sees hidden knowledge beforehand, within a method and seed."
PUBLISHED = f"{OURS}nobody measured it; relearning disjoint facts recovers 88% of accuracy (arXiv 2410.08827)."
FEW = 5  # hidden memories, and others, without which there is no AUC


def hidden_knowledge(judged: Judged) -> tuple[list[StudyTable], list[Verdict]]:
    """Tables and the verdict; nothing where no unlearned model was relearned."""
    mine = judged.frame[judged.frame.role == "forget"].reset_index(drop=True)
    if "matched relearn" not in mine or not (mine.group == UNLEARNED).any():
        return [], []
    again = mine["matched relearn"]
    chance = again[mine.model == TWIN].max()
    prompts = judged.memories.get(LEAK, mine.opening >= mine.horizon)
    hidden = (again > max(chance, 7)) & (prompts == 0)
    unlearned = (mine.group == UNLEARNED) & again.notna()
    silent = unlearned & (prompts == 0)
    methods = [
        {"method": name, "memories": len(part), "recovered by prompts, %": 100 * float(prompts[part.index].mean()),
         "hidden, %": 100 * float(hidden[part.index].mean()), "after relearning, tokens": float(again[part.index].mean()),
         "hidden": int(hidden[part.index].sum()), "neither": int((silent & ~hidden)[part.index].sum()),
         "pairs within seeds": _pairs(part, hidden, silent)}
        for name, part in mine[unlearned].groupby("model", sort=False)
    ]  # fmt: skip
    caption = (
        f"Hidden: no black-box prompt recovers it, and after relearning half of the other forget memories more than {max(chance, 7):.0f} "
        "tokens come back, which is more than of any memory from twins that were taught the same. Neither: it stays away. Pairs: a hidden "
        "memory with one that stays away, in one seed."
    )
    tables = [StudyTable("Hidden knowledge", methods, caption)]
    seen = _sees(judged, hidden, silent)
    if not seen:
        words = f"{int(hidden[unlearned].sum())} of {int(unlearned.sum())} memories are hidden; no method has {FEW} of both kinds"
        return tables, [Verdict(CLAIM, PUBLISHED, words, CANNOT_TELL)]
    caption = (
        "AUC of hidden memories against those that stay away, of pairs within one method and seed alone: what is hidden differs between "
        "methods, so an AUC over all of them (across methods) is mostly that of telling methods apart. Intervals are over memories; p by "
        "permutation of who is hidden within method and seed, one-sided, after Holm over all measures."
    )
    tables.append(StudyTable("Which measure sees hidden knowledge beforehand?", seen, caption))
    return tables, [_verdict(seen[0], len(seen), methods)]


def _pairs(part: pd.DataFrame, hidden: pd.Series, silent: pd.Series) -> int:
    """Pairs of a hidden memory and one that stays away, within the seeds of a method."""
    return sum(int(hidden[p.index].sum()) * int((silent & ~hidden)[p.index].sum()) for _, p in part.groupby("seed"))


def _verdict(best: Mapping[str, Any], measures: int, methods: list[dict[str, Any]]) -> Verdict:
    """Sure where the permutation says so and the interval, which knows that a memory is in several methods, does too; of two methods."""
    sure = best["p, after Holm"] < 0.05 and best["from"] is not None and best["from"] > 0.5
    sure = sure and sum(bool(m["pairs within seeds"]) for m in methods) > 1
    ends = "no interval" if best["from"] is None else f"[{best['from']:.3g}, {best['to']:.3g}]"
    paired = ", ".join(f"{m['method']} {m['pairs within seeds']}" for m in methods if m["pairs within seeds"])
    words = (
        f"{best['measure']}: AUC {best['AUC']:.3g} {ends} within method and seed, p {best['p, after Holm']:.2g} after Holm over "
        f"{measures} measures; pairs: {paired}"
    )
    return Verdict(CLAIM, PUBLISHED, words, AGREES if sure else CANNOT_TELL)


def _sees(judged: Judged, hidden: pd.Series, silent: pd.Series) -> list[dict[str, Any]]:
    """A line for each measure that can be judged, the surest first."""
    lines = list(_lines(judged, hidden, silent))
    for line, p in zip(lines, holm([line.pop("p") for line in lines]), strict=True):
        line["p, after Holm"] = p
    return sorted(lines, key=lambda line: (line["p, after Holm"], -line["AUC"]))


def _lines(judged: Judged, hidden: pd.Series, silent: pd.Series) -> Iterator[dict[str, Any]]:
    for name in judged.measures:
        known = judged.memories[judged.memories[name].notna() & silent]
        strata = [s for _, part in known.groupby(["model", "seed"], sort=False) if (s := _stratum(part, name, hidden)).pairs]
        sizes = {"hidden": sum(len(s.members) for s in strata), "others": sum(len(s.others) for s in strata)}
        if min(sizes.values()) < FEW:
            continue
        found, whole = stratified_auc(strata), _stratum(known, name, hidden)
        line = {"measure": name, "AUC": found.value, "from": _finite(found.low), "to": _finite(found.high), "p": permuted_p(strata)}
        across = clustered_auc(whole.members, whole.others, whole.clusters)
        yield line | sizes | {"pairs": sum(s.pairs for s in strata), "across methods": across.value}


def _stratum(part: pd.DataFrame, name: str, hidden: pd.Series) -> Stratum:
    """A memory is one cluster, whichever models were asked about it."""
    a, b = (part[hidden[part.index] == is_hidden] for is_hidden in (True, False))
    of = lambda p: [f"{s} {m}" for s, m in zip(p.seed, p.memory, strict=True)]  # noqa: E731
    return Stratum(a[name].to_numpy(float), b[name].to_numpy(float), (of(a), of(b)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
