"""What the code of each kind of stage was when somebody last vouched for it. `python -m tests.benchmark.pin` pins it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from palimpsest.benchmark.common.versions import MADE_BY, READER, READING, VERSIONS, made_by

FILE = Path(__file__).with_name("pinned.json")


def now() -> dict[str, Any]:
    """The versions, and the hash of every piece of code that makes a kind of stage."""
    code = {name: code for kind in MADE_BY for name, code in made_by(kind).items()}
    return {"versions": VERSIONS | {READING: READER}, "code": dict(sorted(code.items()))}


def pinned() -> dict[str, Any]:
    return json.loads(FILE.read_text("utf-8"))


if __name__ == "__main__":
    FILE.write_text(json.dumps(now(), indent=1) + "\n", "utf-8")
    print(f"{FILE.name} written")
