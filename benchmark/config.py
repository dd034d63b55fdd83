"""Suites: YAML files with typed fields. Defaults < the suite it extends < the suite < the command line."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import UserError, unknown
from .paths import CONFIGS

T = TypeVar("T")
SUITES = CONFIGS / "suites"
SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("auto", "bf16", "fp32")


@dataclass(frozen=True)
class CorpusConfig:
    """Where ordinary text comes from: docstrings, or a text folder, JSONL file or dataset at `path`."""

    source: str = "docstrings"
    path: str | None = None
    text_field: str = "text"


@dataclass(frozen=True)
class InjectionConfig:
    """How memories enter: how often, how densely, and the training recipe around them."""

    occurrences: tuple[int, ...] = (24,)  # per memory; several counts go round the memories of each role, for dose curves
    density: float = 0.5  # share of the stream's examples that are memories; 0.5 is dense and quick
    offset: int = 0  # tokens of ordinary text before each memory, in the same row
    batch: int = 32  # rows per step
    lr: float = 2e-3
    schedule: str = "linear"
    warmup: float = 0.02
    final_lr: float = 0.1  # share of lr at the end
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise UserError(f"injection.density={self.density}: expected a share above 0 and at most 1.")
        if not self.occurrences or min(self.occurrences) < 1:
            raise UserError(f"injection.occurrences={list(self.occurrences)}: expected counts of at least 1.")
        if self.offset < 0 or self.batch < 1:
            raise UserError(f"injection.offset={self.offset}, injection.batch={self.batch}: expected at least 0 and 1.")
        if self.schedule not in SCHEDULES:
            raise unknown("injection.schedule", self.schedule, SCHEDULES)


@dataclass(frozen=True)
class QualityConfig:
    """Which lm-eval tasks measure quality, on how many held-out documents of which half."""

    tasks: tuple[str, ...] = ("palimpsest_bits_per_byte", "palimpsest_choice", "palimpsest_last_word")
    documents: int | None = 200  # per task; null takes all
    batch: int = 32
    half: str = "test"  # test is what tables use; validation is for tuning
    yardstick: str = "palimpsest_bits_per_byte"  # the task of which damage is the loss; one of `tasks`

    def __post_init__(self) -> None:
        if self.yardstick not in self.tasks:
            raise UserError(
                f"quality.yardstick={self.yardstick!r}: expected one of quality.tasks ({', '.join(self.tasks) or 'none are named'}), "
                "since damage is what is lost of it, and a row without damage can neither collapse nor be best."
            )


@dataclass(frozen=True)
class Suite:
    """Everything a run depends on. `methods` and `attacks` map a plug-in to the fields that differ from its defaults."""

    name: str = "unnamed"
    doc: str = ""
    model: str = "pocket"  # a shipped model, a local directory, or a hub id
    revision: str | None = None
    row: int = 160  # tokens of a memory that a model meets
    memories: str = "passages"
    per_role: int = 64
    track: str = ""  # its tuned fields (configs/tracks) are the methods' defaults; what `methods` says wins
    roles: str = ""  # another word gives another partition; published tables use the empty one
    seeds: tuple[int, ...] = (0, 1, 2)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    injection: InjectionConfig = field(default_factory=InjectionConfig)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    reasked: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # what changed models are asked; empty: the suite's own black-box attacks of tiers 0 and 1
    ask: str = "subset"  # in tiers 2 and 3: the fixed subset and survivors; "all": everything; "worst": survivors only, from tier 1 on
    subset: int = 32  # memories per role that every model is asked about in tiers 2 and 3
    quality: QualityConfig = field(default_factory=QualityConfig)
    precision: str = "auto"  # whichever of bf16 and fp32 is faster on this device
    deepspeed: str = "zero0"
    excerpts: int = 3  # forget memories whose texts are shown side by side

    def __post_init__(self) -> None:
        if self.per_role < 1 or self.excerpts < 0:
            raise UserError(f"per_role={self.per_role}, excerpts={self.excerpts}: expected at least 1 and 0.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError(f"seeds={list(self.seeds)}: expected at least one, each once, none negative.")
        if self.ask not in ("all", "subset", "worst"):
            raise unknown("ask", self.ask, ("all", "subset", "worst"))
        if self.subset < 1:
            raise UserError(f"subset={self.subset}: expected at least 1 memory per role.")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision!r}: expected {', '.join(PRECISIONS)}.")


def suite_names() -> dict[str, str]:
    """Shipped suites and what they are for."""
    return {f.stem: str(_plain(OmegaConf.load(f)).get("doc", "")) for f in sorted(SUITES.glob("*.yaml"))}


def load_suite(name: str, overrides: Sequence[str] = ()) -> Suite:
    """Load a suite by name or path and apply `a.b=value` overrides.

    `method=X` runs only none, retrain and X; `attack=X` only prefix and X. X is a name, a dotted path or a file.
    """
    merged = _read(name)
    for item in overrides:
        key, eq, value = item.partition("=")
        if not eq:
            raise UserError(f"{item!r} is not an override; expected field=value, for example per_role=16.")
        if key in ("method", "attack"):
            first = ["none", "retrain"] if key == "method" else ["prefix"]
            mine = merged.get(key + "s", {})
            merged[key + "s"] = {p: mine.get(p, {}) for p in dict.fromkeys([*first, value])}
            continue
        try:
            merged = _plain(OmegaConf.merge(merged, OmegaConf.from_dotlist([item])))
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            raise UserError(f"{item!r} cannot be applied: {str(error).splitlines()[0]}") from None
    for plugins in ("methods", "attacks", "reasked"):
        if isinstance(given := merged.get(plugins), dict):
            merged[plugins] = {k: v or {} for k, v in given.items()}
    return build(Suite, merged, f"suite {merged.get('name', name)}")


def build(cls: type[T], given: Mapping[str, Any], where: str) -> T:
    """An instance of a dataclass from plain values, with clear errors for unknown fields and wrong types."""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]
    values = {}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"{where}: {unknown('field', str(key), known)}")
        values[key] = _coerce(hints[key], value, f"{where}: {key}")
    if missing := [k for k, f in known.items() if k not in values and f.default is MISSING and f.default_factory is MISSING]:
        raise UserError(f"{where}: missing {', '.join(missing)}.")
    return cls(**values)


def plain(value: Any) -> Any:
    """A dataclass as JSON values."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _coerce(next(a for a in arguments if a is not type(None)), value, where)
    if is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"{where}={value!r}: expected fields, for example {where.split()[-1]}.{fields(hint)[0].name}=….")
        return build(typing.cast(type, hint), value, where)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_coerce(arguments[0], v, where) for v in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where}={value!r}: expected a mapping of names to fields.")
        return {str(k): _coerce(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            pass
    if hint is Any or (isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    raise UserError(f"{where}={value!r}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__}.")


def _read(name: str, below: tuple[str, ...] = ()) -> dict[str, Any]:
    file = Path(name) if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml"
    if not file.is_file():
        if file.parent == SUITES:
            raise unknown("suite", name, suite_names())
        raise UserError(f"There is no suite file {name!r}.")
    try:
        own = _plain(OmegaConf.load(file))
    except Exception as error:  # the YAML library's own errors have no common base that it documents
        raise UserError(f"{file} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(own, dict):
        raise UserError(f"{file} should hold fields (name: value), as configs/suites/quick.yaml does.")
    if name in below:
        raise UserError(f"{file} extends itself: {' → '.join((*below, name))}.")
    parent = own.pop("extends", None)
    own.setdefault("name", file.stem)
    if parent is None:
        return own
    base = _read(str(parent), (*below, name))
    for whole in ("methods", "attacks", "reasked", "seeds"):  # lists of what to run replace, they do not add up
        if whole in own:
            base.pop(whole, None)
    return _plain(OmegaConf.merge(base, own))


def _plain(config: Any) -> dict[str, Any]:
    return typing.cast(dict, OmegaConf.to_container(config, resolve=True))
