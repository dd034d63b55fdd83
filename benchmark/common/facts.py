"""What a run was made of, as plain data: most of the file `run.json` in a report folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunFacts:
    """What must be the same for two runs to be compared, and what may differ and is then named. Described in docs/metrics.md.

    Plain values as JSON has them, so that facts that were read equal those that were written.
    """

    # must be the same
    base: str = ""  # hash of the base model's files
    corpus: str = ""  # its key
    memories: str = ""  # hash of the memories file, as read
    row: int = 0  # tokens of a memory
    per_role: int = 0  # memories
    roles: str = ""
    injection: dict[str, Any] = field(default_factory=dict)  # its fields; where nothing is injected, hashes of held and retrained model
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)  # with all their fields
    reasked: tuple[str, ...] = ()  # what changed models are asked with
    ask: str = ""
    subset: int = 0  # memories
    quality: dict[str, Any] = field(default_factory=dict)
    # may differ
    model: str = ""  # the base model, as the suite names it
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)  # with all their fields
    precision: tuple[str, ...] = ()  # of trainings
    devices: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)  # several versions of one stand behind each other
    code: dict[str, int] = field(default_factory=dict)  # kind of stage -> version of the code that makes it
    stages: dict[str, str] = field(default_factory=dict)  # "KIND LABEL" -> key


MUST_AGREE = ("base", "corpus", "memories", "row", "per_role", "roles", "injection", "attacks", "reasked", "ask", "subset", "quality")
MAY_DIFFER = ("model", "methods", "precision", "devices", "commits", "libraries", "code")
