"""`palimpsest attack`: asks a model that was made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .interruption import interruption
from .progress import Display, hush
from .shared import console


def attack(
    model: Annotated[str, typer.Argument(help="A Hugging Face directory or hub id with safetensors weights")],
    memories: Annotated[Path, typer.Option(help="JSON lines: id, domain, text, opening_end, and paraphrases if you have them")],
    reference: Annotated[str | None, typer.Option(help="A model that never saw the memories; its lengths are subtracted")] = None,
    attacks: Annotated[str, typer.Option(help="Names, separated by commas")] = "prefix,longer_prefix,shifted_window,paraphrase",
    revision: Annotated[str | None, typer.Option(help="Revision of the hub model")] = None,
    row: Annotated[int, typer.Option(help="Tokens of each memory to use; shorter ones lower it, and of a forget set are left out")] = 160,
    precision: Annotated[str, typer.Option(help="bf16, fp32, or auto: whichever is faster here. Answers are the same")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write every answer to this Parquet file")] = None,
) -> None:
    """Attack a model that someone else trained or unlearned; nothing is injected."""
    interruption.kept = lambda: "No answers were written."
    with Display(console) as display:
        display.begin("loading libraries and models")
        from ..common.paths import writable
        from ..running.outside import Wanted, attack_model, summary

        hush()
        if out:
            writable(out)
        wanted = Wanted(model, memories, attacks.split(","), reference, revision, row, precision)
        answers = attack_model(wanted, console, display.update)
    console.print(summary(answers, reference is not None))
    if out:
        answers.to_parquet(out, index=False)
        console.print(f"{len(answers)} answers in {out}")
