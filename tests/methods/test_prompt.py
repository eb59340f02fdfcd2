"""Prompt tuning against input embeddings, against Hugging Face peft, and its count."""

from __future__ import annotations

import pytest
import torch
from methods.oracle import beside_peft
from pydantic import ValidationError
from tiny import VOCABULARY, tiny_base, tiny_batch

from peftcli.base.anatomy import Anatomy
from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.prompt import Prompt

N = 4


def with_prompt(batch, after=0):
    ids = torch.arange(VOCABULARY, VOCABULARY + N).expand(len(batch["input_ids"]), -1)
    mask = torch.ones_like(ids)
    return {
        "input_ids": torch.cat([batch["input_ids"][:, :after], ids, batch["input_ids"][:, after:]], 1),
        "attention_mask": torch.cat([batch["attention_mask"][:, :after], mask, batch["attention_mask"][:, after:]], 1),
    }


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_it_equals_peft(family):
    from peft import PromptTuningConfig, TaskType

    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=N)

    def match(delta, theirs):
        (table,) = (p for n, p in theirs.items() if "prompt_encoder" in n)
        yield delta.blocks()[0][1].prompt, table

    both = beside_peft(family, Prompt(prompt_length=N), config, match)
    ours = both.delta.base.network(**with_prompt(both.batch)).logits
    theirs = both.theirs(**both.batch).logits
    difference = float((ours - theirs).abs().max())
    print(f"{family:6s} max |difference| of a logit to peft: {difference:.1e}")
    assert difference <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("family", "after"), [("bert", 1), ("gemma3_text", 0), ("roberta", 1)])
def test_it_equals_the_same_vectors_given_as_input_embeddings(family, after):
    base = tiny_base(family, "causal-lm" if family == "gemma3_text" else "classification")
    embed = base.module(base.sites(("embeddings",))[0])
    delta = attach((Prompt(prompt_length=N),), base, seed=0)
    ((_, block),) = delta.blocks()
    batch = {n: t[:1] for n, t in tiny_batch(family).items()}
    ours = base.network(**with_prompt(batch, after)).logits
    ids = batch["input_ids"]
    rows = torch.cat([embed(ids[:, :after]), block.prompt[None], embed(ids[:, after:])], 1)
    plain = base.network(inputs_embeds=rows).logits
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_rows_without_virtual_tokens_are_the_base_bit_for_bit():
    base = tiny_base("llama", "causal-lm")
    attach((Prompt(prompt_length=N),), base, seed=0)
    batch = tiny_batch("llama")
    plain = tiny_base("llama", "causal-lm").network(**batch).logits
    assert torch.equal(base.network(**batch).logits, plain)


def test_a_start_from_the_vocabulary_takes_rows_as_the_embedding_gives_them():
    base = tiny_base("gemma3_text", "causal-lm")
    embed = base.module(base.sites(("embeddings",))[0])
    delta = attach((Prompt(prompt_length=N, start="vocabulary"),), base, seed=0)
    ((_, block),) = delta.blocks()
    every = embed(torch.arange(VOCABULARY))
    assert all(any(torch.equal(row, known) for known in every) for row in block.prompt)


@torch.no_grad()
@pytest.mark.parametrize(("words", "rows"), [((7, 9), [7, 9, 7, 9]), ((5, 6, 7, 8, 9), [5, 6, 7, 8])])
def test_a_start_from_text_repeats_or_cuts_its_tokens(words, rows):
    base = tiny_base("gemma3_text", "causal-lm")
    embed = base.module(base.sites(("embeddings",))[0])
    method = Prompt(prompt_length=N, start="text", start_text="sort it").prepared({"sort it": list(words)}.__getitem__)
    ((_, block),) = attach((method,), base, seed=0).blocks()
    assert torch.equal(block.prompt, embed(torch.tensor(rows)))


def test_a_start_from_text_needs_text_with_tokens_and_a_tokenizer():
    for settings in ({"start": "text"}, {"start_text": "sort it"}):
        with pytest.raises(ValidationError, match="start"):
            Prompt(**settings)
    method = Prompt(start="text", start_text=" ")
    with pytest.raises(MethodError, match="no token"):
        method.prepared(lambda text: [])
    with pytest.raises(MethodError, match="no tokenizer"):
        attach((method,), tiny_base("gpt2"), seed=0)


def test_the_finished_delta_is_attached_without_a_tokenizer():
    method = Prompt(prompt_length=N, start="text", start_text="sort it").prepared(lambda text: [7, 9])
    delta = attach((method,), tiny_base("gpt2"), seed=0).pack()
    assert delta.methods == (Prompt(prompt_length=N, start="random"),)
    fresh = attach(delta.methods, tiny_base("gpt2"), seed=1)
    fresh.load(delta.state())
    assert torch.equal(fresh.blocks()[0][1].prompt, delta.blocks()[0][1].prompt)


def test_a_prompt_that_leaves_no_room_for_text_is_refused():
    with pytest.raises(MethodError, match="has 40 positions"):
        Prompt(prompt_length=40).count(tiny_base("gpt2").anatomy)


def test_the_count_is_length_times_the_embedding_width():
    electra = {"model_type": "electra", "embedding_size": 128, "hidden_size": 256}
    assert Prompt(prompt_length=10).count(Anatomy.of(electra)) == 1_280


def test_a_vision_model_is_refused():
    with pytest.raises(MethodError, match="token embeddings"):
        attach((Prompt(),), tiny_base("vit"), seed=0)
