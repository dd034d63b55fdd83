"""Which memories a model and a row can be asked: what a file is refused for, and what of a forget set is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..common.errors import UserError
from ..common.types import EncodedMemory, Memory
from .memories import doubled, encode, same_rows

FEW = 0.1  # of a set's memories to forget may make no row


def must_hold(memories: Sequence[Memory], tokenizers: Mapping[str, tuple[Any, int]]) -> list[str]:
    """What keeps a file from being run, one line each. `tokenizers`: name -> (tokenizer, row that must hold opening and target)."""
    faults, same = [], dict[str, None]()
    for name, (tokenizer, length) in tokenizers.items():
        encoded, refused = encodable(memories, tokenizer, length)
        faults += [f"{m}: under {name}: {fault}" for m, fault in refused.items()]
        same |= dict.fromkeys(same_rows(encoded))  # a longer row may tell apart what a shorter one does not
    return [*faults, *same]


def usable(memories: Sequence[Memory], tokenizer: Any, length: int) -> tuple[list[Memory], dict[str, str]]:
    """Of a set's memories those that make a row of `length` tokens, and id -> why not of the others: nobody can mend a public set.

    Of memories that say nearly the same the first stays; sets give those to forget first. Where more than `FEW` of those to
    forget make none, the row is refused: what is asked would be another set.
    """
    encoded, out = encodable(memories, tokenizer, length)
    forget = [m.id for m in memories if m.role == "forget"]
    missing = [i for i in forget if i in out]
    if len(missing) > FEW * len(forget):
        raise UserError(f"{len(missing)} of {len(forget)} memories to forget make no row of {length} tokens. {out[missing[0]]}")
    out |= {i: f"Memory {i!r}: {ids[0]!r} is there, and they {what}." for ids, what in doubled(encoded) for i in ids[1:]}
    return [m for m in memories if m.id not in out], out


def encodable(memories: Sequence[Memory], tokenizer: Any, length: int) -> tuple[list[EncodedMemory], dict[str, str]]:
    """The memories that make a row of `length` tokens, in their own roles, and id -> why not of the others."""
    encoded, refused = [], dict[str, str]()
    for m in memories:
        try:
            encoded.append(encode(m, tokenizer, length, m.role or "keep"))
        except UserError as error:
            refused[m.id] = str(error)
    return encoded, refused
