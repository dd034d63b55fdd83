"""One rank of the parity runs, and what starts them and compares: the same training on 1 and 2 processes, under ZeRO 0 to 3."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PretrainedConfig

from palimpsest.benchmark.common.types import Batch, Row
from palimpsest.benchmark.method import Descent, Group, Reference, Terms
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training.batches import Loss
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.losses import language_model_loss
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.methods.grad_diff import GradDiff
from palimpsest.methods.gradient_ascent import GradientAscent
from palimpsest.methods.npo import NPO
from tests.ranks import PLAIN, RANK_VARIABLES, free_port, ranks

ROOT = Path(__file__).resolve().parents[2]
STEPS, VOCABULARY = 5, 512
STAGES = (0, 1, 2, 3)
LENGTHS = {"text": (12, 40, 7, 33, 21), "forget": (30, 9, 17, 40, 25), "retain": (11, 38, 20)}  # odd numbers: some ranks get nothing
RECIPE = Recipe(lr=1e-3, steps=STEPS, warmup=0.4, weight_decay=0.1, micro_batch=1, precision="fp32")


@dataclass(frozen=True)
class Case:
    """One training run: which model, which groups of rows, and which loss."""

    model: str
    groups: tuple[str, ...]
    loss: Callable[[Subject, Sequence[Row]], Loss]


def of_method(method: Descent) -> Callable[[Subject, Sequence[Row]], Loss]:
    """The method's loss against the untrained model as its reference."""

    def bind(held: Subject, forget: Sequence[Row]) -> Loss:
        reference = Reference(held, forget)

        def loss(model: torch.nn.Module, groups: dict[str, Group]) -> Terms:
            return method.loss(model, groups["forget"], groups.get("retain", groups["forget"]), reference)

        return loss

    return bind


CASES = {
    "language_model_loss": Case("neox", ("text",), lambda held, forget: language_model_loss),
    "language_model_loss, tied head": Case("llama-tied", ("text",), lambda held, forget: language_model_loss),
    "gradient_ascent": Case("llama", ("forget",), of_method(GradientAscent())),
    "grad_diff": Case("neox", ("forget", "retain"), of_method(GradDiff())),
    "npo, retain nll": Case("neox", ("forget", "retain"), of_method(NPO(retain_loss="nll"))),
    "npo, retain kl": Case("llama", ("forget", "retain"), of_method(NPO(retain_loss="kl"))),
}


def rows(group: str) -> list[Row]:
    """Random rows of unequal length; those of one group have the same names at every step."""
    draw = torch.Generator().manual_seed(len(group))
    return [
        Row(tuple(torch.randint(1, VOCABULARY, (n,), generator=draw).tolist()), name=f"{group}{i}") for i, n in enumerate(LENGTHS[group])
    ]


def shapes() -> dict[str, PretrainedConfig]:
    """Two layers of hidden size 32: a GPT-NeoX, and a Llama in which pairs of heads share keys and values; heads of their own, or tied."""
    size: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 64,
        "initializer_range": 0.1, "attention_bias": False,  # a key bias has no gradient but rounding, and Adam makes whole steps of that
    }  # fmt: skip
    grouped = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return {
        "neox": GPTNeoXConfig(**size, num_attention_heads=2, tie_word_embeddings=False),
        "neox-tied": GPTNeoXConfig(**size, num_attention_heads=2, tie_word_embeddings=True),
        "llama": LlamaConfig(**size, **grouped, tie_word_embeddings=False),
        "llama-tied": LlamaConfig(**size, **grouped, tie_word_embeddings=True),
    }


def write_models(folder: Path) -> None:
    """A folder with random weights for every shape."""
    for name, shape in shapes().items():
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(shape).save_pretrained(folder / name)


def work(folder: Path, stages: Sequence[int], cases: Sequence[str]) -> None:
    """Train every case under every stage as this rank; every rank writes the losses and the full weights that it has."""
    torch.set_num_threads(1)
    for stage, name in itertools.product(stages, cases):
        case = CASES[name]
        held = Subject(folder / case.model)
        batch: Batch = {g: rows(g) for g in case.groups}

        def batch_at(step: int, batch: Batch = batch) -> Batch:
            return {g: list(r[step % 2 :]) for g, r in batch.items()}  # the size of a batch changes too

        recipe = Recipe(**{**RECIPE.__dict__, "deepspeed": f"zero{stage}"})
        done = train(held.fresh(), batch_at, case.loss(held, rows("forget")), recipe)
        out = place(folder, name, stage, dist.get_world_size(), dist.get_rank())
        save_file({k: v.contiguous() for k, v in done.state.items()}, out.with_suffix(".safetensors"))
        out.with_suffix(".json").write_text(json.dumps(done.steps))


def place(folder: Path, case: str, stage: int, world: int, rank: int) -> Path:
    """Where a rank writes a run, without the suffix."""
    return folder / f"zero{stage}-world{world}-rank{rank}-case{list(CASES).index(case)}"


# ---- starting the ranks and comparing what they wrote


@dataclass(frozen=True)
class Result:
    """What one rank of one run ended with."""

    steps: list[dict[str, float]]
    weights: dict[str, Tensor]


def launch(folder: Path, stages: Sequence[int], world: int, cases: Sequence[str] = tuple(CASES)) -> None:
    """Run `world` processes to their end."""
    ranks(world, work, folder, stages, cases)


LAUNCHERS = {
    "deepspeed": lambda: ["deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port", str(free_port()), "--module"],
    "torchrun": lambda: ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--module"],
}


def launch_by(name: str, folder: Path, stages: Sequence[int], cases: Sequence[str] = tuple(CASES), limit: float = 600.0) -> None:
    """The same with two processes that a launcher starts."""
    launcher = LAUNCHERS[name]()
    given = ["--folder", str(folder), "--stages", *map(str, stages), "--cases", *cases]
    plain = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES} | PLAIN
    command = [sys.executable, "-m", *launcher, "tests.benchmark.parity_worker", *given]
    process = subprocess.Popen(command, cwd=ROOT, env=plain, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=limit)
    finally:
        process.terminate()  # the launcher ends its own children then
    if process.returncode:
        raise RuntimeError(said[-3000:])


def read(folder: Path, case: str, stage: int, world: int, rank: int = 0) -> Result:
    """What a rank wrote."""
    file = place(folder, case, stage, world, rank)
    return Result(json.loads(file.with_suffix(".json").read_text()), load_file(file.with_suffix(".safetensors")))


@torch.no_grad()
def deviation(a: Result, b: Result, start: dict[str, Tensor]) -> tuple[float, float]:
    """How far a is from b: the losses, as the largest difference of a term at a step (relative above 1); the weights, as
    the length of the difference over the length of the way that b went from `start`."""
    assert len(a.steps) == len(b.steps)
    assert a.weights.keys() == b.weights.keys()
    loss = max(abs(x[k] - y[k]) / max(1.0, abs(y[k])) for x, y in zip(a.steps, b.steps, strict=True) for k in y)
    apart = sum(float((a.weights[k] - b.weights[k]).double().square().sum()) for k in b.weights)
    way = sum(float((start[k] - b.weights[k]).double().square().sum()) for k in b.weights)
    return loss, (apart / way) ** 0.5


def deviations(folder: Path) -> Iterator[tuple[str, int, int, float, float]]:
    """(case, processes, stage, deviation of losses, of weights) of every run from one process under ZeRO-0."""
    for case in CASES:
        reference = read(folder, case, 0, 1)
        start = dict(Subject(folder / CASES[case].model).fresh().named_parameters())
        for world in (1, 2):
            for stage in STAGES:
                if (world, stage) != (1, 0):
                    yield (case, world, stage, *deviation(read(folder, case, stage, world), reference, start))


def table(folder: Path) -> str:
    """The deviations as Markdown: one row per loss; in every cell that of the losses / that of the weights."""
    found = {(c, w, s): (loss, weight) for c, w, s, loss, weight in deviations(folder)}
    runs = sorted({(w, s) for _, w, s in found})
    lines = ["| loss | shape | " + " | ".join(f"{w} × ZeRO-{s}" for w, s in runs) + " |", "|---" * (len(runs) + 2) + "|"]
    for case, how in CASES.items():
        lines.append(f"| {case} | {how.model} | " + " | ".join("{:.0e} / {:.0e}".format(*found[case, w, s]) for w, s in runs) + " |")
    return "\n".join(lines)


def run_all(folder: Path) -> None:
    """Write the models and make every run."""
    write_models(folder)
    for world in (1, 2):
        launch(folder, STAGES, world)


def print_table() -> None:
    """Make every run in a temporary folder and print the deviations."""
    with tempfile.TemporaryDirectory() as folder:
        run_all(Path(folder))
        print(table(Path(folder)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--stages", type=int, nargs="*", default=list(STAGES), choices=STAGES)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--local_rank", type=int, help="given by some launchers; the environment says the same")
    given = parser.parse_args()
    work(given.folder, given.stages, given.cases)


if __name__ == "__main__":
    main()
