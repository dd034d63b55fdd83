"""How much work a stage will be, in tokens that a model is given: counted before anything is done, for estimates of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .attack import Tampering
from .battery import Armed
from .engine import machine
from .fields import plain
from .method import Descent
from .quality_data import BUILDERS, half_of
from .store import Work
from .types import EncodedMemory

if TYPE_CHECKING:
    from .pipeline import Run

PASSES = 6  # over the forget set, of a method that does not say how often it goes over it
ROWS = {2: 20, 3: 60}  # that a search reads per memory, by its tier
FOREIGN = 400  # tokens of a document of an lm-eval task that is not ours: four requests of a hundred
DOCUMENTS = 1000  # of such a task, where no number is given
LONGEST = 64  # tokens of a text that is generated


def whereabouts(run: Run) -> str:
    """What the time of a piece of work depends on, beside the work."""
    return f"{run.base.hash}, {run.precision}, {machine()}"


def of_injection(run: Run, seed: int) -> Work:
    c = run.suite.injection
    return Work("injection", whereabouts(run), trained=run.stream(seed).steps * c.batch * (run.suite.row + c.offset))


def of_method(run: Run, method: str, seed: int) -> Work:
    plugin, instance = run.methods[method]
    if instance.needs_history:
        trained = of_injection(run, seed).trained
    else:
        passes, groups = (instance.epochs, 1 + instance.uses_retain) if isinstance(instance, Descent) else (PASSES, 2)
        trained = passes * groups * run.suite.per_role * run.suite.row
    return Work(f"method {plugin.name}", whereabouts(run), trained=trained)


def of_quality(run: Run) -> Work:
    """The local tasks' own documents, by their characters; of foreign tasks only the number of documents is known."""
    return Work("quality", whereabouts(run), scored=run._once("scored", lambda: _scored(run)), other=3)


def _scored(run: Run) -> float:
    q = run.suite.quality
    half, tokens, characters = half_of(run.corpus, q.half), 0.0, 0
    for task in q.tasks:
        if task not in BUILDERS:
            tokens += FOREIGN * (q.documents or DOCUMENTS)
            continue
        for item in BUILDERS[task](half)[: q.documents]:
            said = item.get("choices", [item.get("target", "")])
            characters += sum(len(item.get("context", item.get("text", "")) + text) for text in said)
    sample = "\n".join(half[:20])
    ids = run.base.tokenizer(sample, add_special_tokens=False)["input_ids"]
    return tokens + characters * len(ids) / max(1, len(sample))


def of_battery(run: Run, asked: Sequence[tuple[Armed, Sequence[EncodedMemory]]], tier: int, seed: int) -> Work:
    """All rows of all attacks; in tier 0 every memory's own row as well."""
    tokens = sum(len(memories) * tokens_per_memory(run, armed, seed) for armed, memories in asked)
    own = len(run.encoded(seed)) * run.suite.row if tier == 0 else 0
    return Work(f"battery {tier}", whereabouts(run), asked=tokens + own)


def of_attack(run: Run, armed: Armed, memories: int, seed: int) -> Work:
    """A change of the model: training if it has steps, and every changed model asked again. A search: so many rows per memory."""
    attack, row, alike = armed.attack, run.suite.row, f"attack {armed.name}"
    if not isinstance(attack, Tampering):
        return Work(alike, whereabouts(run), asked=memories * row * ROWS.get(attack.tier, ROWS[3]))
    doses = max([1, *(len(v) for v in plain(attack).values() if isinstance(v, tuple))])
    steps, batch = getattr(attack, "steps", 0), getattr(attack, "batch", 1)
    again = sum(tokens_per_memory(run, a, seed) for a in run.attacking.reasked)
    folds = 2 if attack.learns else 1
    trained = folds * doses * steps * batch * row
    return Work(alike, whereabouts(run), trained=trained, asked=doses * memories * again, other=doses * folds)


def of_checks(run: Run, memories: int) -> Work:
    return Work("checks", whereabouts(run), said=2 * LONGEST * (1 + memories // 16), other=2)


def of_excerpts(run: Run, models: int) -> Work:
    return Work("excerpts", whereabouts(run), said=models * LONGEST, other=models)


def tokens_per_memory(run: Run, armed: Armed, seed: int) -> float:
    """Tokens of the rows that a prompting attack reads about one memory: those that it writes about the first one."""
    (first, *_) = run.encoded(seed)
    rows = {p.prompt + p.target for p in run.attacking.probes(seed).of(armed, [first])}
    return sum(map(len, rows))
