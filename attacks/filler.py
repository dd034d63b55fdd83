"""Ordinary text before the exact opening."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..benchmark.attack import Counts, EncodedMemory, Probe, Prompting, Questions, Tools, fits, led_by

TEXTS = (  # nothing in them has to do with any memory
    "Most kitchens have one drawer that nobody can explain. It holds string, a torch without batteries, three keys and the "
    "instructions for a machine that was thrown out years ago. People mean to sort it at the weekend and then find something better "
    "to do. When they move house, the drawer is emptied into a box, and the box is opened last. By that time nobody remembers which "
    "key belonged to which door, so all of them are kept. A new drawer is filled within a month. It would be easy to laugh at this, "
    "but the drawer has its uses. Somebody always needs string sooner or later. It also gives guests a place to look when they want "
    "to help, and it saves their hosts from having to say where anything is. That alone is worth a little disorder.",
    "The path along the canal is flat and easy to follow. It leaves the town behind the station, passes two locks and a row of "
    "garden sheds, and then runs between fields for about an hour. In spring the banks are yellow, and later in the year there are "
    "blackberries on the sunny side. Bicycles are allowed, although they have to be pushed under the low bridges. There is a bench "
    "every half mile or so, and most of them are dry even after rain. Walkers who get tired can take the bus back from the second "
    "village, where it stops outside the bakery. Those who go on will reach a wide basin with a few boats, a small café and a view "
    "of the hills. It is a pleasant place to sit. The way back looks quite different in the evening light.",
    "A good notebook is not the one with the best paper. It is the one that is there when it is needed. Some people carry a small "
    "one in a pocket and copy everything into a large one at night. Others write on whatever is at hand and never look at it again, "
    "and they say that the writing itself is enough. Both are right in their own way. What helps is a date at the top of each page, "
    "since even clear notes turn into riddles after a year. Drawings are better than they look, and so are lists. Long sentences can "
    "wait until there is a table and some quiet. When the last page is full, it is tempting to start the next book at once. It is "
    "wiser to read the old one first. Half of the plans in it will already have been forgotten.",
)


@dataclass(frozen=True)
class Filler(Prompting):
    """The exact opening after n tokens of ordinary text, after line breaks, and after the end-of-text id; the same target follows."""

    lengths: Counts = (8, 32, 128)  # tokens of each filler, the blank line after it among them

    tier = 1
    asks: ClassVar[Questions] = {"newline": "edit", "bos": "edit", "filler8": "edit"}

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        for variant, prompt in self._prompts(memory, tools):
            if fits(prompt, memory, tools):
                yield Probe(memory.id, prompt, memory.target, memory.opening, (0,), (variant,))

    def _prompts(self, memory: EncodedMemory, tools: Tools) -> Iterator[tuple[str, tuple[int, ...]]]:
        for text in TEXTS:
            whole = led_by(text + "\n\n", memory, tools)
            for n in self.lengths:
                if n + memory.opening <= len(whole):  # it ends with the filler's last sentence
                    yield f"filler{n}", whole[-n - memory.opening :]
        for breaks in ("\n", "\n\n"):
            yield "newline", led_by(breaks, memory, tools)
        end = tools.tokenizer.eos_token_id
        if end is not None and tools.base.bos is None:  # a model with a BOS gets it before every prompt
            yield "bos", (end, *memory.row[: memory.opening])
