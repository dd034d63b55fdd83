"""Every field of every shipped method and attack refuses what it cannot mean, and a plug-in's own fields do by declaring it."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.fields import build
from palimpsest.benchmark.common.limits import Count, one_of
from palimpsest.benchmark.common.plugins import find, names
from palimpsest.benchmark.method import Descent
from palimpsest.benchmark.reading.early_stopping import EarlyStopping
from palimpsest.benchmark.training.lora import Lora

FREE = {("rmu", "layer")}  # -1 stands for a layer that the method chooses


def kind_of(hint: Any) -> Any:
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    return kind_of(arguments[0]) if arguments else hint


PLUGINS = [find(kind, name) for kind in ("method", "attack") for name in names(kind)]
FIELDS = [(p, f, kind_of(hint)) for p in PLUGINS for f, hint in typing.get_type_hints(p.cls).items() if f in p.defaults]
NUMBERS = [(p, f) for p, f, hint in FIELDS if hint in (int, float) and (p.name, f) not in FREE]
TEXTS = [(p, f) for p, f, hint in FIELDS if hint is str and p.name != "paraphraser"]


def ids(case: Any) -> str:
    return case if isinstance(case, str) else case.name


@pytest.mark.parametrize(("plugin", "field"), NUMBERS, ids=ids)
def test_no_number_is_negative(plugin: Any, field: str) -> None:
    with pytest.raises(UserError, match=r"-1(\.0)?: expected|expected|needs"):
        plugin.make({field: -1})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("plugin", "field"), [(p, f) for p, f, hint in FIELDS if hint is float], ids=ids)
def test_every_number_is_finite(plugin: Any, field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{field}={value}: expected a (finite number|share)"):
        plugin.make({field: value})


@pytest.mark.parametrize(("plugin", "field"), TEXTS, ids=ids)
def test_a_word_is_one_of_those_that_mean_something(plugin: Any, field: str) -> None:
    with pytest.raises(UserError, match=f"{field}='linaer': expected .* or "):
        plugin.make({field: "linaer"})


@pytest.mark.parametrize(
    ("kind", "name", "given"),
    [
        ("method", "npo", {"lr": 0}), ("method", "npo", {"epochs": 0}), ("method", "npo", {"batch": 0}), ("method", "npo", {"beta": 0}),
        ("method", "npo", {"shown_share": 1.1}), ("method", "npo", {"warmup": 2}), ("method", "npo", {"lora": {"rank": 0}}),
        ("method", "npo", {"stop": {"exact": 1.5}}), ("method", "sparse_finetuning", {"share": 0}),
        ("attack", "shifted_window", {"stride": 0}), ("attack", "shifted_window", {"lengths": [0]}), ("attack", "prefix", {"lengths": []}),
        ("attack", "prune", {"shares": [0.5, 1.5]}), ("attack", "relearn", {"steps": 0}), ("attack", "beam_search", {"widths": [0]}),
        ("attack", "quantise", {"variants": ["int3"]}), ("attack", "min_k", {"k": 0}), ("attack", "gcg", {"candidates": 0}),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(kind: str, name: str, given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected"):
        find(kind, name).make(given)


@pytest.mark.parametrize("plugin", PLUGINS, ids=ids)
def test_the_defaults_are_within_their_bounds(plugin: Any) -> None:
    assert plugin.make(plugin.defaults) == plugin.make({})


def test_what_a_base_declares_holds_for_a_new_default() -> None:
    @dataclass(frozen=True)
    class Mine(Descent):
        lr: float = 1e-3
        often: Count = 2
        way: "typing.Annotated[str, one_of('up', 'down')]" = "up"  # noqa: UP037

        def loss(self, *_: Any) -> Any: ...

    assert build(Mine, {"lr": 1}, "mine").lr == 1.0
    for wrong in ({"lr": 0}, {"often": 0}, {"way": "left"}, {"batch": 0}):
        with pytest.raises(UserError, match=f"mine: {next(iter(wrong))}="):
            build(Mine, wrong, "mine")


def test_parts_of_a_method_have_bounds_too() -> None:
    assert build(Lora, {"rank": 4}, "lora") == Lora(4)
    assert build(EarlyStopping, {"every": 5, "exact": None}, "stop") == EarlyStopping(5)
