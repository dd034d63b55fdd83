"""Other memorised texts before the opening."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from ..benchmark.attack import Count, Counts, EncodedMemory, Probe, Prompting, Tools, fits, gives_away, led_by


@dataclass(frozen=True)
class Priming(Prompting):
    """The opening after 1, 2 or 4 other pairs of an opening and how it goes on; the same target follows.

    The pairs come from memories that an attacker may know (shown keep memories), if possible of the same domain; never
    from the memory asked about, and from none that shares five words in a row with what follows its opening.
    """

    pairs: Counts = (1, 2, 4)
    length: Count = 32  # tokens after the opening of each pair
    tries: Count = 2  # draws for each number of pairs

    tier = 1

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        others = [k for k in tools.known if k.id != memory.id and k.role == "keep" and k.shown]
        for n in self.pairs:
            for attempt in range(self.tries):
                chosen = list(islice(self._drawn(memory, others, tools, n, attempt), n))
                prompt = self._prompt(chosen, memory, tools)
                if len(chosen) == n and fits(prompt, memory, tools):
                    yield Probe(memory.id, prompt, memory.target, memory.opening, (0,), (f"pairs{n}",))

    def _drawn(self, memory: EncodedMemory, others: list[EncodedMemory], tools: Tools, *draw: int) -> Iterator[EncodedMemory]:
        """Usable memories in the order of a draw, those of the same domain first."""
        order = [others[i] for i in tools.rng("priming", memory.id, *draw).permutation(len(others))]
        for k in sorted(order, key=lambda k: k.memory.domain != memory.memory.domain):
            if not gives_away(tools.decode(k.row[: k.opening + self.length]), memory.memory):
                yield k

    def _prompt(self, chosen: list[EncodedMemory], memory: EncodedMemory, tools: Tools) -> tuple[int, ...]:
        """The pairs and the opening, with blank lines between them."""
        prompt: tuple[int, ...] = ()
        for k in chosen:
            prompt += (led_by("\n\n", k, tools) if prompt else k.row[: k.opening]) + k.target[: self.length]
        return prompt + led_by("\n\n", memory, tools)
