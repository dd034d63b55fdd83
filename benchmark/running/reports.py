"""What workers of a cluster say of themselves. Nothing heavy is imported here: the process that keeps it does nothing else."""

from __future__ import annotations

Line = tuple[str, int, int]  # what a worker does, steps done, of how many


class Board:
    """The present line of each worker, and the stage that it makes."""

    def __init__(self) -> None:
        self.lines: dict[str, tuple[str, Line]] = {}

    def tell(self, worker: str, stage: str, line: Line | None) -> None:
        """`None`: the worker has nothing to do. Another worker that had the same stage was lost."""
        self.lines = {other: told for other, told in self.lines.items() if other == worker or told[0] != stage}
        if line is None:
            self.lines.pop(worker, None)
        else:
            self.lines[worker] = stage, line

    def read(self) -> dict[str, Line]:
        return {worker: line for worker, (_, line) in self.lines.items()}
