"""The folder is the registry, and code from outside comes in by file, dotted path or entry point."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from palimpsest.attacks.shifted_window import ShiftedWindow
from palimpsest.benchmark.battery.shared_pass import arm
from palimpsest.benchmark.common import plugins
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import find, names

ROOT = Path(__file__).resolve().parents[2]
METHOD = '''"""A method from outside."""
from __future__ import annotations
from dataclasses import dataclass
from palimpsest.benchmark.method import Method

@dataclass(frozen=True)
class Forget(Method):
    """Forgets by itself.

    More words.
    """
    strength: float = 2.0
    layers: tuple[int, ...] = (1, 2)

    def unlearn(self, held, data, train):
        return held
'''
ATTACK = METHOD.replace("method import Method", "attack import Prompting").replace("(Method)", "(Prompting)").replace("unlearn(self, held, data, train)", "probes(self, memory, tools)")  # fmt: skip  # noqa: E501


def write(folder: Path, text: str = METHOD, name: str = "forget.py") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(("kind", "folder"), [("method", "methods"), ("attack", "attacks")])
def test_every_file_of_the_folder_is_a_plugin_of_its_name(kind: str, folder: str) -> None:
    files = sorted(f for f in (ROOT / folder).glob("*.py") if f.stem != "__init__")
    assert set(names(kind)) >= {f.stem for f in files}
    for file in files:
        plugin = find(kind, file.stem)
        assert (plugin.kind, plugin.name) == (kind, file.stem)
        assert len(plugin.source) == 16
        assert plugin.doc.endswith((".", ":", "?"))
        assert plugin.make({}) == plugin.cls(**plugin.defaults)


def test_fields_are_changed_with_their_types() -> None:
    assert find("attack", "shifted_window").make({"stride": 4, "lengths": [8]}) == ShiftedWindow(lengths=(8,), stride=4)


@pytest.mark.parametrize(
    ("kind", "name", "given", "message"),
    [
        ("method", "npo", {"bta": 1}, "method npo: There is no field named 'bta'. Did you mean 'beta'"),
        ("method", "npo", {"beta": "high"}, "method npo: beta='high': expected float, got str"),
        ("attack", "shifted_window", {"stride": 1.5}, "attack shifted_window: stride=1.5: expected int, got float"),
        ("attack", "shifted_window", {"lengths": ["a"]}, "lengths='a': expected int"),
    ],
)
def test_wrong_fields_are_named(kind: str, name: str, given: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        find(kind, name).make(given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name", "meant"), [("method", "nop", "npo"), ("attack", "paraphase", "paraphrase"), ("method", "none_", "none")]
)
def test_a_mistyped_name_is_answered_with_the_nearest(kind: str, name: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"There is no {kind} named '{name}'\. Did you mean .*'{meant}'"):
        find(kind, name)


# ---- from outside


@pytest.mark.parametrize("suffix", ["", ":Forget"])
def test_a_method_comes_in_by_file(suffix: str, tmp_path: Path) -> None:
    file = write(tmp_path)
    plugin = find("method", f"{file}{suffix}")
    assert plugin.doc == "Forgets by itself."
    assert plugin.defaults == {"strength": 2.0, "layers": (1, 2)}
    assert plugin.source == find("method", str(file)).source
    made = plugin.make({"strength": "1e-4", "layers": 3})
    assert (made.strength, made.layers) == (1e-4, (3,))


def test_an_attack_comes_in_by_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_outside_lab").mkdir()
    write(tmp_path / "my_outside_lab", ATTACK)
    monkeypatch.syspath_prepend(str(tmp_path))
    (armed,) = arm({"my_outside_lab.forget:Forget": {"strength": 3}})
    assert armed.attack.strength == 3.0  # type: ignore[attr-defined]
    assert armed.spec["fields"] == {"strength": 3}


def test_a_method_comes_in_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, name="my_entry_lab.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = importlib.metadata.EntryPoint("lab_forget", "my_entry_lab:Forget", "palimpsest.methods")
    monkeypatch.setattr(plugins.importlib.metadata, "entry_points", lambda group: [entry] if group == "palimpsest.methods" else [])
    assert "lab_forget" in names("method")
    assert "lab_forget" not in names("attack")
    assert find("method", "lab_forget").doc == "Forgets by itself."


def test_two_files_of_one_name_are_two_plugins(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    mine, other = write(tmp_path), write(tmp_path / "other", METHOD.replace("2.0", "5.0"))
    assert find("method", str(mine)).cls().strength == 2.0
    assert find("method", str(other)).cls().strength == 5.0
    assert find("method", str(mine)).source != find("method", str(other)).source


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        (METHOD, ":Forgot", "should define one Method class named Forgot; found none"),
        (METHOD + METHOD.replace("Forget", "Again").partition("Method\n")[2], "", "should define one Method class; found Forget, Again"),
        ("x = 1\n", "", "should define one Method class; found none"),
        (ATTACK, "", "should define one Method class; found none"),
        (METHOD.replace("@dataclass(frozen=True)\n", ""), "", "Forget in .* should be a frozen dataclass"),
        (METHOD.replace("def unlearn", "def forget"), "", "Forget in .* does not define unlearn"),
        ("def broken(:\n", "", "cannot be imported: .*line 1"),
        ("import no_such_module_here\n", "", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module_here'"),
    ],
)
def test_a_file_that_is_no_plugin_says_why(text: str, suffix: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        find("method", f"{write(tmp_path, text)}{suffix}")


def test_a_dataclass_that_is_not_frozen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="should be a frozen dataclass"):
        find("method", str(write(tmp_path, METHOD.replace("(frozen=True)", ""))))


def test_inheriting_from_a_dataclass_does_not_make_one(tmp_path: Path) -> None:
    """Without the decorator its own fields would silently not be hyper-parameters."""
    text = METHOD.replace("@dataclass(frozen=True)\n", "").replace("import Method", "import Descent").replace("(Method)", "(Descent)")
    with pytest.raises(UserError, match="should be a frozen dataclass"):
        find("method", str(write(tmp_path, text)))


def test_a_missing_file_or_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file '.*nowhere\.py'"):
        find("method", str(tmp_path / "nowhere.py"))
    with pytest.raises(UserError, match=r"the module 'no_such_lab' cannot be imported .*PYTHONPATH"):
        find("method", "no_such_lab:Forget")


def test_an_attack_that_writes_no_probes_cannot_be_armed(tmp_path: Path) -> None:
    text = ATTACK.replace("Prompting", "Attack")
    with pytest.raises(UserError, match="Forget should derive from one of Prompting, Membership"):
        arm({str(write(tmp_path, text)): {}})


def test_an_attack_of_a_tier_that_its_base_does_not_have_is_refused(tmp_path: Path) -> None:
    text = ATTACK + "\nForget.tier = 2\n"
    with pytest.raises(UserError, match="is of tier 2: a Prompting attack is of tier 0 or 1"):
        arm({str(write(tmp_path, text)): {}})


# ---- names


@pytest.mark.parametrize("word", ["twin", "base", "none", "retrain"])
@pytest.mark.parametrize("form", ["{word}.py", "{word}.py:Forget", "forget.py:{word}", "{word}:Forget"])
def test_a_name_that_tables_read_as_something_else_is_refused(form: str, word: str, tmp_path: Path) -> None:
    write(tmp_path, METHOD.replace("Forget(", f"{word}("))
    write(tmp_path, name=f"{word}.py")
    name = form.format(word=word)
    with pytest.raises(UserError, match=rf"no method of yours can be named {word}, which tables read as something else"):
        find("method", str(tmp_path / name) if ".py" in name else name)


@pytest.mark.parametrize("word", ["twin", "base"])
def test_an_entry_point_cannot_take_such_a_name_either(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint(word, "my_entry_lab:Forget", "palimpsest.methods")
    monkeypatch.setattr(plugins.importlib.metadata, "entry_points", lambda group: [entry])
    with pytest.raises(UserError, match=rf"my_entry_lab:Forget: no method of yours can be named {word}"):
        find("method", word)


def test_an_attack_cannot_take_the_name_under_which_checks_stand(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no attack of yours can be named checks"):
        find("attack", str(write(tmp_path, ATTACK, "checks.py")))


def test_two_plug_ins_of_one_name_in_one_suite_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    mine, other = write(tmp_path, ATTACK, "mine.py"), write(tmp_path / "other", ATTACK.replace("2.0", "5.0"), "mine.py")
    with pytest.raises(UserError, match=r"mine\.py and .*other/mine.py are two attacks named mine\. Rename one of them"):
        arm({str(mine): {}, str(other): {}})
    with pytest.raises(UserError, match=r"two attacks named prefix"):
        arm({"prefix": {}, str(write(tmp_path, ATTACK, "prefix.py")): {}})


# ---- what counts as a plug-in's code


def test_what_a_plug_in_imports_from_beside_it_is_part_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "X = 1\n", "near_by.py")
    write(tmp_path, "X = 1\n", "not_imported.py")
    file = write(tmp_path, METHOD.replace("from dataclasses", "import near_by\nfrom dataclasses"))
    sources = [find("method", str(file)).source]
    for name, text in (("not_imported.py", "X = 2\n"), ("near_by.py", "X = 1  # one\n"), ("near_by.py", "X = 22\n")):
        write(tmp_path, text, name)
        find.cache_clear()
        sources.append(find("method", str(file)).source)
    assert sources[0] == sources[1] == sources[2] != sources[3]


def test_what_a_package_imports_from_itself_is_part_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tmp_path / "my_package_lab"
    lab.mkdir()
    write(lab, METHOD.replace("from dataclasses", "from .near import X\nfrom dataclasses"))
    write(lab, "X = 1\n", "near.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = find("method", "my_package_lab.forget:Forget").source
    write(lab, "X = 22\n", "near.py")
    find.cache_clear()
    assert find("method", "my_package_lab.forget:Forget").source != before


def test_words_about_a_plug_in_are_no_part_of_its_source(tmp_path: Path) -> None:
    file = write(tmp_path)
    before = find("method", str(file)).source
    write(tmp_path, METHOD.replace("Forgets by itself.", "Does.").replace("return held", "return held  # as it is"))
    find.cache_clear()
    assert find("method", str(file)).source == before


READS = """
    def reads(self):
        return [__import__("pathlib").Path(__file__).with_name("table.txt")]
"""


def test_what_a_plug_in_declares_to_read_is_part_of_keys_by_its_content(tmp_path: Path) -> None:
    plugin = find("method", str(write(tmp_path, METHOD + READS)))
    made = plugin.make({})
    with pytest.raises(UserError, match=r"There is no file or folder .*table\.txt"):
        plugin.read_by(made)
    (tmp_path / "table.txt").write_text("a")
    first = plugin.read_by(made)
    (tmp_path / "table.txt").write_text("bb")
    second = plugin.read_by(made)
    assert set(first) == set(second) == {"reads"}
    assert first != second
    assert find("method", "npo").read_by(find("method", "npo").make({})) == {}


def test_the_weights_of_a_paraphraser_are_part_of_its_keys(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    specs = []
    for weights in ("one", "other one"):
        (tmp_path / "model.safetensors").write_text(weights)
        specs.append(arm({"paraphraser": {"model": str(tmp_path)}})[0].spec)
    assert specs[0]["reads"] != specs[1]["reads"]
    assert "reads" not in arm({"prefix": {}})[0].spec
