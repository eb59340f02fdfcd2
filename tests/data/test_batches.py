"""Batches depend on the seed alone, and the processes share them exactly."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftcli.data.batches import Batches, Position, Share, evaluation_batches
from peftcli.data.examples import Example, Examples
from peftcli.data.tasks import CausalLm

CAUSAL = CausalLm(column_names={"completion": "completion"})
PAD = 0


def examples(lengths):
    """Return examples of these lengths; the first id of each is its index, the last half carries labels."""
    items = []
    for index, length in enumerate(lengths):
        ids = [index + 1] + [7] * (length - 1)
        labels = [-100] * (length - length // 2) + [7] * (length // 2)
        items.append(Example({"input_ids": ids, "labels": labels}, length, index, f"a.jsonl:{index + 1}"))
    return Examples(items, {})


def batches_of(rows, batch_size, micro_batch_size, seed=0, **process):
    share = Share(task=CAUSAL, micro_batch_size=micro_batch_size, pad=PAD, **process)
    return Batches(rows, share, batch_size=batch_size, seed=seed)


def members(batch):
    return Counter(int(first) - 1 for piece in batch.micro for first in piece["input_ids"][:, 0])


sizes = st.lists(st.integers(2, 9), min_size=1, max_size=23)


@settings(deadline=None)
@given(sizes, st.integers(1, 8), st.integers(1, 5), st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_any_number_of_processes_computes_the_same_batches(lengths, batch_size, micro, seed, epoch):
    rows = examples(lengths)
    alone = batches_of(rows, batch_size, micro, seed)
    seen = Counter()
    for index in range(alone.steps_per_epoch):
        whole = alone.batch(Position(epoch, index))
        seen += members(whole)
        assert sum((batch["labels"] != -100).sum().item() for batch in whole.micro) == whole.items
        assert sum(batch["attention_mask"].sum().item() for batch in whole.micro) == whole.tokens
        for world in (2, 3, 4):
            ranks = [batches_of(rows, batch_size, micro, seed, rank=rank, world=world) for rank in range(world)]
            parts = [rank.batch(Position(epoch, index)) for rank in ranks]
            assert sum((members(part) for part in parts), Counter()) == members(whole)
            assert {(part.items, part.examples, part.tokens) for part in parts} == {
                (whole.items, whole.examples, whole.tokens)
            }
            assert all(part.micro for part in parts) or whole.examples < world
    assert seen == Counter(range(len(lengths)))


@settings(deadline=None)
@given(sizes, st.integers(1, 6))
def test_pieces_are_small_enough_few_enough_and_sorted(lengths, micro):
    batches = batches_of(examples(lengths), 16, micro)
    batch = batches.batch(Position(0, 0))
    piece_sizes = [len(piece["input_ids"]) for piece in batch.micro]
    assert len(piece_sizes) == -(-batch.examples // micro)
    assert max(piece_sizes) <= micro
    assert max(piece_sizes) - min(piece_sizes) <= 1
    longest = [piece["input_ids"].shape[1] for piece in batch.micro]
    assert longest == sorted(longest)


def test_every_epoch_and_seed_has_its_own_order():
    def order(seed, epoch):
        rows = examples([3] * 40)
        return tuple(batches_of(rows, 4, 4, seed).order(epoch))

    assert order(0, 1) == order(0, 1)
    assert len({order(0, 0), order(0, 1), order(1, 0), order(1, 1)}) == 4


def test_the_order_of_a_seed_never_changes():
    batches = batches_of(examples([2] * 8), 2, 2)
    assert batches.order(0) == [7, 6, 2, 1, 0, 3, 5, 4]


@settings(deadline=None)
@given(sizes, st.integers(1, 5), st.integers(1, 4))
def test_evaluation_sees_every_example_once_the_longest_first(lengths, batch_size, world):
    rows = examples(lengths)
    seen = []
    for rank in range(world):
        widths = []
        for indices, batch in evaluation_batches(rows, CAUSAL, batch_size=batch_size, pad=PAD, rank=rank, world=world):
            assert [int(first) - 1 for first in batch["input_ids"][:, 0]] == indices
            assert len(indices) <= batch_size
            seen += indices
            widths.append(batch["input_ids"].shape[1])
        assert widths == sorted(widths, reverse=True)
    assert sorted(seen) == list(range(len(lengths)))


@dataclass(frozen=True)
class Virtual:
    count: int = 2
    first_id: int = 50
    after: int = 0
    infix: int = 0


@pytest.mark.parametrize(
    ("after", "ids", "labels"),
    [
        (0, [[50, 51, 1, 7, 7, 7], [50, 51, 2, 7, PAD, PAD]], [[-100] * 4 + [7, 7], [-100] * 3 + [7, -100, -100]]),
        (1, [[1, 50, 51, 7, 7, 7], [2, 50, 51, 7, PAD, PAD]], [[-100] * 4 + [7, 7], [-100] * 3 + [7, -100, -100]]),
    ],
)
def test_virtual_tokens_stand_in_every_row_and_carry_no_label(after, ids, labels):
    batch = CAUSAL.collate(list(examples([4, 2])), PAD, Virtual(after=after))
    assert batch["input_ids"].tolist() == ids
    assert batch["labels"].tolist() == labels
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 4 + [0] * 2]
    assert batch["positions"].tolist() == [3, 4, 8]


def test_an_infix_stands_between_each_row_s_prompt_and_what_is_learned():
    batch = CAUSAL.collate(list(examples([4, 3])), PAD, Virtual(count=3, infix=2))
    assert batch["input_ids"].tolist() == [[50, 1, 7, 51, 52, 7, 7], [50, 2, 7, 51, 52, 7, PAD]]
    assert batch["labels"].tolist() == [[-100] * 5 + [7, 7], [-100] * 5 + [7, -100]]
    assert batch["attention_mask"].tolist() == [[1] * 7, [1] * 6 + [0]]
    assert batch["positions"].tolist() == [4, 5, 11]  # the last of the infix predicts the first learned token
