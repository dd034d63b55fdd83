"""The folder is the registry: `methods/npo.py` is the method `npo`. Code from outside comes in by file, path or entry point."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UserError, unknown
from .fields import build
from .sources import NAME as ROOT
from .sources import TREE, closure, code_hash, content_hash
from .strangers import each, stranger
from .versions import NOTHING, modules

FOLDERS = {"method": "methods", "attack": "attacks", "study": "benchmark/studies"}
STAGES = {  # whose versions keys hold
    "method": ("method",),
    "attack": ("battery", "attack"),
    "study": ("method", "battery", "attack", "quality"),
}

# Modules and folders that only run a study or show what it found: its keys hold the models it reads, and pages measure nothing.
SHOWING = ("benchmark/study", "benchmark/running", "benchmark/studies/pages", "leaderboard/study_results", "leaderboard/drawing")

# Names that mean something else in a suite: of models, and under which the battery's own findings stand.
RESERVED = {"method": ("base", "twin", "none", "retrain"), "attack": ("checks",), "study": ("list",)}


@dataclass(frozen=True)
class Plugin:
    """A method, attack or study class with its name and the hash of its source: its code, and the code of what it imports."""

    kind: str
    name: str
    cls: type
    source: str

    @property
    def doc(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.cls) or "").partition("\n")[0]

    @property
    def defaults(self) -> dict[str, Any]:
        """Field -> default."""
        return {f.name: f.default if f.default is not MISSING else f.default_factory() for f in fields(self.cls)}  # type: ignore[misc]

    def read_by(self, made: Any) -> dict[str, str]:
        """Part of a key: the content of what an instance declares to read; nothing for most."""
        what = f"{self.kind} {self.name}, reads()"
        with stranger(what):
            paths = [Path(p) for p in each(made.reads(), what)]
        return {"reads": content_hash(paths)} if paths else {}

    def make(self, given: dict[str, Any]) -> Any:
        """An instance with these fields changed; wrong names and types are the user's error."""
        with stranger(f"{self.kind} {self.name}"):
            return build(self.cls, given, f"{self.kind} {self.name}")


def names(kind: str) -> list[str]:
    """Every plug-in of the folder and of installed entry points."""
    return sorted({*shipped(kind), *_entry_points(kind)})


@cache
def find(kind: str, name: str) -> Plugin:
    """A plug-in by name (`npo`), dotted path (`my_lab.forget:Forget`) or file (`./forget.py:Forget`)."""
    if ":" in name or name.endswith(".py"):
        place, _, attribute = name.partition(":")
        for word in (attribute, Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]):
            _free(kind, word, name)
        module = _from_file(Path(place)) if place.endswith(".py") else _import(place, name)
        return _plugin(kind, attribute or Path(place).stem, module, attribute)
    if name in shipped(kind):
        with stranger(f"importing the {kind} {name}"):
            module = importlib.import_module(f"{ROOT}.{FOLDERS[kind].replace('/', '.')}.{name}")
        return _plugin(kind, name, module, "")
    if name in (outside := _entry_points(kind)):
        _free(kind, name, outside[name].value)
        with stranger(f"importing the {kind} {name} ({outside[name].value})"):
            cls = outside[name].load()
        return _plugin(kind, name, sys.modules[cls.__module__], cls.__name__)
    raise unknown(kind, name, names(kind))


def distinct(found: dict[str, Plugin]) -> dict[str, Plugin]:
    """What a suite names; two of one name could not be told apart in tables and records."""
    first: dict[str, str] = {}
    for asked, plugin in found.items():
        if (other := first.setdefault(plugin.name, asked)) != asked:
            raise UserError(f"{other} and {asked} are two {plugin.kind}s named {plugin.name}. Rename one of them, or leave it out.")
    return found


def _free(kind: str, word: str, place: str) -> None:
    if word in RESERVED[kind]:
        taken = ", ".join(RESERVED[kind])
        raise UserError(
            f"{place}: no {kind} of yours can be named {word}, which tables read as something else (as they do {taken}). Rename it."
        )


def _plugin(kind: str, name: str, module: ModuleType, attribute: str) -> Plugin:
    base = getattr(importlib.import_module(f"{ROOT}.benchmark.{kind}"), kind.capitalize())
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__ and issubclass(c, base)]
    if attribute:
        own = [c for c in own if c.__name__ == attribute]
    if len(own) != 1:
        found = ", ".join(c.__name__ for c in own) or "none"
        raise UserError(
            f"{module.__file__} should define one {base.__name__} class{f' named {attribute}' if attribute else ''}; found {found}."
        )
    made = vars(own[0]).get("__dataclass_params__")  # its own: what it inherits would not know its fields
    if made is None or not made.frozen:
        raise UserError(f"{own[0].__name__} in {module.__file__} should be a frozen dataclass: put @dataclass(frozen=True) above it.")
    if inspect.isabstract(own[0]):
        missing = ", ".join(sorted(getattr(own[0], "__abstractmethods__", ())))
        raise UserError(f"{own[0].__name__} in {module.__file__} does not define {missing}.")
    return Plugin(kind, name, own[0], _source(kind, module))


def source_files(kind: str, name: str, file: Path) -> dict[str, Path]:
    """Import name -> file, of a plug-in's module and of all that it imports from this tree, its own package or its own folder; none is run.

    What the stages that run it stand on is left out: the version of their kind covers it. So is what only runs or shows a study.
    """
    first, _, rest = name.partition(".")
    places = {ROOT: TREE}
    if first != ROOT and (rest or file.name == "__init__.py"):
        places[first] = file.parents[name.count(".") - (file.name != "__init__.py")]
    elif first != ROOT and not {"site-packages", "dist-packages"} & set(file.parts):
        places[""] = file.parent
    below = [*(f"{ROOT}.benchmark.{n}" for n in NOTHING), *(n for k in STAGES[kind] for n in modules(k))]
    return closure(name, file, places, [*below, *(_showing() if kind == "study" else ())])


@cache
def _showing() -> tuple[str, ...]:
    files = (f for name in SHOWING for f in (TREE / f"{name}.py", *(TREE / name).glob("*.py")) if f.is_file())
    return tuple(".".join((ROOT, *f.relative_to(TREE).with_suffix("").parts)).removesuffix(".__init__") for f in files)


def _source(kind: str, module: ModuleType) -> str:
    return code_hash(source_files(kind, module.__name__, Path(str(module.__file__)).resolve()).values())


@cache
def shipped(kind: str) -> tuple[str, ...]:
    """The plug-ins of the repository."""
    folder = Path(__file__).resolve().parents[2] / FOLDERS[kind]
    return tuple(sorted(f.stem for f in folder.glob("*.py") if not f.stem.startswith("_")))


def _entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {e.name: e for e in importlib.metadata.entry_points(group=f"palimpsest.{FOLDERS[kind].rpartition('/')[2]}")}


def _from_file(file: Path) -> ModuleType:
    if not file.is_file() and (own := Path(__file__).resolve().parents[2] / file).is_file():
        file = own  # a suite may name a file of this repository, wherever it is run from
    if not file.is_file():
        raise UserError(f"There is no file {str(file)!r}.")
    name = "palimpsest_file_" + hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with stranger(f"{file} cannot be imported"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(place: str, name: str) -> ModuleType:
    with stranger(f"{name!r} cannot be imported"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise UserError(f"{name!r}: the module {place!r} cannot be imported ({error}). Is it installed, or on PYTHONPATH?") from None
