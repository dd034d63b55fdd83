"""What workers of a cluster say of themselves. Nothing heavy is imported here: the process that keeps it does nothing else."""

from __future__ import annotations

Line = tuple[str, int, int]  # what a worker does, steps done, of how many


class Board:
    """The present line of each worker."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}

    def tell(self, worker: str, line: Line | None) -> None:
        """`None`: the worker has nothing to do."""
        if line is None:
            self.lines.pop(worker, None)
        else:
            self.lines[worker] = line

    def read(self) -> dict[str, Line]:
        return self.lines
