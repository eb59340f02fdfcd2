"""An encoder reads the input, a decoder learns the target and its end, and nothing else."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import ENCODER_DECODERS, tiny_base, tiny_config
from tokenizers import processors
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from peftcli.base.anatomy import Anatomy
from peftcli.data.datasets import load_data
from peftcli.data.examples import Example
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.tasks import Seq2Seq, make_task, task_from_manifest
from peftcli.delta.count import closed_form, counted
from peftcli.delta.delta import attach
from peftcli.delta.registry import find
from peftcli.errors import ArtifactError, DataError, MethodError, RecipeError

TASK = Seq2Seq(column_names={"input": "input", "target": "target"})
METHODS = {
    "lora": {"rank": 2, "target_modules": "all-linear"},
    "bitfit": {},
    "houlsby": {"bottleneck": 2},
    "prefix": {"prefix_length": 2},
    "prompt": {"prompt_length": 3},
    "ia3": {},
    "full": {},
}


def table(*rows):
    return Table([Row(row, f"a.jsonl:{n}") for n, row in enumerate(rows, 1)], [DataFile("a.jsonl", "", len(rows))])


def pairs(*rows):
    return table(*({"input": one, "target": other} for one, other in rows))


@pytest.fixture(scope="module")
def ending(byte_level) -> PreTrainedTokenizerFast:
    """As T5's: every text ends in an end token."""
    inner = type(byte_level.backend_tokenizer).from_str(byte_level.backend_tokenizer.to_str())
    end = inner.token_to_id("<end>")
    inner.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", end)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


texts = st.text(st.characters(codec="utf-8", exclude_characters="<>\0"), max_size=40)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source=texts.filter(str.strip), target=texts.filter(str.strip))
@pytest.mark.parametrize("tokenizer", ["ending", "byte_level"])
def test_the_target_is_learned_letter_by_letter_with_one_end(tokenizer, source, target, request):
    tokenizer = request.getfixturevalue(tokenizer)
    (example,) = TASK.encode(pairs((source, target)), tokenizer, 1000)
    *answer, end = example.target
    assert end == tokenizer.eos_token_id
    assert tokenizer.decode(answer) == target
    assert example.ids["input_ids"] == tokenizer(source)["input_ids"]
    assert example.references == (target,)
    assert TASK.items(example) == len(example.target)
    assert example.length == len(example.target) + len(example.ids["input_ids"])


def test_a_long_input_loses_its_end_and_a_long_target_its_row(ending):
    rows = [("the dog " * 40, "a log")] + [("a", "b")] * 198 + [("a", "the dog and the log " * 20)]
    examples = TASK.encode(pairs(*rows), ending, 20)
    first = examples[0].ids["input_ids"]
    assert first == [*ending("the dog " * 40)["input_ids"][:19], ending.eos_token_id]
    assert (examples.counts["truncated"], examples.counts["dropped"], examples.counts["longest"]) == (1, 1, 20)
    with pytest.raises(DataError, match=r"a\.jsonl:2: the target is longer than 20 tokens in 1 row"):
        TASK.encode(pairs(*rows[:1], rows[-1]), ending, 20)


def test_a_prefix_stands_before_every_input(ending, section):
    made = section("seq2seq", [{"input": "a", "target": "b"}], source_prefix="say: ")
    task = load_data(made, 0).task
    (example,) = task.encode(pairs(("a", "b")), ending, 100)
    assert ending.decode(example.ids["input_ids"][:-1]) == "say: a"
    assert task_from_manifest(task.manifest()) == task
    with pytest.raises(RecipeError, match=r"data\.source_prefix means nothing for causal-lm"):
        make_task(section("causal-lm", [{"prompt": "a", "completion": "b"}], source_prefix="x"), pairs(("a", "b")))
    with pytest.raises(ArtifactError, match="source_prefix"):
        task_from_manifest({**task.manifest(), "source_prefix": 3})


def test_references_are_what_a_row_names_or_its_target(ending):
    rows = table(
        {"input": "a", "target": "b", "references": ["b", "c"]},
        {"input": "a", "target": "b", "references": None},
        {"input": "a", "target": "b", "references": "c"},
        {"input": "a", "target": "b"},
    )
    assert [e.references for e in TASK.encode(rows, ending, 9)] == [("b", "c"), ("b",), ("c",), ("b",)]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"references": []}, r"train\.jsonl:2: column 'references' is empty, not texts, in 1 row"),
        ({"references": ["x", 3]}, "column 'references' is a list with a whole number, not texts"),
        ({"references": {"x": 1}}, "column 'references' is an object, not texts"),
        ({"target": " "}, "column 'target' has no text in 1 row"),
        ({"input": 3}, "column 'input' is .* a whole number"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row, what, section):
    good = {"input": "a", "target": "b"}
    with pytest.raises(DataError, match=what):
        load_data(section("seq2seq", [good, {**good, **row}]), 0)


def test_columns_may_be_called_otherwise(section):
    rows = [{"text": "a", "summary": "b"}]
    task = load_data(section("seq2seq", rows, columns={"input": "text", "target": "summary"}), 0).task
    assert task.column_names == {"input": "text", "target": "summary"}
    with pytest.raises(DataError, match="no column is called 'input'"):
        load_data(section("seq2seq", rows), 0)
    with pytest.raises(RecipeError, match=r"data\.columns has no key 'prompt'"):
        load_data(section("seq2seq", rows, columns={"prompt": "text"}), 0)


def adapted(family, method, seed=0):
    return attach((find(method)(**METHODS[method]),), tiny_base(family, "seq2seq"), seed=seed)


@pytest.fixture(params=[(f, m) for f in ENCODER_DECODERS for m in METHODS], ids="-".join)
def cell(request):
    try:
        adapted(*request.param)
    except MethodError as error:
        pytest.skip(f"refuses: {str(error).splitlines()[0]}")
    return request.param


def examples():
    return [
        Example({"input_ids": [7, 8, 9, 1]}, 7, 0, "a:1", target=[11, 12, 1]),
        Example({"input_ids": [10, 1]}, 7, 1, "a:2", target=[20, 21, 22, 23, 1]),
    ]


def randomise(delta):
    with torch.no_grad():
        for number, parameter in enumerate(delta.trained().values()):
            draw = torch.Generator().manual_seed(number)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))


@torch.no_grad()
def test_the_loss_is_that_of_the_shifted_targets(cell):
    delta = adapted(*cell)
    randomise(delta)
    network, virtual = delta.base.network, delta.methods[0].virtual_tokens(delta.base.anatomy)
    outcomes = TASK.outcomes(network, TASK.collate(examples(), 0, virtual))
    for example, outcome in zip(examples(), outcomes, strict=True):
        before = range(virtual.first_id, virtual.first_id + virtual.count) if virtual else ()
        start = network.config.decoder_start_token_id
        logits = network(
            input_ids=torch.tensor([[*before, *example.ids["input_ids"]]]),
            decoder_input_ids=torch.tensor([[start, *example.target[:-1]]]),
        ).logits[0]
        wanted = functional.cross_entropy(logits, torch.tensor(example.target), reduction="sum")
        assert outcome["loss"] == pytest.approx(float(wanted), rel=1e-5)
        assert outcome["tokens"] == len(example.target)
    total = float(TASK.loss(network, TASK.collate(examples(), 0, virtual)))
    assert total == pytest.approx(sum(one["loss"] for one in outcomes), rel=1e-5)


def test_its_closed_form_is_what_is_counted(cell):
    delta = adapted(*cell).pack()
    form, found = closed_form(delta.methods, delta.base.anatomy), counted(delta)
    assert (form.delta, form.base, form.head) == (found.delta, found.base, found.head)
    assert form.per_site == found.per_site


@torch.no_grad()
def test_its_state_goes_round_and_switched_off_it_is_the_base(cell):
    delta = adapted(*cell)
    virtual = delta.methods[0].virtual_tokens(delta.base.anatomy)
    randomise(delta)
    finished = delta.pack()
    fresh = attach(finished.methods, tiny_base(cell[0], "seq2seq"), seed=2)
    fresh.load(finished.state())
    batch = TASK.collate(examples(), 0, virtual)
    assert TASK.outcomes(fresh.base.network, batch) == TASK.outcomes(finished.base.network, batch)
    plain = TASK.collate(examples(), 0, None)
    with fresh.disabled():
        base = TASK.outcomes(fresh.base.network, plain)
    assert base == TASK.outcomes(tiny_base(cell[0], "seq2seq").network, plain)


def test_gradients_reach_what_trains(cell):
    delta = adapted(*cell)
    randomise(delta)
    virtual = delta.methods[0].virtual_tokens(delta.base.anatomy)
    TASK.loss(delta.base.network, TASK.collate(examples(), 0, virtual)).backward()
    still = [a for a, p in delta.trained().items() if p.grad is None or not p.grad.abs().max() > 0]
    assert not [a for a in still if not a.endswith("W_k.bias")]  # the softmax does not see a shift of all keys


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"model_type": "t5", "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}, 222_903_552),
        (  # Flan-T5 base
            {
                "model_type": "t5",
                "d_model": 768,
                "d_ff": 2048,
                "num_layers": 12,
                "num_heads": 12,
                "feed_forward_proj": "gated-gelu",
                "tie_word_embeddings": False,
            },
            247_577_856,
        ),
        ({"model_type": "bart"}, 406_291_456),
    ],
)
def test_published_models_have_their_published_sizes(config, size):
    assert Anatomy.of(config, task="seq2seq").size == size


def test_a_config_that_transformers_wrote_anew_still_tells_of_its_own_head():
    config = tiny_config("t5_v1_1")
    again = {**config, "tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert Anatomy.of(again, task="seq2seq").size == Anatomy.of(config, task="seq2seq").size
