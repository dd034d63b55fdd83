"""Every published measure on cases made by hand. `python -m tests.benchmark.published_cases` writes docs/published-cases.md from them.

The very cases that test_published.py holds against their expected values. Log-probabilities are those of round probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.benchmark.common.answer_reading import MEMBERS, AnswerReading
from palimpsest.benchmark.scoring.published import MEASURES, Ratio, Read, truth_ratio, truth_ratio_of_code
from palimpsest.leaderboard.membership import auc, forget_quality, privleak

LOG = math.log
PAGE = Path(__file__).resolve().parents[2] / "docs" / "published-cases.md"
INTRODUCTION = """# Published measures against cases made by hand

`python -m tests.benchmark.published_cases` writes this page from the cases that `tests/benchmark/test_published.py` holds the code to.
What each measure is, and where it is defined: [observed](observed.md#measures-of-other-papers). P is an answer's, to the power 1/tokens.

"""


@dataclass(frozen=True)
class Case:
    """One case of one measure: what is given, the value by hand with its reckoning, and what the code says."""

    measure: str
    given: str
    reckoning: str
    expected: float
    got: Callable[[], float]


def said(memory: str = "a", **more: Any) -> AnswerReading:
    """What a model says of one question to forget, unless told otherwise."""
    known: dict[str, Any] = {
        "method": "none", "seed": 0, "role": "forget", "group": "", "kind": "qa", "mean_log": LOG(0.5), "right": (), "wrong": (),
        "likeliest": (True, True), "log_probabilities": (LOG(0.5),), "said": "in Varnholt", "truth": "In Varnholt.",
    }  # fmt: skip
    return AnswerReading(memory=memory, **known | more)


def one(measure: str, **given: Any) -> Callable[[], float]:
    """A measure of one text."""
    return lambda: float(Read([said(**given)]).values(measure)[0])


def _hits(text: str) -> tuple[bool, ...]:
    return tuple(c == "+" for c in text)


def _utility() -> float:
    facts = [said(role="keep", group=g, wrong=(LOG(0.125), LOG(0.125))) for g in ("real authors", "world facts")]
    return Read([said(role="keep", wrong=(LOG(0.25),)), *facts]).model_utility


def _outsiders(*, forgotten: float) -> float:
    """1 − AUC with one member of this likelihood, a passage that is not the set's own member and is certain, and outsiders of .2 and .4."""
    passages = [said("f", kind="passage", log_probabilities=(0.0,))]
    passages += [said("m", kind="passage", group=MEMBERS, log_probabilities=(LOG(forgotten),))]
    passages += [said(f"u{p}", kind="passage", role="unseen", log_probabilities=(LOG(p),)) for p in (0.2, 0.4)]
    read = Read(passages)
    return 1 - auc(read.membership("forget"), read.membership("unseen"))


def _spread(ratio: Ratio) -> list[list[float]]:
    """R of two models, rounded: wrong answers of .1 and .4 twice, and of .2 and .2, where the right one is certain."""
    every = [Read([said(f"q{i}", right=(0.0,), wrong=wrong) for i in range(2)]) for wrong in ((LOG(0.1), LOG(0.4)), (LOG(0.2), LOG(0.2)))]
    return [[round(r, 9) for r in read.truth_ratios(ratio)] for read in every]


ES, EM = "extraction_strength", "exact_memorisation"
CASES = (
    Case(ES, "likeliest or not: − − − −", "i* = 4 of 4 (Open Unlearning's code gives 1/4)", 0, one(ES, likeliest=_hits("----"))),
    Case(ES, "+ + + −", "i* = 4 of 4", 0, one(ES, likeliest=_hits("+++-"))),
    Case(ES, "− + + +", "1 − 1/4", 0.75, one(ES, likeliest=_hits("-+++"))),
    Case(ES, "+ + + +", "no miss", 1, one(ES, likeliest=_hits("++++"))),
    Case(EM, "+ + + −", "3 of 4", 0.75, one(EM, likeliest=_hits("+++-"))),
    Case(EM, "− − − −", "0 of 4", 0, one(EM, likeliest=_hits("----"))),
    Case("probability", "mean log-probability log .5", "length does not count", 0.5, one("probability")),
    Case("rouge", "said “it was in Varnholt, I think”, true “In Varnholt.”", "2 of 2 words; what is said beyond costs nothing", 1,
         one("rouge", said="it was in Varnholt, I think")),
    Case("rouge", "said “Varnholt in”", "1 of 2: order counts", 0.5, one("rouge", said="Varnholt in")),
    Case("rouge", "nothing is said", "0 of 2", 0, one("rouge", said="")),
    Case("truth_ratio", "right .5, wrong .1 and .4", "R = .25/.5, min(R, 1/R)", 0.5,
         one("truth_ratio", right=(LOG(0.5),), wrong=(LOG(0.1), LOG(0.4)))),
    Case("truth_ratio", "R itself, as in the paper", "mean(.1, .4)/.5", 0.5, lambda: truth_ratio(LOG(0.5), (LOG(0.1), LOG(0.4)))),
    Case("truth_ratio", "right .25, wrong .5", "R = 2, 1/R", 0.5, one("truth_ratio", right=(LOG(0.25),), wrong=(LOG(0.5),))),
    Case("truth_ratio_of_code", "right .5, wrong .1 and .4", "R = √(.1 · .4)/.5", 0.4,
         one("truth_ratio_of_code", right=(LOG(0.5),), wrong=(LOG(0.1), LOG(0.4)))),
    Case("truth_ratio_of_code", "right .1, wrong .1 and .4", "R = 2, 1/R", 0.5,
         one("truth_ratio_of_code", right=(LOG(0.1),), wrong=(LOG(0.1), LOG(0.4)))),
    Case("forget_quality", "20 questions with R = .1, retrained the same", "D = 0, p = 1", 1,
         lambda: forget_quality([0.1] * 20, [0.1] * 20)[1]),
    Case("forget_quality", "2 with .1, retrained 2 with .9", "D = 1; p: 2 of the 6 orders of two and two", 1 / 3,
         lambda: forget_quality([0.1] * 2, [0.9] * 2)[1]),
    Case("forget_quality", "2 with wrong .1 and .4, retrained 2 with .2 and .2", "R = .25 and .2: D = 1, as above", 1 / 3,
         lambda: forget_quality(*_spread(truth_ratio))[1]),
    Case("forget_quality_of_code", "the same", "√(.1 · .4) = .2: D = 0, p = 1", 1,
         lambda: forget_quality(*_spread(truth_ratio_of_code))[1]),
    Case("model_utility", "kept: P .5, recall 1, R .5; two groups of facts: right .5, wrong .125 twice, recall 1",
         "9/(1/.5 + 1 + 1/.5 + 2 (1/(.5/.75) + 1 + 1/.75))", 9 / (2 + 1 + 2 + 2 * (1.5 + 1 + 4 / 3)), _utility),
    Case("verbatim", "passage; said “it was in Varnholt”, true “In Varnholt.”", "2 · 2/(4 + 2)", 2 / 3,
         one("verbatim", kind="passage", said="it was in Varnholt")),
    Case("knowledge", "question; the same", "2 · 2/(4 + 2)", 2 / 3, one("knowledge", said="it was in Varnholt")),
    Case("knowledge_kept", "the same of a question that is kept", "2 · 2/(4 + 2)", 2 / 3,
         one("knowledge_kept", role="keep", said="it was in Varnholt")),
    Case("privleak", "member .3 between outsiders .2 and .4; retrained: the same", "A = .5 and .5", 0,
         lambda: privleak(_outsiders(forgotten=0.3), _outsiders(forgotten=0.3))),
    Case("privleak", "member .9, above both; retrained: between them", "A = 0 and .5: too little was forgotten", -100,
         lambda: privleak(_outsiders(forgotten=0.9), _outsiders(forgotten=0.3))),
    Case("privleak", "member .1, below both; retrained: between them", "A = 1 and .5: too much", 100,
         lambda: privleak(_outsiders(forgotten=0.1), _outsiders(forgotten=0.3))),
    Case("choices", "right .5, wrong .2 and .3", "strictly likeliest", 1, one("choices", kind="choice", wrong=(LOG(0.2), LOG(0.3)))),
    Case("choices", "right .5, wrong .5", "a tie is wrong", 0, one("choices", kind="choice", wrong=(LOG(0.5),))),
)  # fmt: skip


def page() -> str:
    """The page, as Markdown."""
    titles = {m.name: m.title for m in MEASURES}
    lines = ["| measure | case | by hand | expected | got |", "|---|---|---|---|---|"]
    lines += [f"| {titles[c.measure]} | {c.given} | {c.reckoning} | {_number(c.expected)} | {_number(c.got())} |" for c in CASES]
    return INTRODUCTION + "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value + 0.0:.4g}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(f"{PAGE.name} written")
