"""What forgetting cost: quality against the retrained twin of the same seed, paired by document."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ..benchmark.common.types import Quality
from ..benchmark.scoring.score import Score
from .statistics import NOWHERE, Estimate, by_seed, mean, rate

WORDS = {
    "bits_per_byte": "bits per byte",
    "acc": "accuracy",
}  # metric -> what it is called; of several that a task has, the first here decides
Unit = Literal["%", "points"]


@dataclass(frozen=True)
class TaskCell:
    """One task on one method: how much worse than the twin. Negative means better than the twin."""

    task: str
    metric: str
    unit: Unit  # % of the twin's value where lower is better, points of accuracy otherwise
    loss: Estimate
    stderr: float  # of the paired differences over documents, same unit, averaged over seeds
    damage: Estimate  # the loss in % of the twin's value, whatever the unit
    by_seed: dict[int, float] = field(default_factory=dict)  # of damage


@dataclass(frozen=True)
class Utility:
    """What is left of what the model should still be able to do."""

    damage: Estimate  # % of the twin's quality, by the suite's yardstick
    tasks: tuple[TaskCell, ...]
    collateral: Estimate  # points
    kept: Estimate  # share of the keep memories, shown and hidden, that come back whole: a sign of life


def utility(score: Score, method: str, tasks: tuple[TaskCell, ...], yardstick: TaskCell | None) -> Utility:
    """All of it for one method; without a cell of the yardstick there is no damage."""
    return Utility(
        damage=yardstick.damage if yardstick else mean([]),
        tasks=tasks,
        collateral=rate(by_seed(score.lost(method))).scaled(100),
        kept=rate(by_seed(score.kept(method))),
    )


def damages(quality: Iterable[Quality], method: str, twin: str) -> tuple[TaskCell, ...]:
    """Every task and metric that both were measured on, in the order of the records; one value per shared seed."""
    measured = list(quality)
    yardstick = {(q.task, q.metric, q.seed): q for q in measured if q.method == twin}
    pairs: dict[tuple[str, str], list[tuple[Quality, Quality]]] = {}
    for q in measured:
        if q.method == method and (other := yardstick.get((q.task, q.metric, q.seed))):
            pairs.setdefault((q.task, q.metric), []).append((q, other))
    return tuple(_cell(task, metric, found) for (task, metric), found in pairs.items())


def main_task(tasks: Iterable[TaskCell], yardstick: str) -> TaskCell | None:
    """The cell of the suite's yardstick, the task that decides about collapse and whose loss is the damage; None if it was not measured."""
    order = [*WORDS]
    found = [t for t in tasks if t.task == yardstick]
    return min(found, key=lambda t: order.index(t.metric) if t.metric in order else len(order), default=None)


def yardstick_words(task: TaskCell | None, yardstick: str) -> str:
    """What damage is a loss of, for captions."""
    if task is None:
        return yardstick
    metric = WORDS.get(task.metric, task.metric)
    return metric if task.metric == "bits_per_byte" else f"{metric} in {task.task}"


def _cell(task: str, metric: str, pairs: list[tuple[Quality, Quality]]) -> TaskCell:
    higher = pairs[0][0].higher_is_better
    sign = 1 if higher else -1
    errors = [_paired_stderr(a, b) for a, b in pairs]
    lost = [sign * (b.value - a.value) for a, b in pairs]
    of_twin = [100 / b.value if b.value > 0 else np.nan for _, b in pairs]
    damage = _estimate([x * f for x, f in zip(lost, of_twin, strict=True)], [e * f for e, f in zip(errors, of_twin, strict=True)])
    loss = _estimate([100 * x for x in lost], [100 * e for e in errors]) if higher else damage
    stderr = float(np.mean([e * f for e, f in zip(errors, [100] * len(pairs) if higher else of_twin, strict=True)]))
    seeds = {a.seed: x * f for (a, _), x, f in zip(pairs, lost, of_twin, strict=True)}
    return TaskCell(task=task, metric=metric, unit="points" if higher else "%", loss=loss, stderr=stderr, damage=damage, by_seed=seeds)


def _estimate(losses: list[float], errors: list[float]) -> Estimate:
    """The mean over seeds; where seeds say nothing (one of them, or all alike), the documents carry the interval."""
    if not np.isfinite(losses).all():
        return Estimate(float(np.mean(losses)), *NOWHERE, tuple(losses), len(losses))
    found = mean([np.array([x]) for x in losses])
    if len(losses) > 1 and found.spread != 0:
        return found
    half = 1.96 * float(np.mean(errors)) / np.sqrt(len(losses))
    return replace(found, low=found.value - half, high=found.value + half)


def _paired_stderr(mine: Quality, twin: Quality) -> float:
    """Standard error of the mean difference of documents, in the metric's unit; NaN for other ones, or where a value is no number."""
    a, b = np.asarray(mine.documents, float), np.asarray(twin.documents, float)
    if len(a) != len(b) or len(a) < 2 or mine.task_hash != twin.task_hash or not np.isfinite([a, b]).all():
        return float("nan")
    return float((a - b).std(ddof=1) / np.sqrt(len(a)))
