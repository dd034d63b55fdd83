"""Runs a micro suite over and over in processes that are killed, until one comes to its end; then says what the stores hold.

`python -m tests.benchmark.kill_worker FOLDER MODEL TEXTS SEED` prints JSON: the files of every stage by their hashes, of the run
that nobody disturbed and of the one that was killed, and how its processes ended. Everything is imported once, and each process is
a fork, which saves the seconds of a new start. A process is killed when it has touched so many files: opening, renaming and
removing them are the moments at which half of something could be left.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import CorpusConfig, InjectionConfig, QualityConfig, Suite
from palimpsest.benchmark.training.resume import Checkpoint

TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
FURTHEST = 100  # touches of the store that a process lives to see
ENOUGH = 4  # kills


def micro(model: str, texts: str) -> Suite:
    return Suite(
        name="micro", model=model, per_role=2, seeds=(0,), corpus=CorpusConfig("text", texts), precision="fp32",
        injection=InjectionConfig(occurrences=(2,), batch=8), methods={"none": {}, "gradient_ascent": {"epochs": 2, "batch": 2}},
        attacks={"prefix": {}, "quantise": {"variants": ["int4"]}}, reasked={"prefix": {}}, subset=2,
        quality=QualityConfig(("palimpsest_bits_per_byte",), documents=4), excerpts=1,
    )  # fmt: skip


def child(suite: Suite, store: Path, limit: int) -> int:
    """Run the suite in a process of its own that is killed after `limit` touches; the signal that ended it, or 0."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    left = [limit]

    def touch(event: str, arguments: tuple[object, ...]) -> None:
        if event in TOUCHES and str(store) in str(arguments[0]):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touch)
    Checkpoint.due = property(lambda self: self.possible)  # type: ignore[assignment]  # every step is saved
    try:
        Run(suite, Store(store)).execute()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def files(store: Path) -> dict[str, dict[str, str]]:
    """Stage -> the hashes of its files."""
    manifests = (json.loads(f.read_text()) for f in store.glob("[!.]*/[!.]*/manifest.json"))
    return {f"{m['kind']}/{m['key']}": m["files"] for m in manifests}


def warm() -> None:
    """Import what would be imported late, once for all processes."""
    import deepspeed  # noqa: F401
    import torchao.quantization  # noqa: F401
    from transformers import GPTNeoXForCausalLM  # noqa: F401

    with FlopCounterMode(display=False):
        torch.zeros(1).sum()
    gc.collect()
    gc.freeze()


def main(folder: Path, model: str, texts: str, seed: int) -> None:
    torch.set_num_threads(1)
    warm()
    suite, draw = micro(model, texts), random.Random(seed)
    ends = [child(suite, folder / "whole", 10**9)]
    for kill in range(200):
        ends.append(child(suite, folder / "killed", draw.randrange(1, FURTHEST) if kill < ENOUGH else 10**9))
        if ends[-1] != -signal.SIGKILL:
            break
    left = [str(f.relative_to(folder)) for f in (folder / "killed").rglob("*.part*")]  # a finished training's saved state may stay, for gc
    print(json.dumps({"whole": files(folder / "whole"), "killed": files(folder / "killed"), "ends": ends, "left": left}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
