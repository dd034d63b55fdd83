"""Tables about numbers that are no matched lengths: relearning, sampling, membership, all others, and the flags."""

from __future__ import annotations

from .cells import MISSING, Cell, Grid, GridRow, cell, known_columns, number, p_value
from .flags import FLAGS, FlagCell
from .tables import MainTable, MethodRow
from .values import FALSE_POSITIVES, GOAL, LOSS, ExtractionCell, TrajectoryCell

TWIN = "the twin"


def relearn_grid(table: MainTable) -> Grid | None:
    """Matched length step by step while an attack relearns, and the relearn ratio; None without trajectories."""
    rows = [(row, t) for row in _with_twin(table) for t in row.further.trajectories if t.steps]
    if not rows:
        return None
    caption = (
        f"Mean matched {table.unit.name} after the exact opening, on the half of the forget memories that was not relearned, at each step "
        "of relearning the other half. Ratio: steps that the twin needs to bring "
        f"{GOAL} {table.unit.name} back ÷ steps that this model needs; above 1 something was left to build on. > is a lower bound (the "
        f"twin does not get there); {MISSING}: this model does not get there; ∞: it is there before the first step."
    )
    names = list(dict.fromkeys(t.name for _, t in rows))
    rows = sorted(rows, key=lambda x: names.index(x[1].name))  # a stable sort: methods stay in their order
    steps = sorted({step for _, t in rows for step in t.steps})
    cells = [
        GridRow(
            [Cell(t.name), Cell(_name(table, row)), *(cell(t.steps[s]) if s in t.steps else Cell(MISSING) for s in steps), _ratio(t)],
            faint=row is table.twin,
        )
        for row, t in rows
    ]
    return Grid("relearn", "How fast it is relearned", caption, ["Relearning", "Method", *(f"step {s}" for s in steps), "Ratio"], cells)


def _ratio(t: TrajectoryCell) -> Cell:
    return Cell(">" * t.ratio.bound + number(t.ratio.value))


def extraction_grid(table: MainTable) -> Grid | None:
    """What sampling extracts; None without the sampling attack."""
    if not any(row.further.extraction for row in table.rows):
        return None
    less = ", minus the twin's share; small, the raw share" if table.twin.method else ""
    caption = (
        "(n, p)-discoverable extraction (Hayes et al. 2024): forget memories in % of which n samples (temperature 1, top 40) hold "
        f"{table.unit.target} after the exact opening at least once with a chance of one half{less}. Computed from the probability of the "
        "text; nothing is sampled."
    )
    tries = [x.tries for x in next(row.further.extraction for row in table.rows if row.further.extraction)]
    rows = [
        GridRow([Cell(row.method), *(_extracted(x, bool(table.twin.method)) for x in row.further.extraction)])
        for row in table.rows
        if row.further.extraction
    ]
    return Grid("extraction", "What sampling extracts", caption, ["Method", *(f"{n} {'try' if n == 1 else 'tries'}" for n in tries)], rows)


def _extracted(x: ExtractionCell, over_twin: bool) -> Cell:
    return cell(x.over, 100, note=f"raw {number(100 * x.share.value)}") if over_twin else cell(x.share, 100)


def membership_grid(table: MainTable) -> Grid | None:
    """How well forget memories are told from unseen ones; None without membership attacks, or with nothing to tell them from."""
    if not any(row.further.membership for row in table.rows):
        return None
    caption = (
        "Forget against unseen memories on the same model: AUC (0.5 is chance; below it, forget memories look less likely than text the "
        "model never saw), and the share of forget memories caught at a false positive rate of 1% and 5%. PrivLeak: the AUC minus the "
        "twin's, in % of the twin's; its AUC counts forget memories as members. D: Kolmogorov-Smirnov distance of the forget memories' "
        "mean log-probability to the twin's, and p that they are the same. Never part of leak."
    )
    rows = []
    for i, attack in enumerate(x.attack for x in table.twin.further.membership):
        for row in _with_twin(table):
            found = row.further.membership[i]
            distance = (
                Cell(number(row.further.forget_quality.distance, 2), note=p_value(row.further.forget_quality.p))
                if found.quantity == LOSS
                else Cell(MISSING)
            )
            cells = [Cell(attack), Cell(_name(table, row)), cell(found.auc, digits=2), *(cell(x, 100) for x in found.caught)]
            rows.append(GridRow([*cells, cell(found.privleak), distance], faint=row is table.twin))
    rates = [f"TPR at {100 * f:.0f}%" for f in FALSE_POSITIVES]
    header, rows = known_columns(["Attack", "Method", "AUC", *rates, "PrivLeak", "D"], rows)
    return Grid("membership", "Can it be told that they were there?", caption, header, rows) if len(header) > 2 else None


def number_grid(table: MainTable) -> Grid | None:
    """Exposure, compression, depth and whatever else attacks measure; None if they measure nothing."""
    names = [x.name for x in table.twin.further.numbers]
    if not names:
        return None
    caption = (
        "Means over the forget memories that every model is asked about, with 95% intervals; small, the mean minus the twin's on the same "
        "memories (for exposure, in bits: the relative exposure)."
    )
    rows = []
    for row in _with_twin(table):
        cells = [cell(x.mean, digits=2, note="" if row is table.twin else _over(number(x.over.value, 2))) for x in row.further.numbers]
        rows.append(GridRow([Cell(_name(table, row)), *cells], faint=row is table.twin))
    header, rows = known_columns(["Method", *names], rows)
    return Grid("numbers", "Other measures", caption, header, rows).narrow("Measure")


def flag_grid(table: MainTable) -> Grid | None:
    """The number behind each flag; None where nothing was measured."""
    caption = (
        "The number behind each flag, as the mean over seeds; a mark says that it is above the limit, and small, in which seeds. "
        + "; ".join(flag.legend for flag in FLAGS)
        + "."
    )
    rows = [GridRow([Cell(row.method), *(_flag(x) for x in row.flags)]) for row in table.rows]
    header, rows = known_columns(["Method", *(f"{f.name}, {f.unit}" for f in FLAGS)], rows)
    return Grid("flags", "What to be wary of", caption, header, rows) if len(header) > 1 else None


def _flag(x: FlagCell) -> Cell:
    if not x.numbers:
        return Cell(MISSING)
    text = number(sum(x.numbers.values()) / len(x.numbers))
    if not x.raised:
        return Cell(text)
    return Cell(f"{text} {x.flag.mark}", note=f"seed{'s' * (len(x.raised) > 1)} {', '.join(map(str, x.raised))}")


def _over(text: str) -> str:
    return "" if text == MISSING else f"{'' if text.startswith('−') else '+'}{text} over the twin"


def _with_twin(table: MainTable) -> list[MethodRow]:
    return [*table.rows, *([table.twin] if table.twin.method else [])]


def _name(table: MainTable, row: MethodRow) -> str:
    return TWIN if row is table.twin else row.method
