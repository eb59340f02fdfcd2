import pytest

from peftcli.base.anatomy import Anatomy
from peftcli.base.layers import select
from peftcli.errors import RecipeError


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ("all", list(range(12))),
        ("8-11", [8, 9, 10, 11]),
        (" 8 - 9 ", [8, 9]),
        ([0, 5], [0, 5]),
        ([5, 0, 5], [0, 5]),
        (["0-1", 5, "top:1"], [0, 1, 5, 11]),
        ("top:4", [8, 9, 10, 11]),
        ("3", [3]),
        (3, [3]),
    ],
)
def test_layers_are_chosen(layers, chosen):
    assert select(layers, 12, "encoder") == chosen


@pytest.mark.parametrize(
    "layers", [12, -1, "8-12", "11-8", "top:13", "top:0", "top:1-2", "last", "", [], [0, 12], True]
)
def test_a_choice_that_does_not_fit_is_refused(layers):
    with pytest.raises(RecipeError):
        select(layers, 12, "encoder")


def test_a_layer_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(RecipeError, match="the encoder has 12 layers") as caught:
        select("8-12", 12, "encoder")
    assert caught.value.problems[0].hint == "Name layers from 0 to 11."


def test_the_top_is_taken_in_each_stack():
    anatomy = Anatomy.of({"model_type": "t5", "num_layers": 4, "num_decoder_layers": 6})
    sites = anatomy.sites(["W_q"], layers="top:1", cross=False)
    assert [(s.stack, s.layer) for s in sites] == [("encoder", 3), ("decoder", 5)]
