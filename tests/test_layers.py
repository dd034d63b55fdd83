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

# From the ground up. A module may import its own layer and those below; plug-ins and leaderboard have rules of their own.
LAYERS = (
    (
        "errors",
        "guard",
        "lines",
        "limits",
        "fields",
        "written",
        "paths",
        "types",
        "seeds",
        "config",
        "sources",
        "versions",
        "strangers",
        "plugins",
        "calibration",
        "scoring",
        "membership",
        "measures",
        "sample",
        "readings",
        "space",
        "tracks",
    ),
    (
        "docstrings",
        "neardup",
        "corpus",
        "memories",
        "synonyms",
        "tokenizer",
        "engine",
        "precision",
        "metering",
        "resume",
        "attention",
        "logits",
        "training",
        "losses",
        "blocks",
        "finite",
        "unread",
        "opening",
        "saving",
        "kinds",
        "subject",
        "bounds",
        "lens",
        "stream",
        "verdicts",
        "known",
        "neox",
        "forward",
        "asking",
        "probing",
        "stopping",
        "decoding",
        "optimise",
        "weights",
        "quantisation",
        "lora",
        "trainer",
    ),
    ("method", "attack", "rewording", "relearning", "conformance_worker", "pretrain", "quality_data", "quality"),
    (
        "provenance",
        "store",
        "reasons",
        "answers",
        "battery",
        "claims",
        "work",
        "estimate",
        "expensive",
        "checks",
        "attacking",
        "pipeline",
        "assemble",
        "vitals",
        "outside",
        "tune",
    ),
    (
        "cards",
        "explain",
        "interruption",
        "start",
        "progress",
        "plots",
        "report",
        "bench",
        "bench_battery",
        "bench_reading",
        "command",
        "command_check",
        "command_data",
        "command_new",
        "conformance",
        "conformance_method",
        "cli",
    ),
)
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
LIGHT = (*LAYERS[0], "docstrings", "neardup", "corpus", "memories", "quality_data", "report")
HEAVY = ("torch", "transformers", "datasets", "deepspeed", "lm_eval")


def files() -> list[Path]:
    return sorted(f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py") if f.stem != "__init__")


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imports(file: Path) -> set[str]:
    """Modules of the tree (as benchmark.types, methods.npo) and top-level names of others, wherever they are imported."""
    place, found = ("palimpsest", *name_of(file).split(".")), set()
    tree = ast.parse(file.read_text("utf-8"))
    for_types = {n for i in ast.walk(tree) if isinstance(i, ast.If) and ast.unparse(i.test) == "TYPE_CHECKING" for n in ast.walk(i)}
    for node in set(ast.walk(tree)) - for_types:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(place[: len(place) - node.level]) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            found |= {f"{module}.{alias.name}" if _is_module(f"{module}.{alias.name}") else module for alias in node.names}
    return {name.removeprefix("palimpsest.") if name.startswith("palimpsest.") else name.partition(".")[0] for name in found}


def _is_module(name: str) -> bool:
    return (ROOT / Path(*name.removeprefix("palimpsest.").split("."))).with_suffix(".py").is_file()


def inside(file: Path, folder: str) -> set[str]:
    return {name.split(".")[1] for name in imports(file) if name.startswith(f"{folder}.")}


FILES = files()


def named(folder: str) -> list[Path]:
    return [f for f in FILES if f.relative_to(ROOT).parts[0] == folder]


def test_the_walk_sees_relative_and_inner_imports() -> None:
    assert {"attacking", "store", "plugins"} <= inside(ROOT / "benchmark" / "pipeline.py", "benchmark")
    assert "pipeline" in inside(ROOT / "benchmark" / "command.py", "benchmark"), "imports inside functions count"
    assert {"losses", "method"} <= inside(ROOT / "methods" / "npo.py", "benchmark")
    assert "torch" in imports(ROOT / "methods" / "npo.py")


def test_every_module_has_a_layer() -> None:
    assert {f.stem for f in named("benchmark")} == set(LEVEL), "put a new module into LAYERS, as low as its imports allow"


@pytest.mark.parametrize("file", named("benchmark"), ids=name_of)
def test_no_import_points_up(file: Path) -> None:
    up = {other for other in inside(file, "benchmark") if LEVEL[other] > LEVEL[file.stem]}
    assert not up, f"{file.stem} (layer {LEVEL[file.stem]}) imports {up} from above"


@pytest.mark.parametrize("file", named("benchmark"), ids=name_of)
def test_the_machine_knows_no_plugin_by_name(file: Path) -> None:
    assert not {name for name in imports(file) if name.startswith(("methods", "attacks"))}


@pytest.mark.parametrize("file", [f for f in named("benchmark") if LEVEL.get(f.stem, 0) < 4], ids=name_of)
def test_only_the_top_layer_reads_the_leaderboard(file: Path) -> None:
    assert not inside(file, "leaderboard")


@pytest.mark.parametrize("file", [f for folder in PLUGINS for f in named(folder)], ids=name_of)
def test_plugins_import_what_is_below_them_and_never_each_other(file: Path) -> None:
    assert not {name for name in imports(file) if name.startswith((*PLUGINS, "leaderboard"))}
    assert all(LEVEL[other] <= LEVEL["method"] for other in inside(file, "benchmark"))
    base = "method" if file.parent.name == "methods" else "attack"
    assert base in inside(file, "benchmark")


@pytest.mark.parametrize("file", named("leaderboard"), ids=name_of)
def test_the_leaderboard_reads_records_and_never_imports_torch(file: Path) -> None:
    assert imports(file).isdisjoint(HEAVY)
    assert inside(file, "benchmark") <= set(LAYERS[0])
    assert not {name for name in imports(file) if name.startswith(PLUGINS)}


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
    modules = [f"benchmark.{m}" for m in LIGHT] + [name_of(f) for f in named("leaderboard")]
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
