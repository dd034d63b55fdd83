"""Reads what people write, YAML files and values on a command line, as it stands: nothing is looked up in the environment."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import UserError
from .lines import read_text

_KINDS = (
    ("null", re.compile(r"~?|null")),
    ("bool", re.compile(r"true|false")),
    ("int", re.compile(r"[-+]?(?:0|[1-9]\d*)")),  # 0123 is no number: it may be a revision
    ("float", re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.inf|\.nan")),
)


class _Loader(yaml.SafeLoader):
    """YAML with the plain scalars above, and no key twice."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {
        None: [(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{e.pattern})\Z")) for kind, e in _KINDS]
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key, _ in node.value if keys.count(key.value) > 1]:
            raise yaml.MarkedYAMLError(problem=f"the key {twice[0].value!r} stands twice", problem_mark=twice[-1].start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> Any:
    """What a YAML file holds; what is wrong with it is said with its line."""
    try:
        return yaml.load(read_text(file), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise UserError(f"{file}{f':{mark.line + 1}' if mark else ''} is not valid YAML: {why}.") from None


def read_value(text: str, hint: Any) -> Any:
    """A value from the command line for a field of this type; a text stays as it was typed."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if text in ("null", "~") else read_value(text, next(a for a in arguments if a is not type(None)))
    if hint is str:
        return text
    if origin is tuple and text.startswith("["):
        items = _flow(text, yaml.BaseLoader)
        return [read_value(i, arguments[0]) if isinstance(i, str) else i for i in items] if isinstance(items, list) else items
    if origin is tuple:
        return [read_value(text, arguments[0])]
    if hint is Any or origin is dict or is_dataclass(hint):
        return _flow(text, _Loader) if text[:1] in "[{" else _scalar(text)
    return _scalar(text)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `above` over those of `below`; fields within fields are merged too. A `${…}` stays as it is written."""
    try:
        both = OmegaConf.merge(OmegaConf.create(dict(below)), OmegaConf.create(dict(above)))
    except TypeError:  # a list over fields, say: whoever reads the field tells what it should be
        return {**below, **above}
    except OmegaConfBaseException as error:
        raise UserError(f"These fields cannot be put over each other: {str(error).splitlines()[0]}") from None
    return typing.cast(dict[str, Any], OmegaConf.to_container(both, resolve=False))


def _flow(text: str, loader: Any) -> Any:
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise UserError(f"{text!r} is no list or mapping: {getattr(error, 'problem', None) or error}.") from None


def _scalar(text: str) -> Any:
    kind = next((kind for kind, e in _KINDS if e.fullmatch(text)), "")
    if kind in ("null", "bool"):
        return {"true": True, "false": False}.get(text)
    return int(text) if kind == "int" else float(text.replace(".inf", "inf").replace(".nan", "nan")) if kind == "float" else text
