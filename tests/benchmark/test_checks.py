"""What the checks say about an honest model, and about one whose output is not its own."""

from __future__ import annotations

from collections import defaultdict

from palimpsest.benchmark.battery.checks import facts_for_flags
from palimpsest.benchmark.models.subject import Subject
from tests.conftest import Memorised


def checked(subject: Subject, memorised: Memorised) -> dict[str, dict[str, float]]:
    """Quantity -> memory -> value, on the forget memories."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for f in facts_for_flags(subject, memorised.subject, [m for m in memorised.memories if m.role == "forget"], "fp32"):
        found[f.quantity][f.memory] = f.value
    return found


def test_an_honest_model_says_what_is_read_from_it(memorised: Memorised) -> None:
    found = checked(memorised.subject, memorised)
    assert set(found) == {"generated", "stochastic", "generated_differs", "undone_by_int4"}
    assert min(found["generated"].values()) >= 60
    assert set(found["generated_differs"].values()) == set(found["stochastic"].values()) == {0.0}
    assert len(found["generated"]) == 4
    assert set(found["undone_by_int4"]) == {""}


def test_a_filter_hides_from_generation_what_is_still_read(memorised: Memorised) -> None:
    forget = [m for m in memorised.memories if m.role == "forget"]
    found = checked(Subject.filtered(memorised.subject, [m.row for m in forget], (5, 6, 7)), memorised)
    assert max(found["generated"].values()) < 8
    assert set(found["generated_differs"].values()) == {1.0}


def test_only_matrices_that_are_rounded_count_as_an_update(memorised: Memorised) -> None:
    def undone(*names: str) -> float:
        state = {k: w + 1e-7 * w.sign() if k.endswith(names) else w for k, w in memorised.subject.fresh().state_dict().items()}
        return checked(memorised.subject.with_state(state), memorised)["undone_by_int4"][""]

    assert undone("embed_in.weight", "embed_out.weight", "lm_head.weight") == 0.0
    assert undone("dense_h_to_4h.weight") != 0.0
