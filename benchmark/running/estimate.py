"""How long stages will take here: as those of their kind took that the store holds, else by a short measurement of the model in use."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from ..common.errors import UserError
from ..common.processes import device, keep_memory, machine
from ..common.types import Probe, Row
from ..reading.reader import Reader
from ..training.batches import collate
from ..training.loop import LossModule
from ..training.losses import language_model_loss
from .store import Stage, Work

if TYPE_CHECKING:
    from .plan import Run

LONG = 0.4  # seconds that a timing takes at least, unless the largest batch takes less
STEADY = 1.1  # by less than this factor a larger batch may be faster: a large model's weights are read, and cast, once a batch
PATIENCE = 10.0  # seconds; a batch that is foreseen to take longer is not tried
FIRST = 32  # tokens of the first batch that is timed; each further one has four times as many
MOST = 32  # rows of the largest
SAID = 12  # steps of generation
PACING = 3  # the version of how `paced` measures: in the names of saved rates, so that those by an earlier one are measured anew
TRAINING = 3  # times the products of a forward pass are those of a training step, where no step fits here and none can be timed
FULL = ("out of memory", "allocate memory", "ALLOC_FAILED")  # how errors of other types say that memory ran out


class TooLargeError(UserError):
    """Not even the smallest batch fits into the memory here."""


@dataclass(frozen=True)
class Rates:
    """Tokens per second of one model here: in training, as the reader asks, and as lm-eval scores. `said`: steps of generation."""

    trained: float
    asked: float
    scored: float
    said: float

    def seconds(self, work: Work) -> float:
        return work.other + sum(getattr(work, kind) / rate for kind, rate in asdict(self).items())


class Estimates:
    """The seconds of a run's stages. Measures when first asked, and once for a model, a machine and a precision."""

    def __init__(self, run: Run):
        self.rates = rates_of(run)
        self.where = run.where
        self._took: dict[str, list[tuple[float, float]]] = defaultdict(list)  # alike -> seconds, and as they would have been foreseen
        self._work: dict[str, Work] = {}
        for manifest in manifests(run.store.root):
            self.learn(manifest)

    def learn(self, manifest: dict[str, Any]) -> None:
        """Take a finished stage into account, if it was of this model on this machine, and says how much it was and how long it took."""
        work, took = _work(manifest.get("work")), manifest.get("seconds", math.nan)
        foreseen = self.rates.seconds(work) if work and work.where == self.where else 0.0
        if work is None or not foreseen or not _is_number(took):
            return
        for alike in (work.alike, work.alike.partition(" ")[0]):
            self._took[alike].append((took, foreseen))

    def seconds(self, stage: Stage) -> float:
        """How long a stage will take: its work at the measured rates, corrected by how long stages alike really took."""
        if stage.key not in self._work:
            self._work[stage.key] = stage.work()
        work = self._work[stage.key]
        foreseen = self.rates.seconds(work)
        known = self._took.get(work.alike) or self._took.get(work.alike.partition(" ")[0])
        return foreseen * sum(took for took, _ in known) / sum(thought for _, thought in known) if known else foreseen


def manifests(root: Path) -> Iterator[dict[str, Any]]:
    """Those of all finished stages that can be read; a damaged one is reported where it is used."""
    for file in sorted(root.glob("[!.]*/[!.]*/manifest.json")):
        with suppress(OSError, ValueError, RecursionError):
            if isinstance(found := json.loads(file.read_text("utf-8")), dict):
                yield found


def _work(said: Any) -> Work | None:
    """The work that a manifest tells; None if it tells none, or in words of another version."""
    texts = {f.name for f in fields(Work) if isinstance(f.default, str)}
    if not isinstance(said, dict) or not said.keys() <= {f.name for f in fields(Work)}:
        return None
    return Work(**said) if all(isinstance(v, str) if k in texts else _is_number(v) for k, v in said.items()) else None


def _is_number(value: Any) -> bool:
    """Whether it can be an amount."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def rates_of(run: Run) -> Rates:
    """Measured once, and then found in the store."""
    name = hashlib.sha256(f"{run.where}, {run.suite.row}, pacing {PACING}".encode()).hexdigest()[:16]
    file = run.store.root / ".rates" / f"{name}.json"
    with suppress(OSError, ValueError, TypeError, RecursionError):
        saved = Rates(**json.loads(file.read_text()))
        if all(_is_number(rate) and rate > 0 for rate in asdict(saved).values()):
            return saved
    run.progress("measuring how fast this machine trains and reads the model", 0, 1)
    found = measure(run)
    with suppress(OSError):  # a store that is only read is planned on too
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(asdict(found)) + "\n")
    return found


def measure(run: Run) -> Rates:
    """Some seconds of each kind of work on the base model, on memories of the suite."""
    keep_memory()
    base, precision = run.base, run.precision
    rows = [base.with_bos(m.row) for m in run.encoded(run.suite.seeds[0])][:MOST]
    rows = [ids[: min(map(len, rows))] for ids in rows]  # questions differ in length
    low = torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16")
    module = LossModule(base.model, language_model_loss)
    gates = Reader(base, precision).gates

    def train(part: list[tuple[int, ...]]) -> None:
        with low:
            value, _ = module({"text": collate([Row(ids) for ids in part], slice(None), device())}, {("text", "tokens"): 1.0})
        try:
            value.backward()
        finally:  # memory may run out half-way
            base.model.zero_grad(set_to_none=True)

    def ask(part: list[tuple[int, ...]]) -> None:
        half = [len(ids) // 2 for ids in part]
        probes = [Probe(str(i), ids[:n], ids[n:], 0, (0,), ("",), 0) for i, (ids, n) in enumerate(zip(part, half, strict=True))]
        reader = Reader(base, precision)
        reader.gates = gates  # what a stage finds out once is not timed with every batch
        reader.read(probes)

    @torch.no_grad()
    def score(part: list[tuple[int, ...]]) -> None:
        base.model(input_ids=torch.tensor(part, device=device()), use_cache=False).logits.float().log_softmax(-1).sum().item()

    asked, scored = paced(ask, rows), paced(score, rows)
    try:
        trained = paced(train, rows)
    except TooLargeError:  # trained with offload or over several devices, so it can be: this is but an estimate
        trained = asked / TRAINING
    base.generate([rows[0][:8]], 2)
    began = perf_counter()
    base.generate([rows[0][:8]], SAID)
    said = SAID / (perf_counter() - began)
    base.release()
    return Rates(trained, asked, scored, said)


def paced(work: Callable[[list[tuple[int, ...]]], Any], rows: list[tuple[int, ...]]) -> float:
    """Tokens per second of `work`, on more and more tokens until it takes long enough to tell, and more make it no faster, or none fit."""
    tokens, row, before = FIRST, len(rows[0]), 0.0
    fitted = _seconds(work, [rows[0][:FIRST]]) is not None  # what is made once is not timed
    while True:
        part = [ids[: min(row, tokens)] for ids in rows[: max(1, tokens // row)]]
        took = _seconds(work, part) if fitted else None
        if took is None and before:
            return before
        if took is None:
            raise TooLargeError(
                f"The memory here ({machine()}) does not hold the model and a batch of {len(part[0])} tokens, so how long stages take "
                "cannot be measured. Free the memory that other programs hold, or take a device with more memory, or a smaller model."
            )
        rate = sum(map(len, part)) / took
        if len(part) == len(rows) or (took >= LONG and (rate < STEADY * before or 4 * took > PATIENCE)):
            return rate
        tokens, before = 4 * tokens, rate


def _seconds(work: Callable[[list[tuple[int, ...]]], Any], part: list[tuple[int, ...]]) -> float | None:
    """How long it takes; None where memory runs out."""
    began = perf_counter()
    try:
        work(part)
        if device().type == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - began
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in FULL)):
            raise
    if device().type == "cuda":
        torch.cuda.empty_cache()  # now that nothing holds what the work had made
    return None
