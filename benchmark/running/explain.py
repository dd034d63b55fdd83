"""One memory under one attack, in words: the best prompt per model, what it said, and the truth."""

from __future__ import annotations

from ..common.errors import UserError, unknown
from ..common.types import TWIN, EncodedMemory, Record
from .assemble import results
from .plan import Run
from .who_is_asked import SHARED


def explain(run: Run, memory: str, attack: str) -> str:
    """For every seed and model the attack's best prompt, the greedy continuation, and where it leaves the truth."""
    found = results(run)
    ids = {r.memory for r in found.records}
    if memory not in ids:
        raise unknown("memory", memory, ids)
    if attack not in (known := {r.attack for r in found.records}):
        if attack in run.suite.attacks:
            raise UserError(
                f"{attack} leaves no prompt to explain in this run: it gives a score, or found no question to ask, or does not apply to "
                f"these memories (the report says which). Attacks with prompts: {', '.join(sorted(known))}."
            )
        raise unknown("attack", attack, known)
    lines: list[str] = []
    for seed in run.suite.seeds:
        mine = [r for r in found.records if (r.memory, r.attack, r.seed) == (memory, attack, seed)]
        if mine:
            lines += [f"{memory} under {attack}, seed {seed} (role: {mine[0].role})", ""]
        for method in (*found.methods, TWIN):
            answers = [r for r in mine if r.method == method]
            if answers:
                lines += _answer(run, max(answers, key=lambda r: r.matched), seed)
    return "\n".join(lines)


def _answer(run: Run, best: Record, seed: int) -> list[str]:
    encoded = next(m for m in run.encoded(seed) if m.id == best.memory)
    truth = encoded.row[best.offset : best.offset + best.horizon]
    name = "retrained twin" if best.method == TWIN else best.method
    return [
        f"{name}: {best.matched} of {best.horizon} tokens ({best.variant or 'only variant'})",
        f"  prompt  {best.prompt!r}",
        f"  says    {_said(run, best, encoded, len(truth))}",
        f"  truth   {run.decode(truth)!r}",
        "",
    ]


def _said(run: Run, best: Record, memory: EncodedMemory, tokens: int) -> str:
    if best.tier > SHARED or best.access != "black-box":
        return "(the attack changed or opened the model; what it says then is not kept)"
    subject = run.subject(run.model(best.method, best.seed))
    return repr(run.decode(subject.generate([_prompt_ids(run, best, memory)], tokens)[0]))


def _prompt_ids(run: Run, best: Record, memory: EncodedMemory) -> tuple[int, ...]:
    """The prompt's ids: those of the row where it comes from the memory, else those the attack wrote."""
    if best.start >= 0:
        return memory.row[best.start : best.offset]
    armed = next(a for a in run.who.attacks if a.name == best.attack)
    for p in run.who.probes(best.seed).of(armed, [memory]):
        for cut in p.cuts:
            ids = p.prompt + p.target[:cut]
            if run.decode(ids) == best.prompt:
                return ids
    raise AssertionError("the record's prompt is not among the attack's probes")
