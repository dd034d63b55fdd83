"""What the study `dependency` shows of its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ....leaderboard.drawing import COLOURS, STYLE, WIDTH, svg
from ....leaderboard.statistics import Estimate, Interval, figure, mean, over_seeds, t_interval, welch, wilson
from ....leaderboard.study_results import CANNOT_TELL, OURS, Found, StudyFigure, StudyTable, Verdict, direction, said

Rows = Sequence[Mapping[str, Any]]
MANY = 0.1  # share of tokens that the word "many" asks for here
STEPS = ((0, 1), (1, 4), (4, 8), (8, 16), (16, 32), (32, 64))  # decoding steps that one point stands for
PLACES = 24  # of the opening's end that the heat map shows
MARKS = "osD^vPX*"
NOTES = (
    "The paper names the direction and plots; no number is known to us. “Many” is taken as at least a tenth, with the whole interval.",
    "The true tokens before a token are read, whatever was changed: a token that depends on no state of the opening may follow from those.",
    "Layer 0 is the embeddings, layer n what block n + 1 reads. The last block's output is left out: it decides one token.",
    "Texts never seen are the control: of their tokens the model says some right, as language; what depends there is not memory. That "
    "a token depends on no state of the opening is no sign of memory by itself: most of these do not either.",
    "Tokens of a text go together: a text counts once, with the share of its tokens, and intervals of one seed are over texts.",
    "A swapped component gives what it gives in the other model on the same true tokens. No direction of it is known to us: no verdict.",
)


def page(rows: Rows, agree: float) -> Found:
    """Tables, figures and the verdict from rows `token`, `state` and `swap`; `agree` is the share of sources that makes a dependence."""
    tokens = [r for r in rows if r["kind"] == "token"]
    memorised = [r for r in tokens if r["texts"] == "memorised"]
    control = [r for r in tokens if r["texts"] == "never seen"]
    tables = [_none(tokens, agree), _by_layer(tokens, agree), _by_step(tokens, agree), _swaps(rows)]
    drawn = [f for f in (_heat(rows), _steps(memorised, agree), _lengths(rows)) if f]
    return Found(_verdicts(memorised, control, agree), tables, drawn, NOTES)


def _verdicts(memorised: Rows, control: Rows, agree: float) -> list[Verdict]:
    """The published statement beside its control, and what is more of memory than of language."""
    claim, published = "Many memorised tokens depend on no trigger state.", "Replacing any one state of the prompt changes many not at all."
    than = "More of them do than of the tokens of texts never seen that the model says right."
    if not memorised:
        return [Verdict(c, published, "no text was memorised, so nothing was measured", CANNOT_TELL) for c in (claim, than)]
    free = lambda r: max(r["by_layer"]) < agree  # noqa: E731
    many = direction(claim, published, _share(memorised, free), unit="of memorised tokens", above=MANY)
    beside = f"{many.measured}; {said(_share(control, free), 'of right tokens of texts never seen')}"
    more = direction(than, f"{OURS}no control is known to us.", _more(memorised, control, free), unit="of tokens more", above=0)
    return [replace(many, measured=beside), more]


def _more(mine: Rows, control: Rows, value: Callable[[Mapping[str, Any]], float]) -> Estimate:
    """Share of the first minus that of the second; of one seed with an interval over texts, of which the two have different ones."""
    a, b = ({seed: x for seed, x in _texts(rows, value).items() if len(x)} for rows in (mine, control))
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return figure([])
    mine_all, control_all = (np.concatenate([x[s] for s in seeds]) for x in (a, b))
    return figure([float(a[s].mean() - b[s].mean()) for s in seeds], welch(mine_all, control_all))


def _none(tokens: Rows, agree: float) -> StudyTable:
    """How many tokens depend on no state at all, by how many sources must agree."""
    out = []
    for texts, mine in _grouped(tokens, "texts").items():
        for says, border in ((f"at least {agree:.0%} of the sources", agree), ("any source", 1e-9)):
            free = _share(mine, lambda r, border=border: max(r["by_layer"]) < border)
            out.append(
                {
                    "texts": texts,
                    "a state counts if it is changed by": says,
                    "tokens": len(mine),
                    "of texts": free.count,
                    **_cells("depend on none", free),
                }
            )
    caption = "Shares of a text's tokens, means over texts, with 95% intervals over seeds; of one seed over its texts."
    return StudyTable("Tokens that depend on no state of the opening", out, caption)


def _by_layer(tokens: Rows, agree: float) -> StudyTable:
    out = []
    for texts, mine in _grouped(tokens, "texts").items():
        for layer in range(_layers(mine)):
            share = _share(mine, lambda r, layer=layer: r["by_layer"][layer] >= agree)
            out.append({"texts": texts, "layer": layer, **_cells("dependent", share)})
    return StudyTable("Dependent tokens by layer", out, "Share of tokens that depend on at least one place of the opening at that layer.")


def _by_step(tokens: Rows, agree: float) -> StudyTable:
    out = [{"texts": texts, **line} for texts, mine in _grouped(tokens, "texts").items() for line in _step_rows(mine, agree)]
    caption = "Step 1 is the first token after the opening. Beside memorised tokens those of texts never seen that are right all the same."
    return StudyTable("Dependent tokens by decoding step", out, caption)


def _step_rows(tokens: Rows, agree: float) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for low, high in STEPS:
        mine = [r for r in tokens if low <= r["step"] < high]
        for layer in [*range(_layers(mine)), None]:
            share = _share(mine, lambda r, layer=layer: (max(r["by_layer"]) if layer is None else r["by_layer"][layer]) >= agree)
            steps = str(high) if high == low + 1 else f"{low + 1}–{high}"
            out.append(
                {
                    "steps": steps,
                    "layer": "any" if layer is None else str(layer),
                    "tokens": len(mine),
                    **_cells("dependent", share),
                }
            )
    return out


def _swap_rows(rows: Rows) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for r in rows:
        if r["kind"] == "swap":
            groups[r["into"], r["component"], r["layer"]].append(r)
    out = []
    for (into, component, layer), mine in groups.items():
        length = mean(_by_seed(mine, lambda r: r["matched"])).within(0, float("inf"))
        out.append({"into": into, "component": component, "layer": layer, **_cells("length", length), "memories": length.count})
    return out


def _swaps(rows: Rows) -> StudyTable:
    caption = (
        "Mean memorised length in tokens of the forget memories, of at most 64. `into` is the model that runs; the named component "
        "of the other model gives its values, in one block or in all. `none`: nothing is swapped."
    )
    return StudyTable("Components swapped between the held model and the retrained twin", _swap_rows(rows), caption)


def _heat(rows: Rows) -> StudyFigure | None:
    """Share of (token, source) pairs that a state changes, by layer and place."""
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    for r in rows:
        if r["kind"] == "state" and r["texts"] == "memorised" and r["place"] >= -PLACES:
            cells[r["layer"], r["place"]].append(r["changed"])
    if not cells:
        return None
    told = [{"layer": n, "place": p, "changed": float(np.mean(v)), "memories": len(v)} for (n, p), v in sorted(cells.items())]
    layers, places = sorted({n for n, _ in cells}), sorted({p for _, p in cells})
    grid = np.array([[np.mean(cells[n, p]) * 100 if (n, p) in cells else np.nan for p in places] for n in layers])
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.32 * len(layers)), layout="constrained")
        axes = figure.subplots()
        image = axes.pcolormesh(np.array(places), np.array(layers), grid, cmap="cividis", vmin=0, shading="nearest")
        axes.set(xlabel="place, counted from the end of the opening", ylabel="layer", yticks=layers)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(image, ax=axes, label="changed, %")
        drawn = svg(figure, "dependency-heat", "Heat map of changed memorised tokens by layer and place of the replaced state")
    caption = (
        "Which share of memorised tokens changes when one state is replaced by that of a random prompt, by layer and place of the state."
    )
    return StudyFigure("states", drawn, caption, told)


def _steps(memorised: Rows, agree: float) -> StudyFigure | None:
    told = [r for r in _step_rows(memorised, agree) if r["dependent"] is not None]
    if not told:
        return None
    names, layers = list(dict.fromkeys(r["steps"] for r in told)), list(dict.fromkeys(r["layer"] for r in told))
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.subplots()
        for i, layer in enumerate(layers):
            mine = [r for r in told if r["layer"] == layer]
            x = np.array([names.index(r["steps"]) for r in mine]) + 0.08 * (i - len(layers) / 2)
            label = "any layer" if layer == "any" else f"layer {layer}"
            _bars(axes, x, mine, "dependent", 100, COLOURS[i % 8], MARKS[i % 8], label)
        axes.set(xlabel="decoding step", ylabel="dependent tokens, %", ylim=(0, 105), xticks=range(len(names)), xticklabels=names)
        axes.legend(fontsize=8)
        drawn = svg(
            figure, "dependency-steps", "Share of memorised tokens that depend on a state of the opening, by decoding step and layer"
        )
    return StudyFigure(
        "steps", drawn, "Memorised tokens that depend on at least one state of the opening, by decoding step and layer.", told
    )


def _lengths(rows: Rows) -> StudyFigure | None:
    told = _swap_rows(rows)
    if not told:
        return None
    layers = [*sorted({r["layer"] for r in told} - {"all"}, key=int), "all"]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, into in zip(panels, ("held", "twin"), strict=True):
            for i, component in enumerate(("attention", "mlp", "both")):
                mine = [r for r in told if (r["into"], r["component"]) == (into, component)]
                x = np.array([layers.index(r["layer"]) for r in mine]) + 0.15 * (i - 1)
                _bars(axes, x, mine, "length", 1, COLOURS[i], MARKS[i], component, line="")
            for r in told:
                if r["component"] == "none":
                    axes.axhline(r["length"], lw=0.8, ls="-" if r["into"] == "held" else ":", color="#8b8b8f")
            axes.set(title=f"into the {into}", xlabel="block", xticks=range(len(layers)), xticklabels=layers)
        panels[0].set_ylabel("memorised length, tokens")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
        drawn = svg(
            figure, "dependency-swap", "Memorised length after attention or MLP of one block was swapped between held model and twin"
        )
    caption = (
        "Memorised length when a component gives what it gives in the other model, in one block or in all. Grey: nothing swapped, "
        "in the held model (line) and in the twin (dotted)."
    )
    return StudyFigure("components", drawn, caption, told)


def _bars(axes: Any, x: np.ndarray, rows: Rows, what: str, unit: float, colour: str, mark: str, label: str, line: str = "-") -> None:
    """Values with their intervals."""
    y = np.array([r[what] for r in rows]) * unit
    low, high = (np.array([r[w] if r[w] is not None else r[what] for r in rows]) * unit for w in ("low", "high"))
    error = [np.maximum(0, y - low), np.maximum(0, high - y)]
    axes.errorbar(x, y, error, color=colour, marker=mark, ms=4, lw=1, ls=line, elinewidth=0.8, label=label)


def _share(rows: Rows, value: Callable[[Mapping[str, Any]], float]) -> Estimate:
    """The mean over texts of the share of a text's tokens of which it is true; of one seed with an interval over texts."""
    return over_seeds([*_texts(rows, value).values()], _of_texts).within(0, 1)


def _of_texts(shares: np.ndarray) -> Interval:
    """Student's; where all texts agree Wilson's over texts, since an interval of width zero would claim certainty."""
    return t_interval(shares) if np.ptp(shares) else wilson(float(shares.sum()), len(shares))


def _texts(rows: Rows, value: Callable[[Mapping[str, Any]], float]) -> dict[int, np.ndarray]:
    """By seed the mean of each text."""
    seeds = sorted(_grouped(rows, "seed").items())
    return {s: np.array([np.mean([float(value(r)) for r in text]) for text in _grouped(mine, "memory").values()]) for s, mine in seeds}


def _by_seed(rows: Rows, value: Callable[[Mapping[str, Any]], float]) -> list[list[float]]:
    return [[float(value(r)) for r in mine] for _, mine in sorted(_grouped(rows, "seed").items())]


def _grouped(rows: Rows, name: str) -> dict[Any, list[Mapping[str, Any]]]:
    found: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for r in rows:
        found[r[name]].append(r)
    return found


def _layers(tokens: Rows) -> int:
    return len(tokens[0]["by_layer"]) if tokens else 0


def _cells(name: str, e: Estimate) -> dict[str, float | None]:
    """An estimate as cells of a table, none of them NaN."""
    return {k: v if np.isfinite(v) else None for k, v in ((name, e.value), ("low", e.low), ("high", e.high))}
