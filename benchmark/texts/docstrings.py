"""Harvests docstrings from installed packages by parsing their source; nothing is imported or run."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

PACKAGES = (
    "accelerate",
    "aiohttp",
    "click",
    "datasets",
    "deepspeed",
    "evaluate",
    "fontTools",
    "fsspec",
    "huggingface_hub",
    "jinja2",
    "joblib",
    "lm_eval",
    "matplotlib",
    "mpmath",
    "narwhals",
    "networkx",
    "nltk",
    "numpy",
    "pandas",
    "peft",
    "PIL",
    "psutil",
    "pyarrow",
    "pydantic",
    "pygments",
    "pyparsing",
    "requests",
    "rich",
    "sacrebleu",
    "scipy",
    "sklearn",
    "sympy",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
    "typer",
    "urllib3",
)
# Small ones that this package needs itself, so they are always there.
EVERYWHERE = ("jinja2", "matplotlib", "omegaconf", "optuna", "rich", "safetensors", "tqdm", "typer")
SHORTEST = 160  # characters; shorter docstrings are labels rather than text


def digest(text: str) -> str:
    """The 16 hexadecimal digits that stand for a document in a manifest."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def harvest(packages: Iterable[str] = PACKAGES, workers: int | None = None) -> dict[str, str]:
    """Every distinct docstring of at least 160 characters, keyed by digest, in digest order.

    Reads the packages' .py files in parallel. Packages that are not installed are passed over: the
    manifest's coverage tells how much is missing.
    """
    files = [str(path) for package in packages for path in _sources(package)]
    found: dict[str, str] = {}
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        for texts in pool.map(_docstrings, files, chunksize=64):
            found.update((digest(text), text) for text in texts)
    return dict(sorted(found.items()))


def some(count: int, packages: Iterable[str] = EVERYWHERE) -> list[str]:
    """A few docstrings, as many of each package, in the order of its files: quick, and the same where the same versions are installed."""
    packages = tuple(packages)
    each = -(-count // len(packages))
    found = [text for p in packages for text in islice((t for file in _sources(p) for t in _docstrings(str(file))), each)]
    return found[:count]


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """The installed version of the distribution behind each package that is present."""
    names = importlib.metadata.packages_distributions()
    return {p: importlib.metadata.version(names[p][0]) for p in packages if p in names}


def _sources(package: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package)  # finds the file of a top-level package without importing it
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(folder).rglob("*.py"))


def _docstrings(file: str) -> list[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(Path(file).read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return []  # templates and test data that are not Python
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    raw = (ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, kinds))
    texts = (inspect.cleandoc(text).strip() for text in raw if text)
    return [t for t in texts if len(t) >= SHORTEST and "\x00" not in t]
