"""The folder is the registry, and code from outside comes in by file, dotted path or entry point."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from palimpsest.attacks.shifted_window import ShiftedWindow
from palimpsest.benchmark import plugins
from palimpsest.benchmark.battery import arm
from palimpsest.benchmark.errors import UserError
from palimpsest.benchmark.plugins import find, names

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
