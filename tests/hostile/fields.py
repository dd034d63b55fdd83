"""Fields of suites, methods and attacks out of their bounds, and values that look like something else."""

from __future__ import annotations

from . import Case

TITLE = "Fields and overrides"


def plan(override: str, says: str) -> Case:
    return Case(override, ("plan", "suite=smoke", override), says)


CASES = [
    plan("injection.lr=-0.001", "injection.lr=-0.001: expected a number above 0"),
    plan("injection.lr=0", "injection.lr=0.0: expected a number above 0"),
    plan("injection.lr=.inf", "expected a finite number"),
    plan("injection.batch=0", "injection.batch=0: expected at least 1"),
    plan("injection.schedule=sine", "expected constant, linear or cosine"),
    plan("methods.npo.lr=.nan", "expected a finite number"),
    plan("methods.npo.epochs=0", "epochs=0: expected at least 1"),
    plan("methods.npo.retain_loss=kll", "retain_loss='kll': expected nll or kl"),
    plan("methods.npo.shown_share=2", "shown_share=2.0: expected a share from 0 to 1"),
    plan("attacks.shifted_window.stride=0", "stride=0: expected at least 1"),
    plan("quality.documents=0", "documents=0: expected at least 1"),
    plan("quality.half=best", "half='best': expected test or validation"),
    plan("quality.tasks=[palimpsest_bits_per_byte,palimpsest_lst_word]", "There is no lm-eval task named 'palimpsest_lst_word'"),
    plan("deepspeed=zero9", "There is no DeepSpeed configuration named 'zero9'"),
    plan("precision=fp16", "precision='fp16'"),
    plan("name=../../evil", "expected a plain word"),
    plan("row=many", "row='many': expected int"),
    plan("lrr=1", "There is no field named 'lrr'"),
    plan("model=./a#b", "There is no model directory or GGUF file './a#b'"),
    plan("model=./${oc.env:HOME}", "There is no model directory or GGUF file './${oc.env:HOME}'"),
]
