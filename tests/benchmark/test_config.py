"""Suites: fields are typed, overrides are applied in order, and a mistake is answered with what was meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from palimpsest.benchmark.common.errors import UserError, unknown
from palimpsest.benchmark.common.fields import build, plain
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.suites.config import InjectionConfig, QualityConfig, Suite, load_suite, suite_names


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("name", suite_names())
def test_every_shipped_suite_loads_and_says_what_it_is_for(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert suite_names()[name].endswith(".")
    assert "none" in suite.methods
    assert "prefix" in suite.attacks


def test_learning_rates_of_the_real_suite_are_pockets_by_width() -> None:
    """The rule of docs/real.md, from fields that others may change."""
    real, share = load_suite("real"), 256 / 576
    pairs = {"held model": (real.injection.lr, load_suite("pocket").injection.lr)}
    pairs |= {m: (real.methods[m]["lr"], find("method", m).defaults["lr"]) for m in real.methods if real.methods[m]}
    pairs |= {"relearn": (real.attacks["relearn"]["lr"], find("attack", "relearn").defaults["lr"])}
    assert len(pairs) == 5
    assert {what: lr for what, (lr, _) in pairs.items()} == {what: pytest.approx(share * lr, rel=0.05) for what, (_, lr) in pairs.items()}


# ---- what a suite extends, and overrides


def test_a_suite_takes_from_the_one_it_extends_what_it_does_not_say() -> None:
    quick, pocket = load_suite("quick"), load_suite("pocket")
    assert (quick.per_role, quick.seeds) == (16, (0,))
    assert (quick.model, set(quick.methods), quick.row) == (pocket.model, set(pocket.methods), pocket.row)
    assert set(quick.attacks) < set(pocket.attacks)
    assert quick.quality == QualityConfig(documents=100)


def test_what_to_run_replaces_and_other_fields_add_up(tmp_path: Path) -> None:
    base = write(
        tmp_path, "extends: quick\ninjection: {lr: 2e-3, batch: 8}\nmethods: {none: , npo: {beta: 0.2}}\nseeds: [1, 2]\n", "base.yaml"
    )
    mine = load_suite(write(tmp_path, f"extends: {base}\ninjection: {{offset: 4}}\nmethods: {{none: , retrain: }}\nseeds: [5]\n"))
    assert mine.name == "mine"
    assert (mine.injection.lr, mine.injection.batch, mine.injection.offset) == (0.002, 8, 4)
    assert mine.methods == {"none": {}, "retrain": {}}
    assert mine.seeds == (5,)


def test_the_command_line_has_the_last_word_and_the_last_override_wins() -> None:
    suite = load_suite("quick", ["per_role=4", "per_role=5", "injection.lr=1e-4", "seeds=[3,4]", "quality.documents=null", "name=x"])
    assert (suite.per_role, suite.injection.lr, suite.seeds, suite.quality.documents, suite.name) == (5, 1e-4, (3, 4), None, "x")
    assert suite.injection.occurrences == load_suite("quick").injection.occurrences


def test_one_value_stands_for_a_list_of_one() -> None:
    assert load_suite("quick", ["seeds=7", "injection.occurrences=9"]).seeds == (7,)


def test_a_field_of_a_method_is_changed_by_its_path() -> None:
    methods = load_suite("pocket", ["methods.npo.lr=1e-4"]).methods
    assert methods["npo"] == {"lr": 1e-4}
    assert set(methods) == set(load_suite("pocket").methods)


def test_method_runs_only_that_method_between_ceiling_and_yardstick() -> None:
    suite = load_suite("quick", ["method=npo"])
    assert list(suite.methods) == ["none", "retrain", "npo"]
    assert list(load_suite("quick", ["method=retrain"]).methods) == ["none", "retrain"]
    assert list(load_suite("quick", ["method=./mine.py:Mine"]).methods) == ["none", "retrain", "./mine.py:Mine"]


def test_method_keeps_the_fields_that_the_suite_gave_it(tmp_path: Path) -> None:
    name = write(tmp_path, "extends: quick\nmethods: {none: , npo: {beta: 0.2}}\n")
    assert load_suite(name, ["method=npo"]).methods["npo"] == {"beta": 0.2}
    assert load_suite(name, ["method=npo", "methods.npo.lr=1"]).methods["npo"] == {"beta": 0.2, "lr": 1}


def test_attack_runs_only_that_attack_beside_the_exact_opening() -> None:
    assert list(load_suite("smoke", ["attack=shifted_window"]).attacks.items()) == [("prefix", {}), ("shifted_window", {"stride": 16})]
    assert list(load_suite("smoke", ["attack=prefix"]).attacks) == ["prefix"]


def test_a_value_may_hold_an_equals_sign() -> None:
    assert load_suite("quick", ["doc=a=b"]).doc == "a=b"


def test_a_suite_of_other_tasks_names_its_yardstick() -> None:
    mine = load_suite("quick", ["quality.tasks=[hellaswag]", "quality.yardstick=hellaswag"])
    assert mine.quality == QualityConfig(tasks=("hellaswag",), documents=100, yardstick="hellaswag")


@pytest.mark.parametrize("text", ["5", "0123", "1e400", "a #b", "${oc.env:HOME}", "a: b", "[x", "'q'", " x ", "true", "2020-01-01"])
def test_a_text_stays_as_it_was_typed(text: str) -> None:
    suite = load_suite("quick", [f"model={text}", f"revision={text}", f"corpus.path={text}"])
    assert (suite.model, suite.revision, suite.corpus.path) == (text, text, text)
    assert load_suite("quick", [f"attacks.paraphraser.model={text}"]).attacks["paraphraser"] == {"model": text}


def test_values_are_read_by_the_type_of_their_field() -> None:
    given = ["methods.npo.lora.rank=4", "methods.npo.lr=2e-3", "attacks.prefix.lengths=[8, 16]", "attacks.quantise.symmetric=true"]
    suite = load_suite("pocket", [*given, "revision=null", "quality.tasks=[palimpsest_bits_per_byte, 0123]", "memories={x}"])
    assert suite.methods["npo"] == {"lora": {"rank": 4}, "lr": 2e-3}
    assert (suite.attacks["prefix"], suite.attacks["quantise"]["symmetric"]) == ({"lengths": [8, 16]}, True)
    assert (suite.revision, suite.quality.tasks, suite.memories) == (None, ("palimpsest_bits_per_byte", "0123"), "{x}")


def test_a_file_holds_what_it_says(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, "extends: smoke\nmodel: ${oc.env:HOME}\ndoc: 'a #b'\nrevision: 0123\ninjection: {lr: 1e-4}\n"))
    assert (suite.model, suite.doc, suite.revision, suite.injection.lr) == ("${oc.env:HOME}", "a #b", "0123", 1e-4)


# ---- mistakes


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("per_rol=3", "There is no field named 'per_rol'. Did you mean 'per_role'"),
        ("corpus.sorce=text", "corpus: There is no field named 'sorce'. Did you mean 'source'"),
        ("injection.learning_rate=1", "injection: There is no field named 'learning_rate'"),
        ("per_role=many", "per_role='many': expected int, got str"),
        ("per_role=3.5", "per_role=3.5: expected int, got float"),
        ("per_role=true", "per_role=True: expected int, got bool"),
        ("per_role=", "per_role=None: expected int, got NoneType"),
        ("injection.lr=fast", "injection: lr='fast': expected float, got str"),
        ("injection.lr=true", "lr=True: expected float, got bool"),
        ("injection.lr=.nan", "injection.lr=nan: expected a finite number"),
        ("injection.lr=1e400", "injection.lr=inf: expected a finite number"),
        ("injection.lr=-1e-3", "injection.lr=-0.001: expected a number above 0"),
        ("quality.half=both", "quality.half='both': expected test or validation"),
        ("quality.documents=0", "quality.documents=0: expected at least 1"),
        ("corpus.source=txt", "source='txt': expected docstrings, text, jsonl, datasets or set"),
        ("name=../../evil", "name='../../evil': expected a plain word"),
        ("track=../pocket", "track='../pocket': expected a plain word"),
        ("seeds=[0,one]", "seeds='one': expected int, got str"),
        ("corpus=5", "corpus=5: expected fields, for example corpus.source"),
        ("methods=5", "methods=5: expected a mapping of names to fields"),
        ("methods=[npo]", "methods=['npo']: expected a mapping of names to fields"),
        ("methods.npo=5", "methods.npo=5: expected a mapping"),
        ("per_role", "'per_role' is not an override; expected field=value, for example per_role=16"),
        ("per_role=0", "per_role=0: expected at least 1"),
        ("excerpts=-1", "excerpts=-1: expected"),
        ("seeds=[]", "seeds=(): expected at least one"),
        ("seeds=[0,0]", "seeds=[0, 0]: expected each once"),
        ("seeds=[-1]", "seeds=-1: expected at least 0"),
        ("precision=fp8", "precision='fp8': expected auto, bf16 or fp32"),
        ("injection.schedule=linaer", "injection.schedule='linaer': expected constant, linear or cosine"),
        ("injection.density=0", "injection.density=0.0: expected a share above 0"),
        ("injection.density=1.01", "at most 1"),
        ("injection.occurrences=[0]", "injection.occurrences=0: expected at least 1"),
        ("injection.batch=0", "injection.batch=0: expected at least 1"),
        ("quality.tasks=[hellaswag]", "quality.yardstick='palimpsest_bits_per_byte': expected one of quality.tasks (hellaswag)"),
        ("quality.yardstick=palimpsest_choise", "quality.yardstick='palimpsest_choise': expected one of quality.tasks (palimpsest_bits"),
        ("quality.tasks=[]", "quality.tasks=(): expected at least one"),
    ],
)
def test_a_wrong_override_says_what_was_expected(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_suite("quick", [override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: quik\n", "There is no suite named 'quik'. Did you mean 'quick'?"),
        ("- a\n- b\n", "should hold fields"),
        ("doc: x\nper_role: [\n", "mine.yaml:3 is not valid YAML: "),
        ("doc: x\ndoc: y\n", "mine.yaml:2 is not valid YAML: the key 'doc' stands twice"),
        ("per_roll: 4\n", "Did you mean 'per_role'"),
        ("extends: quick\nseeds: {a: 1}\n", "expected int, got dict"),
    ],
)
def test_a_wrong_file_says_what_was_expected(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_suite(write(tmp_path, text))
    assert message in str(error.value)


def test_a_suite_that_extends_itself_by_way_of_another_is_an_error(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    write(tmp_path, f"extends: {second}\n", "a.yaml")
    write(tmp_path, f"extends: {first}\n", "b.yaml")
    with pytest.raises(UserError, match=r"extends itself: .*a\.yaml → .*b\.yaml → .*a\.yaml"):
        load_suite(first)


def test_a_missing_suite_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no suite named 'pockt'\. Did you mean 'pocket'"):
        load_suite("pockt")
    with pytest.raises(UserError, match=r"no suite file 'nowhere\.yaml'"):
        load_suite("nowhere.yaml")


def test_nothing_near_is_no_suggestion() -> None:
    assert str(unknown("thing", "zzz", ["alpha", "beta"])) == "There is no thing named 'zzz'. Known: alpha, beta."
    assert str(unknown("thing", "zzz", [])) == "There is no thing named 'zzz'. Known: none."


# ---- building dataclasses


def test_a_field_without_a_default_must_be_given() -> None:
    @dataclass(frozen=True)
    class Needs:
        first: "int"  # noqa: UP037
        second: "str | None" = None  # noqa: UP037

    assert build(Needs, {"first": 1, "second": "x"}, "here") == Needs(1, "x")
    assert build(Needs, {"first": 1, "second": None}, "here") == Needs(1)
    with pytest.raises(UserError, match="here: missing first"):
        build(Needs, {}, "here")


def test_a_suite_survives_the_way_to_plain_values_and_back() -> None:
    suite = load_suite("smoke", ["injection.offset=3"])
    again = build(Suite, plain(suite), "again")
    assert again == suite
    assert isinstance(again.injection, InjectionConfig)
