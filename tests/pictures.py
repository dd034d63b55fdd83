"""Takes the pictures of docs/board.md in a headless Chromium: `palimpsest board`, then `python -m tests.pictures`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .chromium import browser, found

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "leaderboard/site"
# Picture -> page of the site, what stands at its top, width and height in pixels, colours.
PICTURES = {
    "board-index.png": ("index.html", "body", 1200, 1000, "light"),
    "board-row.png": ("tracks/pocket/rows/npo.html", "h2:has(+ .figures)", 1200, 1600, "dark"),
}


def main(site: Path = SITE, to: Path = ROOT / "docs") -> None:
    """Write the pictures of a site that `palimpsest board` made."""
    program = found()
    if program is None:
        sys.exit("no Chromium on this machine (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as profile, browser(program, Path(profile)) as started:
        page = started.page()
        for name, (path, top, width, height, scheme) in PICTURES.items():
            page.size(width, height)
            page.scheme(scheme)
            page.open(site / path)
            page.eval(f"document.querySelector('{top}').scrollIntoView()")
            page.picture(to / name)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
