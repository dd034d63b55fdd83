"""From the finished stages of a suite to its results: recomputed each time, never stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..attack_tools.bases import Prompting
from ..common.answer_reading import AnswerReading
from ..common.errors import UserError
from ..common.lines import json_lines
from ..common.strangers import stranger
from ..common.types import HELD, TWIN, Cost, Excerpt, Quality, Record, Results, TrainingEvaluation, Value
from ..reading.published import load
from ..scoring.calibration import FEWEST_NULL
from ..suites.config import Suite
from ..suites.tracks import tuned
from ..texts.memories import memories_hash
from ..texts.sets.named import about_set
from .model import Model
from .plan import Run
from .provenance import mixtures


def results(run: Run) -> Results:
    """Assemble records from the finished stages of this suite."""
    missing = [s.label for s in run.plan if not run.store.done(s)]
    if missing:
        said = f"{len(missing)} of {len(run.plan)} stages are not done yet (first: {missing[0]}); use palimpsest run."
        raise UserError(said + _done_elsewhere(run, set(missing)))
    s = run.suite
    models = [run.model(m, seed) for seed in s.seeds for m in (*run.twins, *run.rows)]
    quality = [q for seed in s.seeds for m in (*run.bases, *run.twins, *run.rows) for q in _quality(run, run.model(m, seed))]
    costs = [c for m in models if (c := _cost(run, m))]
    records = [r for m in models for r in run.attacking.records(m)]
    shown = s.seeds if s.excerpts else ()
    excerpts = [Excerpt(**row) for seed in shown for row in _read(run.store.ensure(run.excerpt_stage(seed)) / "excerpts.jsonl")]
    return Results(
        suite=s.name,
        seeds=s.seeds,
        methods=run.rows,
        twin=TWIN if run.twins else "",
        quality=quality,
        costs=costs,
        excerpts=excerpts,
        records=records,
        values=[v for m in models for v in _values(run, m)],
        diagnostics=run.who.diagnostics,
        yardstick=s.quality.yardstick,
        budget=s.budget,
        evaluations=[s for m in models for s in _evaluations(run, m)],
        facts=_facts(run) | _asked_nothing(run, records),
        warnings=_warnings(run),
        docs={name: plugin.doc for name, (plugin, _) in run.methods.items()}
        | {name: f"Unlearned elsewhere: {place}." for name, place in s.given.items()}
        | {p.row: f"{p.method} with {p.field}={p.value:g}." for p in run.points if p.strength != 1},
        points=run.points,
        published=[q for m in models if s.published for q in _published(run, m)],
        kinds={m.id: m.kind for m in run.memories if m.is_question},
    )


def _values(run: Run, model: Model) -> Iterator[Value]:
    """Membership scores, computed here from the readings, and the findings of the expensive tiers and of the checks."""
    attacking, roles = run.attacking, {m.id: m for m in model.memories}
    cell = (run.suite.name, model.name, model.seed, model.key)
    mine = attacking.readings(model)
    twin: dict[str, Any] = attacking.readings(run.model(TWIN, model.seed)) if run.twins else {}
    for name, attack in run.who.memberships:
        for memory, tokens in mine.items():
            m = roles[memory]
            with stranger(f"attack {name}, scoring memory {memory!r}"):
                score = float(attack.score(m, tokens, twin.get(memory)))  # type: ignore[arg-type]  # without a twin for those that read none
            yield Value(*cell, memory, m.role, m.shown, name, attack.quantity or name, attack.access, attack.tier, score)
    for name, access, tier, f in attacking.findings(model):
        m = roles.get(f.memory)
        role, shown = (m.role, m.shown) if m else ("", False)
        yield Value(*cell, f.memory, role, shown, name, f.quantity, access, tier, f.value, f.fold, f.dose, f.step)


def _quality(run: Run, model: Model) -> Iterator[Quality]:
    for row in _read(run.store.ensure(run.quality_stage(model)) / "quality.jsonl"):
        row["documents"] = tuple(row["documents"])
        yield Quality(run.suite.name, model.name, model.seed, model.key, **row)


def _published(run: Run, model: Model) -> Iterator[AnswerReading]:
    for row in load(run.store.ensure(run.published_stage(model)) / "published.jsonl"):
        yield AnswerReading(model.name, model.seed, **row)


def _cost(run: Run, model: Model) -> Cost | None:
    if model.name == HELD or not model.stage:
        return None
    manifest = run.store.manifest(model.stage)
    cost = manifest.get("cost", {})  # absent from stages of before it was measured
    known = {k: float(cost[k]) for k in ("flops", "peak_mib") if cost.get(k) is not None}
    return Cost(model.name, model.seed, cost.get("seconds", manifest["seconds"]), manifest["tokens"], **known)


def _done_elsewhere(run: Run, missing: set[str]) -> str:
    """Where stages of these labels were made, if it was on another kind of device: keys name it, so none of them is of this plan."""
    made = {str(m["device"]) for m in run.store.finished() if m.get("label") in missing and m.get("device")}
    where = ", ".join(sorted(d for d in made if d.split()[0] != run.device_kind))
    return f" Stages of these names, perhaps of another suite, were made on {where}: give the command there for a report." if where else ""


def _evaluations(run: Run, model: Model) -> Iterator[TrainingEvaluation]:
    """What was measured while a method trained; nothing for most."""
    if model.name != HELD and model.stage:
        for line in _read(run.store.folder(model.stage) / "trajectory.jsonl"):
            if "held_out" in line:
                yield TrainingEvaluation(model.name, model.seed, line["step"], line["exact"], line["held_out"])


def _facts(run: Run) -> dict[str, str]:
    s = run.suite
    trained = [stage for m in (*run.twins, *run.rows) for x in s.seeds if (stage := run.model(m, x).stage)]
    return {
        **_models(run),
        "corpus": f"{run.corpus.name}, key {run.corpus.key}, coverage {run.corpus.coverage:.1%}{_left_out(run)}",
        "memories": f"{len(run.memories)} in the file ({memories_hash(run.memories)}), "
        f"{s.per_role} per role and seed, rows of {s.row} tokens{_unusable(run)}",
        **({"forget set": about} if (about := about_set(s.memories)) else {}),
        **_about_questions(run),
        **_injection(s),
        "training precision": " and ".join(sorted({run.store.manifest(stage)["precision"] for stage in trained})) or "nothing was trained",
        "attacks": ", ".join(a.name for a in run.who.attacks),
        "hyper-parameters": _hyper_parameters(s),
        "seeds": ", ".join(map(str, s.seeds)),
    }


def _models(run: Run) -> dict[str, str]:
    """Which model everything began with; where nothing was injected, all that were made elsewhere."""
    s, names = run.suite, {HELD: "held", TWIN: "retrained"}
    if s.held:
        return {names.get(m, m): f"{place} ({run.opened(place).hash})" for m, place in run.places.items()}
    return {"model": f"{s.model}{f' @ {s.revision}' if s.revision else ''} ({run.base.hash})"}


def _injection(s: Suite) -> dict[str, str]:
    if s.held:
        return {"injection": "none: the held model knew the memories when it came"}
    return {"injection": f"{'/'.join(map(str, s.injection.occurrences))} occurrences each, density {s.injection.density}"}


def _asked_nothing(run: Run, records: Sequence[Record]) -> dict[str, str]:
    """Prompting attacks that found no question to ask, by name: that they brought nothing back says nothing."""
    asked = {r.attack for r in records}
    named = [a.name for a in run.who.attacks if isinstance(a.attack, Prompting) and a.name not in asked]
    why = "the memories bring none, or none was fit to be asked: of rewordings those that are much less plausible than the opening"
    return {"asked nothing": f"{', '.join(named)}: {why}"} if named else {}


def _unusable(run: Run) -> str:
    """How many memories of a set are not asked, and why the first is not."""
    said = ""
    for found, what in ((run.left_out, "of the set left out"), (run.unread, "not read for measures of other papers")):
        if why := next(iter(found.values()), ""):
            said += f"; {len(found)} {what} (the first: {why.rstrip('.')})"
    return said


def _left_out(run: Run) -> str:
    """How many documents were no training text, since a memory stands in them which methods may not see."""
    left = {seed: len(run.corpus.train) - len(run.text(seed).train) for seed in run.suite.seeds}
    said = ", ".join(f"{n} in seed {seed}" for seed, n in left.items() if n)
    return f"; training text without documents that hold a hidden, forgotten or unseen memory ({said})" if said else ""


def _about_questions(run: Run) -> dict[str, str]:
    """What must be known where memories are questions; nothing where all are passages."""
    count, out = sum(m.is_question for m in run.memories), {}
    if count:
        out["questions"] = f"{count} of the memories; their lengths are in 64ths of the answer, so that 64 is the whole answer"
    if named := run.who.not_applying:
        other = "" if run.twins else ", or compare with a retrained model"
        out["do not apply"] = f"{', '.join(named)}: not asked, since these attacks are for memories of another kind{other}"
    return out


def _hyper_parameters(s: Suite) -> str:
    """Which fields differ from the methods' defaults, and who said so."""

    def listed(fields_of: dict[str, dict[str, Any]]) -> str:
        return "; ".join(f"{m} " + " ".join(f"{k}={v}" for k, v in fields_of[m].items()) for m in s.methods if fields_of.get(m))

    theirs = {m: {k: v for k, v in given.items() if k not in s.methods.get(m, {})} for m, given in tuned(s.track).items()}
    parts = [(f"tuned for the track {s.track}", listed(theirs)), ("set by the suite", listed(s.methods))]
    return ". ".join(f"{who}: {what}" for who, what in parts if what) or "the methods' own defaults"


def _warnings(run: Run) -> list[str]:
    few = f"Only {run.corpus.coverage:.1%} of the corpus is installed here: this run is not comparable with published tables."
    alone = [] if run.twins else [_without_a_twin(run)]
    mixed = mixtures({f"{s.kind} {s.label}": run.store.manifest(s) for s in run.plan})
    return [*([] if run.corpus.comparable else [few]), *alone, *mixed]


def _without_a_twin(run: Run) -> str:
    """What it costs that no model was retrained without the forget memories."""
    unseen = sum(m.role == "unseen" for seed in run.suite.seeds for m in run.encoded(seed))
    null = (
        f"The null is of never-seen texts alone, on the held model ({unseen} of them"
        f"{'' if run.who.possible else f', fewer than the {FEWEST_NULL} that thresholds need'}): thresholds bound what is called recovered "
        "by chance of texts like these, and not what a model guesses that learnt all but the forget memories."
        if unseen
        else "Nothing here is never seen, so there is no null and there are no thresholds: lengths hold what is guessed by chance too."
    )
    return (
        f"No retrained model was given. {null} From leak, excess and shares by length nothing is subtracted (where a caption says the "
        "twin's, read 0), so what such a model would know counts as leak. Damage is against the held model (where a caption says the twin, "
        "read held), so what training on the forget memories cost or gained does not show. PrivLeak, forget quality, D, relearn ratios and "
        "whatever else compares with a retrained model are not given."
    )


def _read(file: Path) -> list[dict[str, Any]]:
    return [row for _, row in json_lines(file)]
