"""What is shown of an example is its tokens in their order, learned ones told apart."""

import pytest

from peftcli.data.examples import IGNORED, Example, Examples
from peftcli.data.shown import Stretch, label_text, stretches


def example(ids, **given):
    return Example(ids, len(ids.get("input_ids", [])), 0, "a.jsonl:1", **given)


def test_stretches_are_told_apart_by_labels_and_join_to_the_whole(sentencepiece):
    ids = sentencepiece("the dog a log")["input_ids"]
    labels = [IGNORED] * 2 + ids[2:5] + [IGNORED] * (len(ids) - 5)
    found = stretches(example({"input_ids": ids, "labels": labels}), sentencepiece)
    assert [one.supervised for one in found] == [False, True, False]
    assert "".join(one.text for one in found) == sentencepiece.decode(ids)


def test_tags_and_targets_count_as_learned(byte_level):
    ids = byte_level("the dog")["input_ids"]
    tagged = stretches(example({"input_ids": ids, "tags": [IGNORED] * (len(ids) - 1) + [0]}), byte_level)
    assert [one.supervised for one in tagged] == [False, True]
    assert stretches(example({"input_ids": ids}, target=ids), byte_level) == (
        Stretch("the dog", False),
        Stretch("the dog", True),
    )


@pytest.mark.parametrize(
    ("label", "text"), [(None, None), (1, "late"), (7, "7"), ((0, 1), "open, late"), (2.5, "2.5"), ((), "")]
)
def test_a_label_has_its_name(label, text):
    assert label_text(label, {0: "open", 1: "late"}) == text


def test_lengths_are_those_of_the_nearest_rank():
    examples = Examples([example({"input_ids": [0] * length}) for length in range(200, 0, -1)], {})
    assert examples.lengths() == {"p50": 100, "p90": 180, "p99": 198, "max": 200}
    assert Examples(examples.items[:1], {}).lengths() == {"p50": 200, "p90": 200, "p99": 200, "max": 200}
