"""How long stages will take here: as those of their kind took that the store holds, else by a short measurement of the model in use."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from ..common.processes import device, keep_memory
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
        """Take a finished stage into account, if it was made of this model on this machine."""
        if manifest.get("work", {}).get("where") != self.where:
            return
        work = Work(**manifest["work"])
        for alike in (work.alike, work.alike.partition(" ")[0]):
            self._took[alike].append((manifest["seconds"], self.rates.seconds(work)))

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
        with suppress(OSError, ValueError):
            yield json.loads(file.read_text("utf-8"))


def rates_of(run: Run) -> Rates:
    """Measured once, and then found in the store."""
    name = hashlib.sha256(f"{run.where}, {run.suite.row}".encode()).hexdigest()[:16]
    file = run.store.root / ".rates" / f"{name}.json"
    with suppress(OSError, ValueError, TypeError):
        return Rates(**json.loads(file.read_text()))
    run.progress("measuring how fast this machine trains and reads the model", 0, 1)
    found = measure(run)
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

    def train(part: list[tuple[int, ...]]) -> None:
        with low:
            value, _ = module({"text": collate([Row(ids) for ids in part], slice(None), device())}, {("text", "tokens"): 1.0})
        value.backward()
        base.model.zero_grad(set_to_none=True)

    def ask(part: list[tuple[int, ...]]) -> None:
        half = [len(ids) // 2 for ids in part]
        probes = [Probe(str(i), ids[:n], ids[n:], 0, (0,), ("",), 0) for i, (ids, n) in enumerate(zip(part, half, strict=True))]
        Reader(base, precision).read(probes)

    @torch.no_grad()
    def score(part: list[tuple[int, ...]]) -> None:
        base.model(input_ids=torch.tensor(part, device=device()), use_cache=False).logits.float().log_softmax(-1).sum().item()

    trained, asked, scored = (paced(work, rows) for work in (train, ask, score))
    base.generate([rows[0][:8]], 2)
    began = perf_counter()
    base.generate([rows[0][:8]], SAID)
    said = SAID / (perf_counter() - began)
    base.release()
    return Rates(trained, asked, scored, said)


def paced(work: Callable[[list[tuple[int, ...]]], Any], rows: list[tuple[int, ...]]) -> float:
    """Tokens per second of `work`, on more and more tokens until it takes long enough to tell, and more make it no faster."""
    tokens, row, before = FIRST, len(rows[0]), 0.0
    work([rows[0][:FIRST]])  # what is made once is not timed
    while True:
        part = [ids[: min(row, tokens)] for ids in rows[: max(1, tokens // row)]]
        began = perf_counter()
        work(part)
        if device().type == "cuda":
            torch.cuda.synchronize()
        took = perf_counter() - began
        rate = sum(map(len, part)) / took
        if len(part) == len(rows) or (took >= LONG and (rate < STEADY * before or 4 * took > PATIENCE)):
            return rate
        tokens, before = 4 * tokens, rate
