"""Fair tuning: equal compute, nothing that a table uses; an interruption changes nothing, a failed trial ends nothing."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.quality.documents import half_of
from palimpsest.benchmark.running import tune
from palimpsest.benchmark.running.assemble import _hyper_parameters
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.running.tune import AMOUNT, PASSES, Trial, Tuning, rule, tuning_suite
from palimpsest.benchmark.suites import tracks
from palimpsest.benchmark.suites.config import CorpusConfig, InjectionConfig, Suite, load_suite, suite_names
from palimpsest.benchmark.texts.memories import assign_roles, load_memories
from tests.benchmark.conftest import read_once
from tests.benchmark.trials import trial

# ---- nothing that a table uses


def test_the_roles_of_a_search_are_those_of_no_published_seed() -> None:
    memories = load_memories()
    ours = {i for i, (role, _) in assign_roles(memories, 0, 64, "tuning").items() if role == "forget"}
    for seed in range(6):
        theirs = {i for i, (role, _) in assign_roles(memories, seed, 64).items() if role == "forget"}
        assert len(ours & theirs) < 0.5 * 64, "no more than chance and the domains bring about"


def test_a_search_asks_no_attack_but_the_exact_opening_and_reads_the_validation_half() -> None:
    mine = tuning_suite(load_suite("pocket"), "npo")
    assert (list(mine.attacks), mine.reasked, mine.roles, mine.track) == (["prefix"], {}, "tuning", "")
    assert (mine.quality.half, mine.quality.tasks) == ("validation", ("palimpsest_bits_per_byte",))
    assert (mine.per_role, mine.injection, mine.model) == (load_suite("pocket").per_role, load_suite("pocket").injection, "pocket")


def test_a_suite_that_asks_for_the_worst_case_alone_can_be_tuned(suite: Suite, store: Store) -> None:
    """A search has one seed and no attack, so no thresholds."""
    with pytest.raises(UserError, match="ask=worst needs thresholds"):
        Run(replace(suite, ask="worst", methods={"none": {}}), store).validate()
    Run(tuning_suite(replace(suite, ask="worst"), "npo"), store).validate()
    assert tuning_suite(replace(suite, ask="worst"), "npo") == tuning_suite(suite, "npo")


@pytest.mark.parametrize("name", suite_names())
def test_no_shipped_suite_uses_the_roles_or_the_documents_of_a_search(name: str) -> None:
    assert (load_suite(name).roles, load_suite(name).quality.half) == ("", "test")


# ---- a search on a tiny model


@pytest.fixture(scope="module")
def suite(tiny: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Four memories per role and a folder of made-up words, with a cache of its own."""
    folder, draw = tmp_path_factory.mktemp("texts"), random.Random(0)
    for i in range(400):
        words = ["".join(draw.choices("bdfgklmnprstaeiou", k=5)) for _ in range(120)]
        (folder / f"{i}.txt").write_text(" ".join(words) + ".")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(tune, "DOCUMENTS", 8)
        read_once(patch)
        yield Suite(
            name="micro", model=str(tiny.folder), per_role=4, seeds=(0, 1), corpus=CorpusConfig("text", str(folder)),
            injection=InjectionConfig(occurrences=(75,), density=1.0, batch=4, lr=5e-3), attacks={"prefix": {}, "paraphrase": {}},
        )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def bound(suite: Suite, store: Store, method: str) -> Tuning:
    return Tuning(Run(tuning_suite(suite, method), store), method)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trials that take no time: what comes of one is a function of its fields. Holds the numbers that were tried."""
    tried: list[int] = []

    def attempt(self: Tuning, number: int, drawn: dict[str, Any]) -> Trial:
        tried.append(number)
        error = "the loss is not finite" if number == 3 else ""
        return Trial(number, drawn, drawn, 1, abs(math.log10(drawn["lr"] / 2e-4)), 0.0, 0.2 if number == 2 else 0.0, 0.0, error)

    monkeypatch.setattr(Tuning, "attempt", attempt)
    return tried


@pytest.fixture
def elsewhere(store: Store) -> Iterator[Store]:
    """The shared store without the trials of earlier tests."""
    yield store
    for file in (store.root / "tuning").glob("*"):
        file.unlink()


def test_an_interrupted_search_goes_on_where_it_was_and_ends_as_an_uninterrupted_one(
    suite: Suite, elsewhere: Store, quick: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune.tune(suite, "npo", elsewhere, lambda t: None, trials=9)
    assert sorted(quick) == list(range(9))
    for file in (elsewhere.root / "tuning").glob("*"):
        file.unlink()
    quick.clear()
    working = Tuning.attempt

    def stops(self: Tuning, number: int, drawn: dict[str, Any]) -> Trial:
        if number in (2, 6) and quick.count(number) < 1:
            quick.append(number)
            raise KeyboardInterrupt
        return working(self, number, drawn)

    monkeypatch.setattr(Tuning, "attempt", stops)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune.tune(suite, "npo", elsewhere, lambda t: None, trials=9)
    again = tune.tune(suite, "npo", elsewhere, lambda t: None, trials=9)
    assert again == whole
    assert sorted(quick) == sorted([*range(9), 2, 6]), "finished trials are not tried again"
    quick.clear()
    assert tune.tune(suite, "npo", elsewhere, lambda t: None, trials=9) == whole
    assert quick == []


def test_the_trials_lie_in_the_store_as_json_and_begin_with_the_methods_own_defaults(
    suite: Suite, elsewhere: Store, quick: list[int]
) -> None:
    found = tune.tune(suite, "npo", elsewhere, lambda t: None, trials=5)
    (file,) = (elsewhere.root / "tuning").glob("*.jsonl")
    assert file.name.startswith("NPO-")
    assert all(isinstance(json.loads(line), dict) for line in file.read_text().splitlines())
    first = next(t for t in found if t.number == 0)
    assert first.drawn == {"lr": 3e-4, "beta": 0.1, AMOUNT: 24}, "12 epochs, each dearer than two passes"
    assert [t.number for t in found if t.error] == [3]
    assert found[-1].number == 3
    assert found[-2].number == 2, "it was over the budget"


def test_what_the_suite_sets_is_not_searched(suite: Suite, elsewhere: Store, quick: list[int]) -> None:
    mine = replace(suite, methods={"npo": {"beta": 0.3}})
    assert set(tune.tune(mine, "npo", elsewhere, lambda t: None, trials=2)[0].drawn) == {"lr", AMOUNT}
    with pytest.raises(UserError, match="declares no search space"):
        tune.tune(suite, "retrain", elsewhere, lambda t: None)


def test_two_processes_do_not_search_for_one_method_at_once(suite: Suite, elsewhere: Store, quick: list[int]) -> None:
    key = bound(suite, elsewhere, "npo").key
    (elsewhere.root / "tuning").mkdir(exist_ok=True)
    with (
        FileLock(elsewhere.root / "tuning" / f"NPO-{key}.jsonl.busy"),
        pytest.raises(UserError, match="Another process is tuning npo"),
    ):
        tune.tune(suite, "npo", elsewhere, lambda t: None)


@pytest.mark.parametrize(
    ("name", "passes", "epochs"),
    [("gradient_ascent", 12, 12), ("npo", 24, 8), ("dpo", 24, 6), ("grad_diff", 6, 2)],
)
def test_a_method_begins_with_its_own_passes_as_far_as_the_limit_pays_for_them(
    name: str, passes: int, epochs: int, suite: Suite, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = bound(suite, store, name)
    assert tuning.defaults[AMOUNT] == passes
    monkeypatch.setattr(tuning.plugin.cls, "unlearn", lambda self, held, data, train: held)
    assert tuning.attempt(0, tuning.defaults).fields["epochs"] == epochs, "eight retain rows stand beside four forget rows and four answers"


@pytest.mark.parametrize("name", ["gradient_ascent", "dpo", "sparse_finetuning"])
def test_a_trial_trains_on_as_many_tokens_as_its_passes_take_up_to_one_and_tells_what_is_lost(
    name: str, suite: Suite, store: Store
) -> None:
    tuning = bound(suite, store, name)
    limit = 6 * 4 * 160
    drawn = tuning.defaults | {AMOUNT: 6}
    found = tuning.attempt(0, drawn)
    assert found.error == ""
    assert found.tokens + found.tokens / found.fields["epochs"] > limit >= found.tokens
    assert 0 <= found.exact <= 1
    assert 0 <= found.matched <= 64
    assert 0 <= found.lost <= 1
    assert math.isfinite(found.damage)
    assert AMOUNT not in found.fields
    assert not (store.root / ".scratch" / f"{tuning.key}-0").exists()
    assert replace(tuning.attempt(1, drawn), number=0) == found, "the same fields give the same result"


def test_memories_by_which_tuning_tells_what_is_lost_are_not_given_to_the_method(
    suite: Suite, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = bound(suite, store, "retain_only")
    given: list[Any] = []
    monkeypatch.setattr(tuning.plugin.cls, "unlearn", lambda self, held, data, train: given.append(data) or held)
    found = tuning.attempt(0, tuning.defaults)
    (data,) = given
    shown = {m.id for m in tuning.run.encoded(0) if m.shown}
    assert {r.name for r in data.shown} == shown - tuning.kept_back
    assert {m.id for m in tuning.keep} <= tuning.kept_back < shown
    assert (found.lost, found.exact) == (0.0, 1.0), "the held model itself has lost nothing"
    monkeypatch.setattr(tuning.plugin.cls, "unlearn", lambda self, held, data, train: tuning.run.base)
    assert tuning.attempt(0, tuning.defaults).lost == 1.0


def test_a_gentle_trial_beats_one_that_takes_the_keep_memories_along(suite: Suite, store: Store) -> None:
    """Gradient ascent on a model that holds its texts: a rate that is too high loses them all, and ranks below one that forgets less."""
    tuning = bound(suite, store, "gradient_ascent")
    gentle, harsh = (tuning.attempt(i, {"lr": lr, AMOUNT: 6}) for i, lr in enumerate((1e-5, 3e-3)))
    assert harsh.lost == 1.0
    assert rule(gentle) < rule(harsh)


def test_where_the_held_model_repeats_no_keep_memory_tuning_is_refused(suite: Suite, store: Store) -> None:
    weak = replace(suite, injection=replace(suite.injection, occurrences=(1,), lr=1e-5))
    with pytest.raises(UserError, match="repeats none of the 1 keep memories"):
        bound(weak, store, "npo")


BROKEN = """
from dataclasses import dataclass
from palimpsest.benchmark.training.losses import nll_sum
from palimpsest.benchmark.method import Descent, Method, Range, Term
@dataclass(frozen=True)
class Diverges(Descent):
    def loss(self, model, forget, retain, reference):
        return {"forget": Term(nll_sum(model, forget) * float("inf"), "tokens", "forget")}
@dataclass(frozen=True)
class Greedy(Descent):
    def steps(self, data):
        return 1 if self.epochs == 1 else 4 * self.epochs
    def loss(self, model, forget, retain, reference):
        return {"forget": Term(nll_sum(model, forget), "tokens", "forget")}
@dataclass(frozen=True)
class Passes(Descent):
    search = {"epochs": (1, 2)}
    def loss(self, model, forget, retain, reference):
        return {"forget": Term(nll_sum(model, forget), "tokens", "forget")}
"""


def test_a_trial_that_diverges_or_trains_on_more_than_it_may_is_failed_and_the_search_goes_on(
    suite: Suite, elsewhere: Store, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    shown: list[Trial] = []
    with pytest.raises(UserError, match=r"All 2 trials of .* failed\. The first: method .*: The loss is not finite at step 0"):
        tune.tune(suite, f"{tmp_path}/broken.py:Diverges", elsewhere, shown.append, trials=2)
    assert [t.number for t in shown] == [0, 1]
    assert all("not finite" in t.error for t in shown)
    with pytest.raises(UserError, match=f"tokens were trained on, and this trial may train on {PASSES[1] * 4 * 160}"):
        tune.tune(suite, f"{tmp_path}/broken.py:Greedy", elsewhere, lambda t: None, trials=1)
    with pytest.raises(UserError, match="epochs cannot be searched"):
        tune.tune(suite, f"{tmp_path}/broken.py:Passes", elsewhere, lambda t: None, trials=1)


def test_the_validation_half_shares_no_document_with_the_half_of_the_tables(suite: Suite, store: Store) -> None:
    corpus = bound(suite, store, "npo").run.corpus
    assert not set(half_of(corpus, "validation")) & set(half_of(corpus, "test"))


# ---- what was chosen becomes the track's


@pytest.fixture
def track(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder of tracks."""
    monkeypatch.setattr(tracks, "TRACKS", tmp_path)
    return tmp_path


def test_chosen_fields_are_a_tracks_defaults_and_what_the_suite_says_wins(track: Path, suite: Suite, store: Store) -> None:
    tracks.write("mine", "npo", {"lr": 2e-4, "epochs": 8, "beta": 0.2}, tune.table([trial()]))
    tracks.write("mine", "grad_diff", {"lr": 1e-5}, tune.table([trial()]))
    mine = replace(suite, track="mine", methods={"none": {}, "npo": {"beta": 0.5}, "simnpo": {}})
    made = {name: method for name, (_, method) in Run(mine, store).methods.items()}
    assert (made["npo"].lr, made["npo"].epochs, made["npo"].beta) == (2e-4, 8, 0.5)
    assert made["simnpo"] == find("method", "simnpo").make({})
    assert _hyper_parameters(mine) == "tuned for the track mine: npo lr=0.0002 epochs=8. set by the suite: npo beta=0.5"
    assert _hyper_parameters(replace(mine, track="", methods={"none": {}})) == "the methods' own defaults"
    with pytest.raises(UserError, match="no track named 'other'"):
        _ = Run(replace(mine, track="other"), store).methods
