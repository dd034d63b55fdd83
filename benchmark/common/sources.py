"""What code says, whoever comments or formats it: hashes over syntax trees, and which files a file imports."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UserError

NAME = __name__.rsplit(".", 3)[0]  # the import name of the tree
TREE = Path(__file__).resolve().parents[2]
Places = Mapping[str, Path]  # first part of an import name ("" for any) -> the folder in which it is looked for


def closure(name: str, file: Path, places: Places, without: Collection[str] = ()) -> dict[str, Path]:
    """Import name -> file, of a module and of all that it imports from these places, wherever the imports stand.

    What `without` names is left out, with what only it imports.
    """
    found: dict[str, Path] = {}
    todo = [(name, file)]
    while todo:
        name, file = todo.pop()
        if name not in found and name not in without:
            found[name] = file
            for module, names in _imports(name, file, file.stat().st_mtime_ns):
                todo += [(n, f) for n in _origins(module, names, places) if (f := _file_of(n, places))]
    return found


def _origins(module: str, names: Collection[str], places: Places) -> list[str]:
    """Modules that `from module import names` needs: the module, names that are modules; through a façade, where names are defined."""
    file = _file_of(module, places)
    handed_on = _handed_on(module, file, file.stat().st_mtime_ns) if file else None
    if handed_on is None or not handed_on.keys() >= set(names):
        return [module, *(f"{module}.{name}" for name in names)]
    return [origin for name in names for origin in _origins(*handed_on[name], places)]


def in_tree(module: str, without: Collection[str] = ()) -> dict[str, Path]:
    """The closure of a module of the tree, as `benchmark.method`."""
    return closure(f"{NAME}.{module}", file_of(module), {NAME: TREE}, [f"{NAME}.{w}" for w in without])


def file_of(module: str) -> Path:
    """The file of a module of the tree."""
    file = _file_of(f"{NAME}.{module}", {NAME: TREE})
    if file is None:
        raise ValueError(f"there is no module {module}")
    return file


def code_hash(files: Iterable[Path]) -> str:
    """Over the code of modules, without docstrings, comments, declared strengths and kinds; where modules of this tree lie counts not."""
    return digest(sorted(code(file, moved=True) for file in files))


def code(file: Path, part: str = "", moved: bool = False) -> str:
    """What a module says, or a function or class in it (`Run.data`); of a plug-in, the same if modules of this tree were `moved`."""
    return _code(file, file.stat().st_mtime_ns, part, moved)


def content_hash(paths: Iterable[Path]) -> str:
    """Over the content of files, and of all files of folders with their names; where they lie does not matter."""
    digest = hashlib.sha256()
    for path in paths:
        if not path.exists():
            raise UserError(f"There is no file or folder {path}, which results are declared to depend on.")
        for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(path)}:{_content(file, file.stat().st_size, file.stat().st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _content(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of the hash of a JSON value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


@cache
def _imports(name: str, file: Path, changed: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(Absolute name of a module, what is imported from it) for all imports of a module."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(file.read_text("utf-8"))
    for_types = {n for i in ast.walk(tree) if isinstance(i, ast.If) and ast.unparse(i.test) == "TYPE_CHECKING" for n in ast.walk(i)}
    found: list[tuple[str, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node not in for_types:
            found += [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node not in for_types:
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            found.append((module, tuple(alias.name for alias in node.names)))
    return tuple(found)


@cache
def _handed_on(name: str, file: Path, changed: int) -> dict[str, tuple[str, tuple[str, ...]]] | None:
    """Of a façade, a module of nothing but imports from others: name -> the module it comes from, and its name there. None: no façade."""
    tree = ast.parse(file.read_text("utf-8"))
    rest = [n for n in tree.body if not (isinstance(n, ast.ImportFrom) or (isinstance(n, ast.Expr) and _is_text(n.value)))]
    if rest or file.name == "__init__.py":
        return None
    return {n: (module, (n,)) for module, names in _imports(name, file, changed) for n in names}


def _file_of(name: str, places: Places) -> Path | None:
    first, _, rest = name.partition(".")
    folder, parts = (places[first], rest) if first in places else (places.get(""), name)
    if folder is None:
        return None
    path = folder.joinpath(*(p for p in parts.split(".") if p))
    return next((f for f in (path.with_name(path.name + ".py"), path / "__init__.py") if f.is_file()), None)


@cache
def _code(file: Path, changed: int, part: str, moved: bool) -> str:
    tree: Any = ast.parse(file.read_text("utf-8"))
    for word in part.split(".") if part else ():
        tree = next((n for n in tree.body if getattr(n, "name", None) == word), None)
        if tree is None:
            raise ValueError(f"there is no {part} in {file.name} any more")
    if moved:
        _leave_out_declarations(tree)
        # The place of an import of ours; what stands there is in the hash of the other file.
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (file.is_relative_to(TREE) if node.level else f"{node.module}.".startswith(f"{NAME}.")):
                node.module, node.level = None, 0
    return json.dumps(_plain(tree), separators=(",", ":"))


def _leave_out_declarations(tree: ast.Module) -> None:
    """Take out what tells how a plug-in is tried and no more, unless the module reads it.

    That is `strength: ClassVar[Strength] = …` of a method with its import, and of an attack `kinds = …` (which memories it is asked about)
    and `compares = …` (whether it needs a twin).
    """
    nodes = list(ast.walk(tree))
    read = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            node.body = [n for n in node.body if (name := _declared(n)) is None or name in read]
        elif isinstance(node, ast.ImportFrom) and len(node.names) > 1 and "strength" not in read:
            node.names = [n for n in node.names if n.name != "Strength"]


def _declared(node: ast.AST) -> str | None:
    """The name that such a declaration gives a value to; None for anything else."""
    if isinstance(node, ast.AnnAssign) and "ClassVar" in ast.unparse(node.annotation) and ast.unparse(node.target) == "strength":
        return "strength"
    names = [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []
    return names[0] if names in (["kinds"], ["compares"]) else None


def _plain(node: Any) -> Any:
    """A syntax tree as JSON that is the same in every version of Python: no places, no empty fields, no texts that stand alone."""
    if isinstance(node, list):
        return [_plain(n) for n in node if not (isinstance(n, ast.Expr) and _is_text(n.value))]
    if isinstance(node, ast.AST):
        fields = [(k, v) for k, v in ast.iter_fields(node) if v is not None and v != []]
        return [type(node).__name__, *([k, _plain(v)] for k, v in fields)]
    return repr(node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
