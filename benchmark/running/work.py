"""How much work a stage will be, in tokens that a model is given: counted before anything is done, for estimates of time."""

from __future__ import annotations

from collections.abc import Sequence

from ..attack_tools.bases import Tampering
from ..battery.shared_pass import Armed
from ..common.fields import plain
from ..common.types import EncodedMemory
from ..method import Descent
from ..quality.documents import BUILDERS, half_of
from ..scoring.score import UNCHANGED
from .inputs import Inputs
from .store import Work
from .who_is_asked import WhoIsAsked

PASSES = 6  # over the forget set, of a method that does not say how often it goes over it
ROWS = {2: 20, 3: 60}  # that a search reads per memory, by its tier
FOREIGN = 400  # tokens of a document of an lm-eval task that is not ours: four requests of a hundred
DOCUMENTS = 1000  # of such a task, where no number is given
LONGEST = 64  # tokens of a text that is generated


def of_injection(inputs: Inputs, where: str, seed: int) -> Work:
    c = inputs.suite.injection
    return Work("injection", where, trained=inputs.stream(seed).steps * c.batch * (inputs.suite.row + c.offset))


def of_method(inputs: Inputs, where: str, method: str, seed: int) -> Work:
    plugin, instance = inputs.methods[method]
    if instance.needs_history:
        trained = of_injection(inputs, where, seed).trained
    else:
        passes, groups = (instance.epochs, 1 + instance.uses_retain) if isinstance(instance, Descent) else (PASSES, 2)
        trained = passes * groups * inputs.suite.per_role * inputs.suite.row
    return Work(f"method {plugin.name}", where, trained=trained)


def of_quality(inputs: Inputs, where: str) -> Work:
    """The local tasks' own documents, by their characters; of foreign tasks only the number of documents is known."""
    return Work("quality", where, scored=inputs.once("scored", lambda: _scored(inputs)), other=3)


def _scored(inputs: Inputs) -> float:
    q = inputs.suite.quality
    half, tokens, characters = half_of(inputs.corpus, q.half), 0.0, 0
    for task in q.tasks:
        if task not in BUILDERS:
            tokens += FOREIGN * (q.documents or DOCUMENTS)
            continue
        for item in BUILDERS[task](half)[: q.documents]:
            said = item.get("choices", [item.get("target", "")])
            characters += sum(len(item.get("context", item.get("text", "")) + text) for text in said)
    sample = "\n".join(half[:20])
    ids = inputs.base.tokenizer(sample, add_special_tokens=False)["input_ids"]
    return tokens + characters * len(ids) / max(1, len(sample))


def of_battery(who: WhoIsAsked, where: str, asked: Sequence[tuple[Armed, Sequence[EncodedMemory]]], tier: int, seed: int) -> Work:
    """All rows of all attacks; in tier 0 every memory's own row as well."""
    tokens = sum(len(memories) * tokens_per_memory(who, armed, seed) for armed, memories in asked)
    own = len(who.inputs.encoded(seed)) * who.suite.row if tier == 0 else 0
    return Work(f"battery {tier}", where, asked=tokens + own)


def of_attack(who: WhoIsAsked, where: str, armed: Armed, memories: int, seed: int) -> Work:
    """A change of the model: training if it has steps, and every changed model asked again. A search: so many rows per memory."""
    attack, row, alike = armed.attack, who.suite.row, f"attack {armed.name}"
    if not isinstance(attack, Tampering):
        return Work(alike, where, asked=memories * row * ROWS.get(attack.tier, ROWS[3]))
    doses = max([1, *(len(v) for v in plain(attack).values() if isinstance(v, tuple))])
    steps, batch = getattr(attack, "steps", 0), getattr(attack, "batch", 1)
    # The model as it is was asked all of this by the batteries, and its answers are kept.
    again = 0 if armed.name == UNCHANGED else sum(tokens_per_memory(who, a, seed) for a in who.reasked)
    folds = 2 if attack.learns else 1
    trained = folds * doses * steps * batch * row
    return Work(alike, where, trained=trained, asked=doses * memories * again, other=doses * folds)


def of_checks(where: str, memories: int) -> Work:
    return Work("checks", where, said=2 * LONGEST * (1 + memories // 16), other=2)


def of_published(where: str, asked: Sequence[tuple[EncodedMemory, str]]) -> Work:
    """Every answer's row, and what is generated: together, texts of one length."""
    rows = sum(len(m.row) * (1 + len(m.memory.answers) + len(m.memory.wrong)) for m, _ in asked)
    lengths = len({m.opening for m, _ in asked})
    return Work("published", where, asked=rows, said=lengths * LONGEST, other=2)


def of_excerpts(where: str, models: int) -> Work:
    return Work("excerpts", where, said=models * LONGEST, other=models)


def tokens_per_memory(who: WhoIsAsked, armed: Armed, seed: int) -> float:
    """Tokens of the rows that a prompting attack reads about one memory: those that it writes about the first of a kind that it asks."""
    some = [m for m in who.inputs.encoded(seed) if m.memory.kind in armed.attack.kinds][:1]
    rows = {p.prompt + p.target for p in who.probes(seed).of(armed, some)}
    return sum(map(len, rows))
