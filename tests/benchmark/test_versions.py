"""Versions in keys are raised when results change: what makes a kind of stage is pinned, and another code asks for a decision."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.benchmark.common import sources, versions
from palimpsest.benchmark.common.sources import closure, code, code_hash
from palimpsest.benchmark.common.versions import MADE_BY, READING, VERSIONS, made_by, modules
from tests.benchmark.pin import now, pinned

WHAT_TO_DO = (
    "What makes {kind} has changed since it was pinned: {names}. Either raise the version of {kind} in benchmark/common/versions.py, which "
    "makes every user's stages of that kind count as not done, and run `python -m tests.benchmark.pin`; or, if results are what they were, "
    "show equal golden records with `python -m tests.benchmark.golden` and then run `python -m tests.benchmark.pin`."
)


@pytest.mark.parametrize("kind", MADE_BY)
def test_code_that_makes_results_is_as_it_was_pinned(kind: str) -> None:
    before, here = pinned(), now()
    changed = [name for name in made_by(kind) if before["code"].get(name) != here["code"][name]]
    if before["versions"].get(kind) == here["versions"][kind]:
        assert not changed, WHAT_TO_DO.format(kind=kind, names=", ".join(changed))
    assert before["versions"].get(kind) == here["versions"][kind], f"the version of {kind} was raised: run `python -m tests.benchmark.pin`."


def test_every_kind_has_a_version_and_says_what_makes_it() -> None:
    assert {*VERSIONS, READING} == set(MADE_BY)
    assert all(made_by(kind) for kind in MADE_BY)


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        ("running.store", set()), ("cli", set()), ("common.errors", set()), ("training.metering", set()), ("running.plan", set()),
        ("training.attention", {"held", "twin", "method", "attack"}),
        ("reading.cascade", {"method", "battery", "attack", "checks", "published", READING}),
        ("scoring.score", {"attack", "thresholds"}),
        ("quality.documents", {"quality"}),
    ],
)  # fmt: skip
def test_a_module_concerns_the_kinds_whose_results_it_can_change(module: str, kinds: set[str]) -> None:
    sources.file_of(f"benchmark.{module}")  # it is there
    assert {kind for kind in MADE_BY if f"{sources.NAME}.benchmark.{module}" in modules(kind)} == kinds


# ---- what code says


SAME = '"""Doc."""\n# a comment\ndef f(a, b=1):\n    """More."""\n    return a + b  # sum\n'


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("def f(a, b=1):\n    return (a +\n            b)\n", True), (SAME.replace("Doc.", "Other."), True),
        (SAME.replace("  # sum", ""), True),
        (SAME.replace("b=1", "b=2"), False), (SAME.replace("b=1", "b=True"), False), (SAME.replace("def f", "def g"), False),
        (SAME + "f(1)\n", False),
    ],
)  # fmt: skip
def test_words_about_code_do_not_count_and_code_does(text: str, alike: bool, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SAME)
    (tmp_path / "b.py").write_text(text)
    assert (code(tmp_path / "a.py") == code(tmp_path / "b.py")) == alike


def test_a_part_of_a_module_is_told_from_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("class A:\n    def f(self):\n        return 1\n\n    def g(self):\n        return 2\n")
    before = code(file, "A.f"), code(file, "A.g")
    file.write_text(file.read_text().replace("return 2", "return 33"))
    assert code(file, "A.f") == before[0]
    assert code(file, "A.g") != before[1]
    with pytest.raises(ValueError, match=r"there is no A\.h"):
        code(file, "A.h")


def test_to_what_an_attack_applies_is_in_no_hash_unless_its_code_reads_it(tmp_path: Path) -> None:
    plain = "class A:\n    tier = 2\n    def f(self):\n        return 1\n"
    said = plain.replace("    tier = 2\n", '    tier = 2\n    kinds = ("passage",)\n')
    hashes = []
    for i, text in enumerate((plain, said, said.replace("return 1", "return self.kinds"), plain.replace("return 1", "return self.kinds"))):
        (tmp_path / f"{i}.py").write_text(text)
        hashes.append(code_hash([tmp_path / f"{i}.py"]))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    (tmp_path / "compares.py").write_text(plain.replace("    tier = 2\n", "    tier = 2\n    compares = True\n"))
    assert code_hash([tmp_path / "compares.py"]) == hashes[0]


def test_a_closure_follows_imports_of_every_form_within_its_places(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    (lab / "deep").mkdir(parents=True)
    (lab / "__init__.py").write_text("")
    (lab / "deep" / "__init__.py").write_text("from . import d\n")
    for name in ("b", "c", "deep/d", "unused"):
        (lab / f"{name}.py").write_text("x = 1\n")
    (lab / "a.py").write_text("import os, torch\nfrom .b import x\nfrom lab import deep\ndef f():\n    from . import c\n")
    found = closure("lab.a", lab / "a.py", {"lab": lab})
    assert set(found) == {"lab", "lab.a", "lab.b", "lab.c", "lab.deep", "lab.deep.d"}
    before = code_hash(found.values())
    (lab / "c.py").write_text("x = 22\n")
    assert code_hash(found.values()) != before
    assert set(closure("lab.a", lab / "a.py", {"lab": lab}, ["lab.deep"])) == {"lab", "lab.a", "lab.b", "lab.c"}


def test_the_hash_of_code_is_the_same_under_every_version_of_python(tmp_path: Path) -> None:
    """Fields that some versions of `ast` leave out or add are empty ones."""
    (tmp_path / "a.py").write_text("def f(): ...\n")
    assert code(tmp_path / "a.py") == '["Module",["body",[["FunctionDef",["name","\'f\'"],["args",["arguments"]],["body",[["Expr",["value",["Constant",["value","Ellipsis"]]]]]]]]]]'  # fmt: skip  # noqa: E501


def test_a_name_that_is_no_module_or_part_any_more_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.MADE_BY, "checks", ("running.plan:Run.nothing",))
    versions.modules.cache_clear()
    with pytest.raises(ValueError, match=r"there is no Run\.nothing"):
        made_by("checks")
    versions.modules.cache_clear()


def test_where_modules_of_ours_lie_does_not_count_for_plug_ins_and_where_their_own_lie_does(tmp_path: Path) -> None:
    def of(text: str) -> str:
        (tmp_path / "mine.py").write_text(text)
        sources._code.cache_clear()
        return code_hash([tmp_path / "mine.py"])

    ours, theirs = "from palimpsest.benchmark.method import rng\n", "from .beside import rng\n"
    assert of(ours) == of(ours.replace("method", "common.seeds"))
    assert of(ours) != of(ours.replace("rng", "derive"))
    assert of(theirs) != of(theirs.replace("beside", "other")), "two modules may define one name"
