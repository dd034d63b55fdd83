"""Where the command `palimpsest` begins: it watches for Ctrl-C before anything else is imported."""

from __future__ import annotations

from .commands.interruption import interruption


def main() -> None:
    """Import the command line and run it."""

    def command() -> None:
        from .cli import main

        main()

    interruption.around(command)
