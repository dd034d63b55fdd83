"""A forget set by what a suite says: `tofu:forget10`, `tofu:forget10@REVISION`, `tofu:/a/copy`, `tofu:/a/copy:forget05`."""

from __future__ import annotations

from pathlib import Path

from ...common.errors import UserError, unknown
from . import knowundo, lume, muse, rwku, tofu, wmdp
from .loading import ForgetSet, Given, Source, whole

SETS: dict[str, ForgetSet] = {s.name: s for s in (tofu.SET, muse.SET, wmdp.SET, lume.SET, rwku.SET, knowundo.SET)}


def is_named(given: str) -> bool:
    """Whether this names a forget set, rather than a file."""
    return given.partition(":")[0] in SETS and not Path(given).is_file()


def memories_of(given: str) -> list[Given]:
    """The set's memories as a file of memories would give them, without what asks the same as one before."""
    found, source, part = _located(given)
    return list(whole(found.memories(source, part)))


def left_out(given: str) -> int:
    """How many rows of the set become no memory: without a text or an answer, too short, or the same as one before."""
    found, source, part = _located(given)
    every = list(found.memories(source, part))
    return len(every) - len(list(whole(every)))


def retain_of(given: str) -> list[str]:
    """Its retain text."""
    found, source, part = _located(given)
    return list(found.retain(source, part))


def aside_of(given: str) -> list[Given]:
    """What only published measures ask; its domain is the group that it belongs to. Rows without a question or an answer are left out."""
    found, source, part = _located(given)
    return [g for g in found.aside(source, part) if all(g.get(name, "text").strip() for name in ("prompt", "answer", "text"))]


def about_set(given: str) -> str:
    """Where a set is from and under which licence, for a report; nothing of a file."""
    if not is_named(given):
        return ""
    found, source, part = _located(given)
    return f"{found.name}:{part}, {source.hub}, licence {found.licence}"


def _located(given: str) -> tuple[ForgetSet, Source, str]:
    """The set, where it is read from, and which part of it."""
    name, _, rest = given.partition(":")
    if name not in SETS:
        raise unknown("forget set", name, SETS)
    found = SETS[name]
    first = next(iter(found.parts))
    if "/" not in rest and not rest.startswith("."):
        part, _, revision = rest.partition("@")
        part = _part(found, part or first)
        return found, Source(name, found.hub_of(part), revision=revision or None), part
    path, _, part = rest.partition(":")
    part = _part(found, part or first)
    if not Path(path).expanduser().is_dir():
        raise UserError(
            f"{given!r}: there is no folder {path}; expected a local copy of {found.hub_of(part)}, or a part ({', '.join(found.parts)})."
        )
    return found, Source(name, found.hub_of(part), Path(path).expanduser()), part


def _part(found: ForgetSet, part: str) -> str:
    if part not in found.parts:
        raise unknown(f"part of {found.name}", part, found.parts)
    return part
