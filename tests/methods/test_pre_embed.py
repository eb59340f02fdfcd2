"""PreEmbed against rows of input embeddings, and against prompt tuning."""

from __future__ import annotations

import pytest
import torch
from methods.oracle import beside_peft
from tiny import VOCABULARY, tiny_base
from torch.nn import functional

from peftcli.data.examples import Example
from peftcli.data.tasks import CausalLm
from peftcli.delta.delta import attach
from peftcli.delta.method import VirtualTokens
from peftcli.errors import MethodError
from peftcli.methods.pre_embed import PreEmbed
from peftcli.methods.prompt import Prompt

TASK = CausalLm(column_names={"completion": "completion"})
ROWS = (([5, 6, 7, 8], [9, 10]), ([11, 12], [13, 14, 15]))  # prompts and completions


def examples():
    return [
        Example({"input_ids": x + y, "labels": [-100] * len(x) + y}, len(x + y), n, f"a.jsonl:{n + 1}")
        for n, (x, y) in enumerate(ROWS)
    ]


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "gpt_neox"])
def test_the_loss_is_that_of_each_row_s_vectors_put_together_by_hand(family):
    """[P; E(x); I; E(y)], row by row and unpadded: the last of I predicts the first of y."""
    base = tiny_base(family, "causal-lm")
    embed = base.module(base.sites(("embeddings",))[0])
    method = PreEmbed(prefix_length=3, infix_length=2)
    ((_, block),) = attach((method,), base, seed=0).blocks()
    block.prompt.normal_(generator=torch.Generator().manual_seed(2))
    ours = TASK.outcomes(base.network, TASK.collate(examples(), 0, method.virtual_tokens(base.anatomy)))
    for (x, y), outcome in zip(ROWS, ours, strict=True):
        parts = (block.prompt[:3], embed(torch.tensor(x)), block.prompt[3:], embed(torch.tensor(y)))
        logits = base.network(inputs_embeds=torch.cat(parts)[None]).logits[0, 3 + len(x) + 1 : -1]
        expected = functional.cross_entropy(logits, torch.tensor(y), reduction="sum")
        assert outcome == pytest.approx({"loss": float(expected), "tokens": len(y)}, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_an_infix_it_equals_prompt_tuning_of_peft(family):
    from peft import PromptTuningConfig, TaskType

    def match(delta, theirs):
        (table,) = (p for n, p in theirs.items() if "prompt_encoder" in n)
        yield delta.blocks()[0][1].prompt, table

    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    both = beside_peft(family, PreEmbed(prefix_length=4, infix_length=0), config, match)
    batch, ids = both.batch, torch.arange(VOCABULARY, VOCABULARY + 4).expand(2, -1)
    with_ids = {
        "input_ids": torch.cat([ids, batch["input_ids"]], 1),
        "attention_mask": torch.cat([torch.ones_like(ids), batch["attention_mask"]], 1),
    }
    difference = float((both.delta.base.network(**with_ids).logits - both.theirs(**batch).logits).abs().max())
    print(f"{family:6s} max |difference| of a logit to peft: {difference:.1e}")
    assert difference <= 1e-5


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_without_an_infix_its_tokens_stand_where_those_of_a_prompt_do(family):
    anatomy = tiny_base(family).anatomy
    method = PreEmbed(prefix_length=4, infix_length=0)
    assert method.virtual_tokens(anatomy) == Prompt(prompt_length=4).virtual_tokens(anatomy)
    assert method.sizes(anatomy) == Prompt(prompt_length=4).sizes(anatomy)


def test_an_infix_is_what_decoders_have_by_default_and_no_other():
    decoder, encoder = tiny_base("gpt2").anatomy, tiny_base("bert").anatomy
    method = PreEmbed(prefix_length=4)
    assert method.virtual_tokens(decoder) == VirtualTokens(count=12, first_id=VOCABULARY, after=0, infix=8)
    assert method.virtual_tokens(encoder) == VirtualTokens(count=4, first_id=VOCABULARY, after=1)
    with pytest.raises(MethodError, match="no decoder"):
        PreEmbed(prefix_length=4, infix_length=1).count(encoder)


def test_its_vectors_start_small_or_as_rows_of_the_embedding():
    base = tiny_base("gpt2")
    ((_, block),) = attach((PreEmbed(prefix_length=28, infix_length=0),), base, seed=0).blocks()
    assert 0.015 < float(block.prompt.detach().std()) < 0.025
    table = tiny_base("gpt2").network.wte.weight
    ((_, block),) = attach((PreEmbed(prefix_length=4, start="vocabulary"),), tiny_base("gpt2"), seed=0).blocks()
    assert all((row == table).all(1).any() for row in block.prompt)


@pytest.mark.parametrize(("family", "why"), [("vit", "token embeddings"), ("gpt2", "40 positions")])
def test_a_base_model_without_tokens_or_without_room_is_refused(family, why):
    with pytest.raises(MethodError, match=why):
        attach((PreEmbed(),), tiny_base(family), seed=0)
