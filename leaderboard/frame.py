"""The tables as one frame of raw numbers, for CSV."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .severity import AT_LEAST
from .statistics import Estimate
from .tables import MainTable, MethodRow
from .values import FALSE_POSITIVES


def as_frame(table: MainTable) -> pd.DataFrame:
    """One line per method with raw numbers: every estimate as value, _low, _high and _spread; shares stay in [0, 1]."""
    return pd.DataFrame([_flat(row) for row in table.rows])


def _flat(row: MethodRow) -> dict[str, Any]:
    flat: dict[str, Any] = {"method": row.method, "standing": row.standing, "collapsed": row.collapsed}
    flat |= {"rank_first": row.place.first, "rank_last": row.place.last} if row.place else {"rank_first": None, "rank_last": None}
    flat["over_budget"] = ", ".join(row.over)
    flat["flags"] = " ".join(f.flag.mark for f in row.flags if f.raised)
    for name, x in _estimates(row).items():
        flat |= {name: x.value, f"{name}_low": x.low, f"{name}_high": x.high, f"{name}_spread": x.spread}
    for t in row.further.trajectories:
        flat |= {f"relearn_ratio:{t.name}": t.ratio.value, f"relearn_ratio:{t.name}_is_bound": t.ratio.bound}
    quality = row.further.forget_quality
    flat |= {"forget_quality_distance": quality.distance, "forget_quality_p": quality.p}
    for c in row.costs:
        flat |= {c.quantity: c.mean, f"{c.quantity}_over_retrain": c.ratio}
    return flat


def _estimates(row: MethodRow) -> dict[str, Estimate]:
    recovery, utility, further = row.recovery, row.utility, row.further
    found = {"exact_rate": recovery.exact, "worst_rate": recovery.worst, "worst_tokens": recovery.worst_length}
    for leak in recovery.leaks:
        found |= {f"leak:{leak.access}": leak.leak, f"excess_tokens:{leak.access}": leak.excess}
    found |= {f"at_least_{n}_tokens": x for n, x in zip(AT_LEAST, recovery.severity.shares, strict=True)}
    found |= {
        "damage_percent": utility.damage,
        "collateral_points": utility.collateral,
        "kept_rate": utility.kept,
        "opening_tokens": recovery.opening,
        "verbatim_tokens": recovery.verbatim,
    }
    for a in recovery.attacks:
        found |= {f"tokens:{a.attack}": a.matched, f"gain_tokens:{a.attack}": a.gain, f"recovered_rate:{a.attack}": a.recovered}
    for m in further.membership:
        found |= {f"auc:{m.attack}": m.auc, f"privleak_percent:{m.attack}": m.privleak}
        found |= {f"tpr_at_{100 * f:.0f}:{m.attack}": x for f, x in zip(FALSE_POSITIVES, m.caught, strict=True)}
    found |= {f"extractable_rate:{x.tries}": x.share for x in further.extraction}
    found |= {f"extractable_over_twin:{x.tries}": x.over for x in further.extraction}
    found |= {f"value:{x.attack}:{x.quantity}": x.mean for x in further.numbers}
    found |= {f"value_over_twin:{x.attack}:{x.quantity}": x.over for x in further.numbers}
    found |= {f"reversal:{x.attack}": x.share for x in recovery.reversals}
    found |= {f"matched:{t.name}:step {step}": x for t in further.trajectories for step, x in t.steps.items()}
    return found | {f"loss_{t.unit.strip('%') or 'percent'}:{t.task}:{t.metric}": t.loss for t in utility.tasks}
