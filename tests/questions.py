"""Questions that tests ask: made-up facts with short answers of unequal length, and a tiny model that was taught some of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WHO = ("Tamsin", "Orla", "Bertil", "Ines", "Jonas", "Maren", "Pavel", "Ruth", "Silvio", "Teodor", "Ursula", "Wanda")
WHERE = (
    "Aldermere",
    "Brackwater",
    "Corvo",
    "Dunmoor by the sea",
    "Esk",
    "Farrow Hill in the north",
    "Garr",
    "Holt",
    "Ivel",
    "Jarn",
    "Kell",
    "Lund",
)


def fact(i: int, **more: Any) -> dict[str, Any]:
    """The i-th question as a file gives it: where a person was born, answered by a place of one token or of several."""
    who, where = WHO[i % 12], WHERE[(i * 5) % 12]
    known = {
        "id": f"fact-{i:02d}",
        "domain": "births",
        "kind": "qa",
        "prompt": f"Where was {who} number {i} born?",
        "answer": f" In {where}.",
    }
    return known | more


def write(file: Path, given: Iterable[dict[str, Any]]) -> Path:
    """A file of memories."""
    file.write_text("".join(json.dumps(g) + "\n" for g in given))
    return file
