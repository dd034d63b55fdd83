"""The masks of the goldfish loss: the paper's rule, and the published code's where it differs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training.batches import IGNORED, Group, Loss, Terms, collate
from palimpsest.benchmark.training.losses import nll_sum
from palimpsest.methods.goldfish_retrain import TABLE_SEED, TABLE_SIZE, GoldfishRetrain

HASHED = ("hash", "hash-table")


def ids(rows: int, length: int, seed: int = 0, low: int = 1) -> Tensor:
    return torch.randint(low, 4096, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mask", ["hash", "hash-table", "static", "random"])
@pytest.mark.parametrize("k", [2, 3, 4, 8])
def test_about_one_token_in_k_is_dropped(mask: str, k: int) -> None:
    dropped = GoldfishRetrain(k=k, mask=mask).dropped(ids(200, 1 + 20 * 24))[:, 13:]
    assert float(dropped.float().mean()) == pytest.approx(1 / k, abs=0.008)


@pytest.mark.parametrize(("mask", "h", "free"), [("hash", 13, 13), ("hash", 4, 4), ("hash-table", 13, 13), ("hash-table", 4, 4)])
def test_tokens_without_a_whole_window_are_never_dropped(mask: str, h: int, free: int) -> None:
    dropped = GoldfishRetrain(k=2, h=h, mask=mask).dropped(ids(500, 40))
    assert not dropped[:, :free].any()
    assert 0.3 < float(dropped[:, free].float().mean()) < 0.7


@pytest.mark.parametrize("mask", HASHED)
@pytest.mark.parametrize("length", [1, 3, 13])
def test_a_row_no_longer_than_the_window_keeps_everything_under_hashing(mask: str, length: int) -> None:
    dropped = GoldfishRetrain(mask=mask).dropped(ids(100, length))
    assert dropped.shape == (100, length)
    assert not dropped[:, :12].any()


@pytest.mark.parametrize("mask", HASHED)
def test_a_passage_is_masked_alike_wherever_it_stands(mask: str) -> None:
    method = GoldfishRetrain(mask=mask)
    passage = ids(1, 120)
    alone = method.dropped(passage)[0, 13:]
    assert alone.any()
    for before in (1, 13, 50):
        shifted = method.dropped(torch.cat([ids(1, before, seed=before), passage, ids(1, 9, seed=99)], 1))
        assert torch.equal(shifted[0, before + 13 : before + 120], alone)


def test_the_papers_rule_reads_exactly_the_h_tokens_before() -> None:
    """Changing token i can change the mask of i+1 .. i+h and of nothing else."""
    method = GoldfishRetrain(k=2, h=5)
    row = ids(400, 40)
    before = method.dropped(row)
    at = 20
    changed = row.clone()
    changed[:, at] = changed[:, at] % 4095 + 1
    differs = (method.dropped(changed) != before).float().mean(0)
    assert torch.equal(differs > 0, (torch.arange(40) > at) & (torch.arange(40) <= at + 5))
    assert ((differs[at + 1 : at + 6] - 0.5).abs() < 0.1).all()  # a fresh draw at each: half of them change when k = 2


def test_the_published_codes_window_includes_the_token_itself() -> None:
    method = GoldfishRetrain(k=2, h=5, mask="hash-table")
    row = ids(400, 40)
    changed = row.clone()
    changed[:, 20] = changed[:, 20] % 4095 + 1
    differs = (method.dropped(changed) != method.dropped(row)).any(0)
    assert torch.equal(differs, (torch.arange(40) >= 20) & (torch.arange(40) < 25))


def test_the_published_codes_table_is_indexed_by_the_product_of_the_window() -> None:
    table = torch.rand(TABLE_SIZE, generator=torch.Generator().manual_seed(TABLE_SEED))
    row = [3, 17, 40, 9, 260, 31]
    dropped = GoldfishRetrain(k=3, h=3, mask="hash-table").dropped(torch.tensor([row]))[0].tolist()
    product = [row[i - 2] * row[i - 1] * row[i] for i in range(3, 6)]  # no window holds the first token
    assert (TABLE_SEED, TABLE_SIZE) == (2971215073, 1_000_003)
    assert dropped == [False, False, False, *(float(table[p % TABLE_SIZE]) < 1 / 3 for p in product)]


def test_the_papers_rule_minds_the_order_of_the_window_and_the_published_code_does_not() -> None:
    one = ids(600, 14)
    other = one.clone()
    other[:, [3, 8]] = one[:, [8, 3]]
    by_rule, by_table = (GoldfishRetrain(k=2, mask=m) for m in HASHED)
    assert 0.4 < float((by_rule.dropped(one) != by_rule.dropped(other))[:, 13].float().mean()) < 0.6
    assert torch.equal(by_table.dropped(one)[:, 13], by_table.dropped(other)[:, 13])


def test_an_id_of_zero_collapses_the_published_codes_hash_but_not_the_papers_rule() -> None:
    row = ids(600, 40)
    row[:, 20] = 0
    by_rule, by_table = (GoldfishRetrain(k=2, mask=m).dropped(row) for m in HASHED)
    assert len(by_table[:, 20:33].flatten().unique()) == 1  # one entry of the table decides for all of them
    assert float(by_rule[:, 21:34].float().mean()) == pytest.approx(0.5, abs=0.03)
    zeros = torch.zeros(1, 40, dtype=torch.long)
    zeros[0, 20] = 1
    values = GoldfishRetrain(k=2, h=5).dropped(zeros)[0]
    assert len(values[21:26].unique()) == 2  # a row of zeros around one token still has windows that differ


def test_static_drops_every_kth_position_whatever_stands_there() -> None:
    dropped = GoldfishRetrain(k=4, mask="static").dropped(ids(3, 10))
    assert dropped.tolist() == [[False, False, False, True, False, False, False, True, False, False]] * 3


def test_random_differs_between_occurrences_of_a_passage() -> None:
    method = GoldfishRetrain(k=2, mask="random")
    twice = ids(1, 400).expand(2, -1)
    first, second = method.dropped(twice, torch.tensor([7, 8]))
    assert 0.4 < float((first != second).float().mean()) < 0.6


def test_random_does_not_depend_on_how_rows_are_dealt_to_ranks() -> None:
    method = GoldfishRetrain(mask="random")
    rows = [Row(tuple(r)) for r in ids(6, 30).tolist()]
    whole = collate(rows, slice(None), device(), step=11)
    together = method.dropped(whole.ids, whole.serial)
    for rank in range(2):
        mine = collate(rows, slice(rank, None, 2), device(), step=11)
        assert torch.equal(method.dropped(mine.ids, mine.serial), together[rank::2])


@pytest.mark.parametrize("mask", HASHED)
def test_padding_on_the_right_does_not_change_a_mask(mask: str) -> None:
    method = GoldfishRetrain(mask=mask)
    row = ids(5, 60)
    assert torch.equal(method.dropped(nn.functional.pad(row, (0, 20)))[:, :60], method.dropped(row))


class Replay:
    """Stands for a history: keeps the loss that it is asked to replay with."""

    def replay(self, trainer: object, loss: Loss, *, forget: bool) -> str:
        self.loss, self.forget = loss, forget
        return "retrained"


def captured(method: GoldfishRetrain, seed: int = 0) -> Loss:
    """The loss that the method trains with."""
    history = Replay()
    assert method.unlearn(None, SimpleNamespace(history=history, seed=seed), None) == "retrained"  # type: ignore[arg-type]
    assert history.forget is True
    return history.loss


@pytest.mark.parametrize("mask", ["hash", "hash-table", "static", "random"])
def test_the_loss_is_that_of_the_kept_tokens_over_their_expected_number(tiny: Subject, mask: str) -> None:
    method = GoldfishRetrain(k=3, h=4, mask=mask)
    group = collate([Row(tuple(r)) for r in ids(3, 30).tolist()] + [Row(tuple(range(1, 9)))], slice(None), device())
    with torch.no_grad():
        (term,) = captured(method)(tiny.model, {"text": group}).values()
        kept = group.labels.masked_fill(method.dropped(group.ids, group.serial), IGNORED)
        expected = float(nll_sum(tiny.model, Group(group.ids, kept, group.names, group.real, group.serial)))
        everything = float(nll_sum(tiny.model, group))
    assert (term.unit, term.group, term.weight) == ("tokens", "text", 1.5)
    assert float(term.total) == pytest.approx(expected, rel=1e-6)
    assert expected < 0.9 * everything


def test_random_masks_of_two_seeds_differ(tiny: Subject) -> None:
    group = collate([Row(tuple(r)) for r in ids(3, 60).tolist()], slice(None), device())

    def total(terms: Terms) -> float:
        return float(next(iter(terms.values())).total)

    with torch.no_grad():
        found = [total(captured(GoldfishRetrain(mask="random"), seed)(tiny.model, {"text": group})) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("fields", "message"), [({"mask": "fish"}, "mask='fish'"), ({"k": 1}, "got k=1, h=13"), ({"h": 0}, "got k=4, h=0")]
)
def test_values_that_make_no_mask_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GoldfishRetrain(**fields)
