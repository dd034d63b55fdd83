"""Quality through lm-eval: what forgetting cost, per document, so that it can be paired against the retrained model.

The local tasks in `tasks/` ask about the corpus's quality split; any other lm-eval task may be listed beside them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.model
import lm_eval.api.task
import lm_eval.models.huggingface
from lm_eval.api.metrics import mean, mean_stderr
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import hash_string
from tqdm import tqdm

from ..common.errors import UserError, unknown
from ..models.subject import Subject
from ..suites.config import QualityConfig
from ..texts.corpus import Corpus
from .documents import BUILDERS, items, write_items

TASKS = Path(__file__).resolve().parent / "tasks"
_HFLM: Any = HFLM  # the decorator that registers it hides its type from checkers
SHOTS_SEED = 1234  # lm-eval's own default for drawing few-shot examples


@dataclass(frozen=True)
class Measured:
    """One metric of one task: lm-eval's figure, its standard error, and the same metric of every document, in order."""

    task: str
    metric: str
    value: float
    stderr: float
    higher_is_better: bool
    task_hash: str  # lm-eval's hash over documents, prompts and targets
    documents: tuple[float, ...] = field(repr=False)


class QualityBench:
    """The tasks, loaded once: a further model costs its forward passes."""

    def __init__(self, corpus: Corpus, config: QualityConfig, folder: Path) -> None:
        self.config = config
        with _quiet():
            manager = _manager(config)
            specs = [_local(manager, n, write_items(n, corpus, config, folder)) if n in BUILDERS else n for n in config.tasks]
            try:
                self.loaded = manager.load(specs)
            except OSError as error:  # what `datasets` raises for data that are missing or out of reach
                raise UserError(f"The data of the tasks {', '.join(config.tasks)} could not be loaded: {error}") from error
        if config.yardstick not in self.loaded["tasks"]:  # a group's parts have names of their own
            raise UserError(
                f"quality.yardstick={config.yardstick}: expected a single task, such as {', '.join([*self.loaded['tasks']][:5])}."
            )
        for task in self.loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", 0)

    def measure(self, subject: Subject) -> list[Measured]:
        """Ask one model all tasks. Leaves the model in eval mode; computes in the precision of its weights."""
        with _quiet():
            for task in self.loaded["tasks"].values():
                task.set_fewshot_seed(SHOTS_SEED)  # again for each model, or the second would see other examples
            model = SubjectLM(subject, self.config.batch)
            found: Any = evaluate(model, self.loaded, limit=self.config.documents, bootstrap_iters=0, log_samples=True)
        return [measured for name, task in self.loaded["tasks"].items() for measured in _read(name, task, found)]


def validate_tasks(corpus: Corpus, config: QualityConfig) -> None:
    """Raise what can be known before work begins: tasks that are not there, and local ones that this corpus has no documents for."""
    with _quiet():
        _manager(config)
    for name in config.tasks:
        if name in BUILDERS:
            items(name, corpus, config)


def _manager(config: QualityConfig) -> TaskManager:
    # indexing lm-eval's own 14,000 tasks takes seconds; ours take none
    manager = TaskManager(include_path=str(TASKS), include_defaults=not set(config.tasks) <= set(BUILDERS))
    for name in config.tasks:
        if name not in manager.task_index:
            raise unknown("lm-eval task", name, {*BUILDERS, *get_close_matches(name, manager.all_tasks, n=5)})
    return manager


class SubjectLM(_HFLM):
    """lm-eval's Hugging Face model over one that is in memory, with one policy for the first id.

    lm-eval leaves that id to the tokenizer: GPT-NeoX's never adds it, and where one does, rolling windows hold it twice.
    """

    def __init__(self, subject: Subject, batch: int) -> None:
        self.bos = subject.bos
        super().__init__(
            pretrained=subject.model,
            tokenizer=subject.tokenizer,
            batch_size=batch,  # lm-eval ignores a batch size given anywhere else once the model is in memory
            softmax_dtype="float32",
            add_bos_token=False,
            prefix_token_id=subject.bos,  # None: the tokenizer's end of text, which precedes a text in our streams too
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        ids = super().tok_encode(string, False, **options)
        return ids if self.bos is None or add_special_tokens is False else [self.bos, *ids]

    def tok_batch_encode(self, strings: list[str], **options: Any) -> Any:
        first = "" if self.bos is None else self.tokenizer.decode([self.bos])
        return super().tok_batch_encode([first + string for string in strings], **options)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        bos, self.bos = self.bos, None  # the first window begins with the prefix id anyway
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self.bos = bos


def standard_error(aggregate: Callable[[list[Any]], float], items: Sequence[Any]) -> float:
    """The standard error of `aggregate(items)`: exact for a mean, else the delete-one jackknife (Tukey 1958).

    For a ratio of sums, as bits per byte is, the jackknife agrees with the linearised ratio estimator.
    """
    n = len(items)
    if n < 2:
        return math.nan
    if aggregate is mean:
        return float(mean_stderr(items))
    without = [aggregate([*items[:i], *items[i + 1 :]]) for i in range(n)]
    centre = sum(without) / n
    return math.sqrt((n - 1) / n * sum((value - centre) ** 2 for value in without))


def _local(manager: TaskManager, name: str, file: Path) -> dict[str, Any]:
    """The task's YAML with its data filled in; the arrow copy lies beside the data."""
    files = {"data_files": {"test": str(file)}, "cache_dir": str(file.parent / "arrow")}
    return {**(manager.task_index[name].cfg or {}), "dataset_kwargs": files}


def _read(name: str, task: Any, found: Any) -> Iterator[Measured]:
    samples = found["samples"][name]
    task_hash = hash_string("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples))
    for key, value in found["results"][name].items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue  # names and counts; errors are not computed at bootstrap_iters=0
        items = [s[metric] for s in samples if s["filter"] == chosen and metric in s]
        aggregate = task.aggregation().get(metric, mean)
        yield Measured(
            task=name,
            metric=metric if chosen == "none" else key,
            value=float(value),
            stderr=standard_error(aggregate, items),
            higher_is_better=found["higher_is_better"][name].get(metric) is not False,
            task_hash=task_hash,
            documents=tuple(float(aggregate([item])) for item in items),
        )


def _no_bar(*args: Any, **options: Any) -> tqdm:
    return tqdm(*args, **options | {"disable": True})


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval and datasets: lm-eval has no switch for its bars, one per task and per batch."""
    modules: list[Any] = [lm_eval.api.task, lm_eval.api.model, lm_eval.models.huggingface]
    logger, bars = logging.getLogger("lm_eval"), not datasets.are_progress_bars_disabled()
    level, saved = logger.level, [module.tqdm for module in modules]
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    for module in modules:
        module.tqdm = _no_bar
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
        for module, bar in zip(modules, saved, strict=True):
            module.tqdm = bar
