"""The run of one row: the held model, the twin and one method, bound to the store in which they were made or to the one in a bundle.

Keys of stages are derived here from what is at hand (base, corpus, memories, attacks, code), never from what somebody says that they are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from ...leaderboard.entry import About, Entry, Hashes, Machine, Versions
from ...leaderboard.entry_of import entry_of
from ...leaderboard.tables import main_table
from ..common.errors import UserError, unknown
from ..common.fields import plain
from ..common.frozen import Frozen, MadeFrom
from ..common.plugins import Plugin, find, shipped, source_files
from ..common.sources import NAME, code_hash
from ..common.types import HELD, OperatingPoint, Results
from ..common.versions import VERSIONS
from ..running.assemble import results
from ..running.attacking import Attacking
from ..running.model import Model
from ..running.plan import Run
from ..running.provenance import provenance
from ..running.store import Stage, Store
from ..suites.config import Suite, load_suite, suite_names
from ..suites.frozen import plain_config, record_of, suite_of
from ..texts.memories import memories_hash
from .bundle import MODEL, Bundle, MethodOf, weights_in, weights_key
from .freezing import attack_hashes, libraries_of, made_from

DISTRIBUTION = "palimpsest-bench"
Chosen = dict[str, tuple[Plugin, Any]]


@dataclass(frozen=True)
class Unseen(Plugin):
    """A method of which the source is here and nothing is imported: it has a name, a hash and a line that describes it."""

    told: str = ""
    reads: Mapping[str, str] = field(default_factory=dict)

    @property
    def doc(self) -> str:
        return self.told

    def read_by(self, made: Any) -> dict[str, str]:
        return dict(self.reads)


@dataclass
class Row(Run):
    """`chosen` maps the names in tables to methods; `device` is where the stages were made, if it was not here."""

    chosen: Chosen = field(default_factory=dict)
    device: str = ""

    @property
    def methods(self) -> Chosen:  # type: ignore[override]
        return self.chosen

    @property
    def points(self) -> list[OperatingPoint]:  # type: ignore[override]
        return []

    @property
    def method(self) -> str:
        """The name of the row."""
        return [*self.chosen][-1]

    def of(self, seed: int) -> Model:
        """The method's model of a seed."""
        return self.model(self.method, seed)

    def stage_of(self, seed: int) -> Stage:
        """The stage that makes the method's model of a seed."""
        stage = self.of(seed).stage
        assert stage is not None
        return stage

    def manifest(self, seed: int) -> dict[str, Any]:
        return self.store.manifest(self.stage_of(seed))

    def folder(self, seed: int) -> Path:
        return self.store.folder(self.stage_of(seed))

    @property
    def attacking(self) -> Attacking:
        return self.once("attacking", lambda: Attacking(self, self.who))

    @property
    def device_kind(self) -> str:
        """Where its stages were made, not where they are looked at."""
        return self.device or super().device_kind


def own_row(suite: Suite, asked: str, store: Store) -> tuple[Row, MethodOf]:
    """The row of a method by the name under which the suite runs it (a name, a dotted path or a file), from a store of one's own."""
    plugin = find("method", asked)
    run = Run(replace(suite, methods={asked: suite.methods.get(asked, {})}, strengths=()), store)
    _, instance = run.methods[asked]
    told = method_of(plugin, instance)
    return _row(replace(suite, precision=run.precision, strengths=()), store, plugin, instance, told), told


def row_in(bundle: Bundle, reference: Suite) -> Row:
    """The row of a bundle, bound to its stages; what the method is called and given is the bundle's, all else the reference suite's."""
    told, info = bundle.info.method, bundle.info
    suite = replace(reference, seeds=info.seeds, precision=info.precision, strengths=())
    if told.file:
        source = _hash_of_source(bundle)
        plugin: Plugin = Unseen("method", told.name, object, source, bundle.entry.doc, told.reads)
        return _row(suite, bundle.store, plugin, dict(told.fields), told, info.device)
    if told.name not in shipped("method"):
        raise unknown("method of the repository", told.name, shipped("method"))
    plugin = find("method", told.name)
    return _row(suite, bundle.store, plugin, plugin.make(told.fields), told, info.device)


def _hash_of_source(bundle: Bundle) -> str:
    """Of the method's code in the bundle, which is parsed and not run."""
    try:
        return code_hash(source_files("method", module_of(bundle.info.method), source_file(bundle)).values())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"the method's source cannot be parsed: {type(error).__name__} {str(error)[:100]}") from None


def _row(suite: Suite, store: Store, plugin: Plugin, instance: Any, told: MethodOf, device: str = "") -> Row:
    held = find("method", HELD)
    chosen = {HELD: (held, held.make({}))}
    chosen[told.name] = (plugin, instance) if told.name != HELD else chosen[HELD]
    suite = replace(suite, methods={HELD: {}} | {told.name: dict(told.fields)})
    return Row(suite, store, chosen=chosen, device=device)


def module_of(told: MethodOf) -> str:
    """The import name under which a method's source is read: that of its package, or one that only this reading has."""
    return told.module or "palimpsest_submitted_method"


def source_file(bundle: Bundle) -> Path:
    """The file of a method of one's own."""
    file = bundle.folder / "method" / bundle.info.method.file
    if f"method/{bundle.info.method.file}" not in bundle.info.files or not file.is_file():
        raise UserError(f"bundle.json: method.file={bundle.info.method.file!r} is no file of the bundle's method folder.")
    return file


def method_of(plugin: Plugin, instance: Any) -> MethodOf:
    """What a bundle says of a method that is at hand."""
    fields, reads = plain(instance), plugin.read_by(instance)
    if plugin.cls.__module__.startswith(f"{NAME}."):
        return MethodOf(plugin.name, plugin.source, fields, reads)
    module = plugin.cls.__module__
    name = "" if module.startswith("palimpsest_file_") else module
    package = _package(name)
    _, files = own_files(plugin)
    return MethodOf(plugin.name, plugin.source, fields, reads, name, next(iter(files)), plugin.cls.__name__, package)


def own_files(plugin: Plugin) -> tuple[Path, dict[str, Path]]:
    """The folder from which a method of one's own is imported, and its files by their place in it, its own module first."""
    module = sys.modules[plugin.cls.__module__]
    file = Path(str(module.__file__)).resolve()
    depth = module.__name__.count(".") + (file.name == "__init__.py")
    root = file.parents[depth]
    found = source_files("method", module.__name__, file)
    mine = [f for name, f in found.items() if not name.startswith(f"{NAME}.")]
    return root, {str(f.relative_to(root)): f for f in mine}


def _package(module: str) -> str:
    names = packages_distributions().get(module.partition(".")[0], []) if module else []
    return f"{names[0]}=={version(names[0])}" if names else ""


@dataclass(frozen=True)
class Reference:
    """What a row is held against: a suite, and the record of its track if that is frozen."""

    suite: Suite
    frozen: Frozen | None = None


def reference_of(track: str, suite: str) -> Reference:
    """What a row of this track, or of this shipped suite, must have been made with: of a frozen track, what was frozen."""
    name = track or suite
    if record := record_of(name):
        return Reference(suite_of(record), record)
    if name not in suite_names():
        raise UserError(f"There is no track or shipped suite {name!r} to hold this row against; name your own with --suite FILE.")
    return Reference(load_suite(name))


def inputs_of(row: Row) -> MadeFrom:
    """What a row is made from; its libraries are those of the stages that are done, before there are any those that are installed."""
    done = [row.store.manifest(s) for s in row.plan if row.store.done(s)]
    return made_from(row, libraries_of(done) or provenance()["versions"])


def entry_in(row: Row, told: MethodOf, said: Mapping[str, Any], weights: Mapping[str, str]) -> tuple[Entry, Results]:
    """The entry of a row whose stages are done. `said` are the fields of `About` that only the author knows."""
    found = results(row)
    about = About(
        config=plain_config(row.suite),
        hashes=Hashes(
            base=row.base.hash,
            corpus=row.corpus.key,
            memories=memories_hash(row.memories),
            tokenizer=row.base.encoding,
            source=told.source,
            models={str(s): row.of(s).key for s in row.suite.seeds},
            weights=dict(weights),
            deepspeed=row.deepspeed["content"],
        ),
        versions=_versions(row),
        machine=_machine(row),
        package=told.package,
        **said,
    )
    return entry_of(found, main_table(found), row.method, about), found


def _versions(row: Row) -> Versions:
    last = row.manifest(row.suite.seeds[-1])
    dirty = [m.get("dirty") for s in row.plan for m in [row.store.manifest(s)]]
    libraries = {k: str(v) for k, v in last["versions"].items()}
    state = None if None in dirty else any(dirty)
    attacks = attack_hashes([*row.who.attacks, *row.who.reasked])
    return Versions(version(DISTRIBUTION), last["commit"], state, dict(VERSIONS), libraries, attacks)


def _machine(row: Row) -> Machine:
    last = row.manifest(row.suite.seeds[-1])
    return Machine(str(last["device"]), str(last["precision"]), int(last["threads"]))


def weights_of(row: Row) -> dict[str, Path]:
    """SEED -> the file of the method's weights in the store; SEED/PART of a model that is composed of parts."""
    done = [s for s in row.suite.seeds if row.store.done(row.stage_of(s))]
    files = {weights_key(s, part): row.folder(s) / part / MODEL for s in done for part in weights_in(row.manifest(s))}
    return {key: file for key, file in files.items() if file.is_file()}
