"""Formula cards: `make docs` writes docs/methods.md from the docstrings and fields of methods/*.py."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..common.paths import CONFIGS
from ..common.plugins import Plugin, find, names
from ..method import Descent
from ..reading.early_stopping import EarlyStopping
from ..suites.space import declared_strength
from ..training.lora import Lora

PAGE = CONFIGS.parent / "docs" / "methods.md"
HEAD = """# Methods

<!-- Written by `make docs` from methods/*.py. Change the docstrings there, not this page. -->

x is a forget text, y a retain text, p the model, p_ref or h_ref the held model, z logits, NLL the negative log-likelihood over
scored tokens, "mean" the mean over scored tokens of the whole batch. L_retain is `retain_loss`: the mean NLL(y) ("nll") or the mean
KL(p_ref || p) at the positions that predict a scored token of y ("kl"). Pad, prompt and labels of -100 never count.

*Strength* is the field that trades forgetting for keeping; on [operating curves](operating-curves.md) it holds multiples of its
ordinary value.
"""


def page() -> str:
    """The whole page: an overview, the fields that loss-based methods share, and a card for every method of the folder."""
    plugins = [find("method", name) for name in names("method") if _shipped(name)]
    return "\n".join([HEAD, *_overview(plugins), *_shared(), *(line for p in plugins for line in _card(p))])


def _shipped(name: str) -> bool:
    return (CONFIGS.parent / "methods" / f"{name}.py").is_file()


def _overview(plugins: list[Plugin]) -> Iterator[str]:
    yield "| method | paper | reads retain text | needs the history | strength | lines of its file |"
    yield "|---|---|---|---|---|---|"
    for p in plugins:
        retain = "yes" if getattr(p.cls, "uses_retain", False) else "no"
        history = "yes" if p.cls.needs_history else "no"  # type: ignore[attr-defined]
        paper, lines = _cell(p.cls.paper or "–"), len(_source(p.cls).splitlines())  # type: ignore[attr-defined]
        yield f"| [{p.name}](#{p.name}) | {paper} | {retain} | {history} | {_strength(p)} | {lines} |"
    yield ""


def _strength(p: Plugin) -> str:
    """The field that an operating curve varies, and which way."""
    if (scale := declared_strength(p.cls)) is None:
        return "–"
    return f"`{scale.field}`" + (
        "" if scale.power == 1 else ", less is stronger" if scale.power == -1 else f", to the power {scale.power:g}"
    )


def _shared() -> Iterator[str]:
    yield "Methods with a learning rate train through one loop and share these fields, of which each may have defaults of its own:"
    yield ""
    yield from fields_of(Descent)
    for name, cls in (("lora", Lora), ("stop", EarlyStopping)):
        yield f"`{name}` is given by fields of its own (`methods.npo.{name}.…=…`). {inspect.getdoc(cls)}"
        yield ""
        yield from fields_of(cls)


def _card(p: Plugin) -> Iterator[str]:
    yield f"## {p.name}"
    yield ""
    yield inspect.getdoc(p.cls) or ""
    yield ""
    if p.cls.paper:  # type: ignore[attr-defined]
        yield f"Paper: {p.cls.paper}."  # type: ignore[attr-defined]
        yield ""
    yield from fields_of(p.cls)


def fields_of(cls: type) -> Iterator[str]:
    """A table of the fields that the class itself declares, with the comments beside them."""
    if found := list(declared(cls)):
        yield from ("| field | default | |", "|---|---|---|")
        yield from (f"| `{name}` | {_cell(default)} | {_cell(comment)} |" for name, default, comment in found)
        yield ""


def declared(cls: type) -> Iterator[tuple[str, str, str]]:
    """Name, default and comment, as they are written, of every field that the class itself declares with a default."""
    body = next(n for n in ast.walk(ast.parse(_source(cls))) if isinstance(n, ast.ClassDef) and n.name == cls.__name__).body
    lines = _source(cls).splitlines()
    for n in body:
        if isinstance(n, ast.AnnAssign) and n.value is not None and "ClassVar" not in ast.unparse(n.annotation):
            default = lines[n.value.lineno - 1][n.value.col_offset : n.value.end_col_offset]
            yield ast.unparse(n.target), default, lines[(n.end_lineno or n.lineno) - 1].partition("  # ")[2]


def _source(cls: Any) -> str:
    return Path(inspect.getfile(cls)).read_text("utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
