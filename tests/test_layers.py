"""Imports point down the layers, plug-ins never import each other, and light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmark", "methods", "attacks", "leaderboard")
PLUGINS = ("methods", "attacks")

# Folder (or module at the top) -> the folders it may import, from the ground up. Imports for types alone count too.
GROUND = ("common",)
MODELS = (*GROUND, "suites", "texts", "models")
TRAINING = (*MODELS, "training")
READING = (*TRAINING, "reading")
ATTACKS = (*READING, "attack_tools")
RUNNING = (*ATTACKS, "battery", "quality", "scoring", "method", "running")
SUBMISSION = (*RUNNING, "conformance", "submission", "leaderboard")
STUDY = (*RUNNING, "leaderboard", "study")
COMMANDS = (*SUBMISSION, "study", "commands")
MAY_IMPORT = {
    "common": GROUND,
    "scoring": (*GROUND, "scoring"),
    "suites": (*GROUND, "suites"),
    "texts": (*GROUND, "suites", "texts"),
    "models": MODELS,
    "training": TRAINING,
    "reading": READING,
    "quality": (*TRAINING, "quality"),
    "attack_tools": ("common", "texts", "models", "training", "attack_tools"),
    "method": READING,
    "attack": ATTACKS,
    "battery": (*ATTACKS, "battery"),
    "running": RUNNING,
    "conformance": (*RUNNING, "conformance"),
    "submission": SUBMISSION,
    "study": STUDY,
    "studies": (*STUDY, "studies"),
    "commands": COMMANDS,
    "bench": (*COMMANDS, "bench"),
    "cli": COMMANDS,
    "start": ("cli", "commands"),
    "suite_page": ("common", "suites", "commands", "cli"),
    "leaderboard": ("common", "scoring", "leaderboard"),
}
# Formulas that import nothing of ours: every floor may use them. They stay where they are, since keys of studies hold their code.
LEAVES = ("benchmark.studies._measures",)
# Modules of `benchmark` that are read where torch is not wanted.
LIGHT = {
    "common": (
        "archive budget errors facts fields frozen guard launched limits lines paths plugins progress scripts seeds sources strangers "
        "strict types versions written"
    ),
    "scoring": "calibration published score",
    "suites": "config frozen space tracks",
    "texts": "corpus docstrings memories neardup subsets",
    "quality": "documents",
    "reading": "readings",
}
HEAVY = ("torch", "transformers", "datasets", "deepspeed", "lm_eval")


def files() -> list[Path]:
    return sorted(f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py") if f.stem != "__init__")


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imports(file: Path) -> set[str]:
    """Modules of the tree (as benchmark.types, methods.npo) and top-level names of others, wherever they are imported."""
    place, found = ("palimpsest", *name_of(file).split(".")), set()
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(place[: len(place) - node.level]) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            found |= {f"{module}.{alias.name}" if _is_module(f"{module}.{alias.name}") else module for alias in node.names}
    return {name.removeprefix("palimpsest.") if name.startswith("palimpsest.") else name.partition(".")[0] for name in found}


def _is_module(name: str) -> bool:
    return (ROOT / Path(*name.removeprefix("palimpsest.").split("."))).with_suffix(".py").is_file()


def room(name: str) -> str:
    """The folder of `benchmark`, or the module at its top, that a module of the tree is in; of others the first folder."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "benchmark" else first


def rooms(file: Path) -> set[str]:
    """What a file imports of the tree, by rooms."""
    return {room(name) for name in imports(file) if name.partition(".")[0] in FOLDERS and name not in LEAVES}


FILES = files()


def named(folder: str) -> list[Path]:
    return [f for f in FILES if f.relative_to(ROOT).parts[0] == folder]


def test_the_walk_sees_relative_and_inner_imports() -> None:
    assert {"running.attacking", "common.types"} <= {n.removeprefix("benchmark.") for n in imports(ROOT / "benchmark/running/plan.py")}
    assert "benchmark.running.plan" in imports(ROOT / "benchmark/commands/shared.py"), "imports inside functions count"
    assert "benchmark.running.store" in imports(ROOT / "benchmark/commands/progress.py"), "imports for types count"
    assert "method" in rooms(ROOT / "methods" / "npo.py")
    assert "torch" in imports(ROOT / "methods" / "npo.py")


def test_every_folder_has_a_row() -> None:
    assert {room(name_of(f)) for f in (*named("benchmark"), *named("leaderboard"))} == set(MAY_IMPORT)


@pytest.mark.parametrize("file", [*named("benchmark"), *named("leaderboard")], ids=name_of)
def test_a_folder_imports_what_the_table_lets_it(file: Path) -> None:
    here = room(name_of(file))
    assert rooms(file) <= {*MAY_IMPORT[here], here}


@pytest.mark.parametrize("name", LEAVES)
def test_what_every_folder_may_import_imports_nothing_of_ours(name: str) -> None:
    assert rooms((ROOT / Path(*name.split("."))).with_suffix(".py")) == set()


def test_the_table_has_no_circle() -> None:
    left = {here: set(others) - {here} for here, others in MAY_IMPORT.items()}
    while left:
        ground = {here for here, others in left.items() if not others & left.keys()}
        assert ground, f"a circle among {sorted(left)}"
        left = {here: others for here, others in left.items() if here not in ground}


@pytest.mark.parametrize("file", [f for folder in PLUGINS for f in named(folder)], ids=name_of)
def test_a_plug_in_imports_its_facade_and_nothing_else_of_ours(file: Path) -> None:
    assert rooms(file) == {"method" if file.parent.name == "methods" else "attack"}


@pytest.mark.parametrize("file", named("leaderboard"), ids=name_of)
def test_the_leaderboard_reads_records_and_never_imports_torch(file: Path) -> None:
    assert imports(file).isdisjoint(HEAVY)


def test_no_module_imports_itself_by_a_circle() -> None:
    """Imports inside functions count too: they are for speed, not for breaking circles."""
    graph = {name_of(f): {n for n in imports(f) if n.partition(".")[0] in FOLDERS} for f in FILES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' → '.join((*path, name))}"
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


# ---- importing


def imported(modules: list[str], out: Path) -> tuple[str, str, set[str]]:
    """What a new process prints when it imports these, and which heavy libraries are loaded afterwards."""
    code = (
        f"import sys\nfor m in {modules!r}: __import__('palimpsest.' + m)\n"
        f"open({str(out)!r}, 'w').write(' '.join(h for h in {HEAVY!r} if h in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, set(out.read_text().split())


def test_light_modules_and_the_leaderboard_import_without_torch(tmp_path: Path) -> None:
    modules = [f"benchmark.{folder}.{m}" for folder, names in LIGHT.items() for m in names.split()] + [
        name_of(f) for f in named("leaderboard")
    ]
    assert imported(modules, tmp_path / "loaded")[2] == set()


def test_the_command_line_imports_without_torch(tmp_path: Path) -> None:
    assert imported(["benchmark.cli"], tmp_path / "loaded")[2] == set()


def test_nothing_is_printed_at_import(tmp_path: Path) -> None:
    out, _, heavy = imported([name_of(f) for f in FILES], tmp_path / "loaded")
    assert out == ""
    assert "torch" in heavy


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_module_does_anything_at_module_level(file: Path) -> None:
    calls = [node for statement in ast.parse(file.read_text("utf-8")).body if isinstance(statement, ast.Expr) for node in [statement.value]]
    named_calls = [ast.unparse(c.func) for c in calls if isinstance(c, ast.Call)]
    assert set(named_calls) <= {"app.add_typer", "matplotlib.use", "app.command()"}
