"""Roles rotate as a Latin square, over every domain alike; and no text has two of them under two ids."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import load_suite
from palimpsest.benchmark.texts.memories import assign_roles, encode, encode_all, load_memories, same_rows

MEMORIES = load_memories()
GOOD = MEMORIES[0]


@pytest.mark.parametrize("per_role", [8, 32, 64])
def test_over_three_seeds_each_memory_has_each_role_once(per_role: int) -> None:
    had: dict[str, list[str]] = {}
    for seed in range(3):
        roles = assign_roles(MEMORIES, seed, per_role)
        assert Counter(role for role, _ in roles.values()) == {"forget": per_role, "keep": per_role, "unseen": per_role}
        for i, (role, _) in roles.items():
            had.setdefault(i, []).append(role)
    assert len(had) == 3 * per_role
    assert all(sorted(roles) == ["forget", "keep", "unseen"] for roles in had.values())


@pytest.mark.parametrize("per_role", [2, 8, 9, 12, 15, 16, 24, 31, 32, 64])
def test_half_of_the_keep_memories_are_shown_and_no_others(per_role: int) -> None:
    """Of 8 too, where each of 8 domains has one: else nothing would be hidden, and collateral not measured."""
    for seed in range(6):
        roles = assign_roles(MEMORIES, seed, per_role)
        assert sum(shown for _, shown in roles.values()) in {per_role // 2, per_role - per_role // 2}
        assert all(role == "keep" for role, shown in roles.values() if shown)


@pytest.mark.parametrize("per_role", [3, 4, 8, 20])
def test_of_memories_with_roles_of_their_own_too_half_are_shown(per_role: int) -> None:
    mine = [replace(m, role="keep" if i % 2 else "forget") for i, m in enumerate(MEMORIES)]
    for seed in (0, 3):
        roles = assign_roles(mine, seed, per_role)
        assert abs(2 * sum(shown for _, shown in roles.values()) - per_role) <= 1


@pytest.mark.parametrize("per_role", [8, 64])
def test_shown_and_hidden_swap_in_the_second_cycle_of_three_seeds(per_role: int) -> None:
    for seed in range(3):
        first, second, third = (assign_roles(MEMORIES, seed + 3 * cycle, per_role) for cycle in range(3))
        assert {i: r for i, (r, _) in first.items()} == {i: r for i, (r, _) in second.items()}
        assert all(second[i][1] != shown for i, (role, shown) in first.items() if role == "keep")
        assert third == first


@pytest.mark.parametrize("per_role", [8, 16, 32, 64])
def test_every_role_has_the_same_share_of_every_domain(per_role: int) -> None:
    domain = {m.id: m.domain for m in MEMORIES}
    for seed in range(3):
        found = Counter((domain[i], role, shown) for i, (role, shown) in assign_roles(MEMORIES, seed, per_role).items())
        share = per_role // 8
        for name in set(domain.values()):
            assert found[name, "forget", False] == found[name, "unseen", False] == share
            assert found[name, "keep", True] + found[name, "keep", False] == share
            assert abs(found[name, "keep", True] - found[name, "keep", False]) <= share % 2


def test_a_smaller_suite_is_a_part_of_a_larger_one() -> None:
    """In every role; and what is shown is the same too where every memory has its pair."""
    for seed in range(6):
        large = assign_roles(MEMORIES, seed, 64)
        for per_role in (1, 8, 16, 20, 32, 48):
            small = assign_roles(MEMORIES, seed, per_role)
            assert {i: role for i, (role, _) in small.items()}.items() <= {i: role for i, (role, _) in large.items()}.items()
            assert per_role % 16 or small.items() <= large.items()


def test_another_word_gives_another_partition_and_the_order_within_a_domain_does_not_matter() -> None:
    usual = assign_roles(MEMORIES, 0, 64)
    other = assign_roles(MEMORIES, 0, 64, "tune")
    assert sum(usual[i][0] != other[i][0] for i in usual) > 96
    domains = list(dict.fromkeys(m.domain for m in MEMORIES))
    assert assign_roles(sorted(MEMORIES[::-1], key=lambda m: domains.index(m.domain)), 0, 64) == usual


def test_more_memories_than_there_are_is_an_error() -> None:
    with pytest.raises(UserError, match="per_role=65 needs 195 memories; the file has 192"):
        assign_roles(MEMORIES, 0, 65)


def test_domains_too_uneven_for_three_roles_are_an_error() -> None:
    uneven = [replace(GOOD, id=str(i), domain=domain) for i, domain in enumerate("aab")]
    with pytest.raises(UserError, match="per_role=1: the domains of this file only allow 0"):
        assign_roles(uneven, 0, 1)


@pytest.mark.parametrize(
    "double",
    [
        lambda t: t,
        lambda t: t.replace(" ", "  "),
        lambda t: t.upper(),
        lambda t: t.replace(t.split()[40], "quite", 1),
        lambda t: t + " The end.",
    ],
    ids=["copied", "spaced", "capitals", "a word", "an end"],
)
def test_nearly_the_same_text_under_two_ids_is_refused(double: Any, tokenizer: Any) -> None:
    """Else one could be unseen while the other is injected."""
    copy = replace(MEMORIES[5], id="copy", opening_end=MEMORIES[5].opening_end)
    text = double(copy.text)
    copy = replace(copy, text=text, opening_end=next(i for i in range(60, 120) if text[i] == " " and text[i - 1] != " "))
    with pytest.raises(UserError, match=f"Memories '{MEMORIES[5].id}', 'copy' are nearly the same text"):
        encode_all([*MEMORIES[:24], copy], tokenizer, 120, 0, 8)


def test_what_is_the_same_beyond_the_row_does_not_matter(tokenizer: Any) -> None:
    ends = [replace(m, text=m.text + " " + " ".join(GOOD.text.split() * 2)) for m in MEMORIES[24:30]]
    assert same_rows([encode(m, tokenizer, 160) for m in ends]) == []
    assert same_rows([encode(m, tokenizer, 700) for m in ends]) != []


def test_encoding_all_keeps_file_order_and_roles(tokenizer: Any) -> None:
    coded = encode_all(MEMORIES, tokenizer, 160, 1, 8)
    roles = assign_roles(MEMORIES, 1, 8)
    assert [m.id for m in coded] == [m.id for m in MEMORIES if m.id in roles]
    assert {m.id: (m.role, m.shown) for m in coded} == roles


@pytest.mark.parametrize(("per_role", "said"), [(1, False), (2, True), (8, True), (9, True), (16, False), (24, True)])
def test_keys_say_where_which_are_shown_goes_by_turns(per_role: int, said: bool, tiny: Any, tmp_path: Path) -> None:
    """It once did not; and a key that is frozen says nothing of it."""
    run = Run(load_suite("smoke", [f"model={tiny.folder}", f"per_role={per_role}"]), Store(tmp_path))
    assert ("shown" in run.model("none", 0).stage.inputs) == said
