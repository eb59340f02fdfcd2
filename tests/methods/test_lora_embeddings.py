"""LoRA on the token embeddings: its formula on every family, and Hugging Face peft's."""

from __future__ import annotations

import pytest
import torch
from methods.oracle import base_task, beside_peft
from tiny import DECODERS, FAMILIES, VISION, VOCABULARY, tasks, tiny_base, tiny_batch, tiny_network

from peftcli.artifact.exports import CONFIG, TENSORS, export
from peftcli.base.anatomy import Anatomy
from peftcli.blocks.embedding_low_rank import EmbeddingLowRank
from peftcli.delta.count import closed_form, counted
from peftcli.delta.delta import attach
from peftcli.delta.registry import find
from peftcli.errors import MethodError
from peftcli.methods.lora import Lora
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.rates import learning_rates
from peftcli.recipe.recipe import TrainingSection

TABLE = Lora(rank=3, alpha=7.0, target_modules=("embeddings",))
BOTH = Lora(rank=3, alpha=7.0, target_modules=("W_o", "embeddings"))
READERS = [f for f in FAMILIES if f not in VISION]
PEFT = {
    "bert": ["embeddings.word_embeddings", "attention.output.dense"],
    "electra": ["embeddings.word_embeddings", "attention.output.dense"],
    "gpt2": ["wte", "attn.c_proj"],
    "llama": ["embed_tokens", "o_proj"],
    "gemma3_text": ["embed_tokens", "o_proj"],
    "t5": ["embed_tokens", "o"],
    "bart": ["embed_tokens", "self_attn.out_proj", "encoder_attn.out_proj"],
}
pytestmark = pytest.mark.filterwarnings("ignore:Model (with|has) .tie_word_embeddings:UserWarning")


def outputs(network, family):
    out = network(**tiny_batch(family))
    return out.logits if "logits" in out else out.last_hidden_state


def randomise(delta, scale=0.3):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def block_of(delta):
    (found,) = (b for _, b in delta.blocks() if isinstance(b, EmbeddingLowRank))
    return found


def tie(theirs, family):
    """Let peft's encoder and decoder share the pair that both of ours are."""
    if family in ("t5", "bart"):
        inner = theirs.base_model.model
        inner = inner.transformer if family == "t5" else inner.model
        for name in ("lora_embedding_A", "lora_embedding_B"):
            setattr(inner.decoder.embed_tokens, name, getattr(inner.encoder.embed_tokens, name))


def pair(family, method=BOTH, **settings):
    from peft import LoraConfig

    def match(delta, theirs):
        for _, block in delta.blocks():
            table = isinstance(block, EmbeddingLowRank)
            path = delta.base.path(block.site)
            for name in ("A", "B"):
                own = f"lora_embedding_{name}.default" if table else f"lora_{name}.default.weight"
                ours = getattr(block, f"embedding_{name}" if table else name)
                yield ours, theirs[f"base_model.model.{path}.{own}"]

    config = LoraConfig(r=3, lora_alpha=7, target_modules=PEFT[family], fan_in_fan_out=family == "gpt2", **settings)
    both = beside_peft(family, method, config, match)
    tie(both.theirs, family)
    return both


@pytest.mark.parametrize("family", PEFT)
def test_logits_gradients_and_twenty_steps_equal_those_of_peft(family):
    both = pair(family)
    trained = sum(1 for p in both.theirs.parameters() if p.requires_grad)
    assert len(both.twins) == trained
    logits, gradients = both.largest_logit_difference(), both.largest_gradient_difference()
    losses = both.largest_loss_difference()
    print(f"{family:12s} max |difference|: logits {logits:.1e}, gradients {gradients:.1e}, 20 losses {losses:.1e}")
    assert max(logits, gradients, losses) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("family", READERS)
def test_the_table_moves_and_a_head_tied_to_it_does_not(family):
    task = tasks(family)[-1]
    delta = attach((TABLE,), tiny_base(family, task), seed=0)
    start = outputs(tiny_network(family, task), family)
    assert torch.equal(outputs(delta.base.network, family), start)
    randomise(delta)
    block = block_of(delta)
    plain = tiny_network(family, task)
    head = plain.get_output_embeddings() if task == "causal-lm" else None
    if head is not None:
        head.weight = torch.nn.Parameter(head.weight.clone())
    change = 7.0 / 3 * (block.embedding_B @ block.embedding_A).T
    plain.get_input_embeddings().weight += change  # an encoder and a decoder hold this very tensor
    torch.testing.assert_close(outputs(delta.base.network, family), outputs(plain, family), rtol=1e-5, atol=1e-5)
    assert (outputs(delta.base.network, family) - start).abs().max() > 1e-3
    with delta.disabled():
        assert torch.equal(outputs(delta.base.network, family), start)


@pytest.mark.parametrize("family", READERS)
def test_it_counts_a_column_a_token_and_a_row_a_feature(family):
    delta = attach((BOTH,), tiny_base(family, tasks(family)[-1]), seed=0)
    form, found = closed_form((BOTH,), delta.base.anatomy), counted(delta)
    assert (form.delta, form.per_site, form.per_layer) == (found.delta, found.per_site, found.per_layer)
    assert form.per_site["embeddings"] == 3 * (VOCABULARY + delta.base.anatomy.embedding_width)


def test_all_linear_is_without_embeddings_and_the_count_of_gpt_2_is_that_of_its_table():
    gpt2 = Anatomy.of({"model_type": "gpt2"}, task="causal-lm")
    assert "embeddings" not in closed_form((Lora(target_modules="all-linear"),), gpt2).per_site
    assert Lora(rank=8, target_modules=("embeddings",)).count(gpt2) == 8 * (50257 + 768)


def test_what_cannot_move_embeddings_says_so():
    with pytest.raises(MethodError, match="vit has no embeddings"):
        attach((TABLE,), tiny_base("vit"), seed=0)
    for name in ("dora", "lnlora"):
        with pytest.raises(ValueError, match="target_modules"):
            find(name)(target_modules=("embeddings",))


def test_padding_gets_no_gradient():
    delta = attach((TABLE,), tiny_base("bert", "classification"), seed=0)
    outputs(delta.base.network, "bert").sum().backward()
    gradient = block_of(delta).embedding_A.grad
    assert not gradient[:, 0].any()
    assert gradient.any()


def test_under_lora_plus_embeddings_are_as_slow_as_in_the_published_optimizer():
    plus = Lora(rank=2, rate_ratio=16.0, target_modules=("W_q", "embeddings"))
    for method, table in ((plus, 1e-6), (plus.model_copy(update={"rate_ratio": 1.0}), 5e-4)):
        delta = attach((method,), tiny_base("bert", "classification"), seed=0)
        rates = learning_rates(TrainingSection(), delta, Silent())
        found = {r for a, r in rates.items() if "embedding_" in a}
        assert list(found) == [pytest.approx(table)]


PROMPTS = [("prompt", {"prompt_length": 2}), ("pre_embed", {"prefix_length": 2}), ("prefix", {"prefix_length": 2})]


@torch.no_grad()
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("name", "settings"), PROMPTS)
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_a_prompt_in_the_same_stack_stands_outside(family, name, settings, first):
    prompt = find(name)(**settings)
    task = tasks(family)[-1]
    try:
        attach((prompt,), tiny_base(family, task), seed=0)
    except MethodError:
        pytest.skip("the family has no such prompt")
    stack = (TABLE, prompt) if first else (prompt, TABLE)
    delta = attach(stack, tiny_base(family, task), seed=0)
    plain = attach((prompt,), tiny_base(family, task), seed=0)
    assert all(torch.equal(p, delta.parameters[a]) for a, p in plain.parameters.items())
    randomise(delta)
    block = block_of(delta)
    for address, parameter in plain.parameters.items():
        parameter.copy_(delta.parameters[address])
    head = plain.base.network.get_output_embeddings() if task == "causal-lm" else None
    if head is not None:
        head.weight = torch.nn.Parameter(head.weight.clone())
    table = plain.base.network.get_input_embeddings().weight
    table += 7.0 / 3 * (block.embedding_B @ block.embedding_A).T
    results = []
    for one in (delta, plain):
        virtual = next((v for m in one.methods if (v := m.virtual_tokens(one.base.anatomy))), None)
        results.append(_run(one.base.network, family, virtual))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def _run(network, family, virtual):
    batch = tiny_batch(family)
    if virtual is not None:
        ids = torch.arange(virtual.first_id, virtual.first_id + virtual.count).expand(2, -1)
        at, mask = virtual.after, batch["attention_mask"]
        batch["input_ids"] = torch.cat([batch["input_ids"][:, :at], ids, batch["input_ids"][:, at:]], 1)
        batch["attention_mask"] = torch.cat([mask[:, :at], torch.ones_like(ids), mask[:, at:]], 1)
    out = network(**batch)
    return out.logits if "logits" in out else out.last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_sparse_change_of_the_table_adds_up_with_it_or_is_refused(family, first):
    sparse, task = find("lt_sft")(entries="60%"), tasks(family)[-1]
    delta = attach((TABLE, sparse) if first else (sparse, TABLE), tiny_base(family, task), seed=0)
    randomise(delta)
    both = outputs(delta.base.network, family)
    alone = attach((sparse,), tiny_base(family, task), seed=0)
    for address, parameter in alone.parameters.items():
        parameter.copy_(delta.parameters[address])
        alone.buffers[f"{address}.indices"].copy_(delta.buffers[f"{address}.indices"])
    block = block_of(delta)
    block.embedding_A.zero_()
    torch.testing.assert_close(outputs(delta.base.network, family), outputs(alone.base.network, family))
    assert (both - outputs(delta.base.network, family)).abs().max() > 1e-3


@pytest.mark.parametrize("family", PEFT)
def test_peft_loads_the_stored_form_and_computes_the_same(tmp_path, family):
    from peft import PeftModel

    task = base_task(family)
    delta = attach((BOTH,), tiny_base(family, task), seed=0)
    randomise(delta)
    stored = export(delta, base=None, revision=None, task=None)
    assert stored.kind == ("converted" if family in ("t5", "bart") else "exact")
    stored.write(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {CONFIG, TENSORS}
    loaded = PeftModel.from_pretrained(tiny_network(family, task), tmp_path).eval()
    with torch.no_grad():
        ours, theirs = outputs(delta.base.network, family), outputs(loaded, family)
    assert (ours - theirs).abs().max() <= 1e-5
    assert (ours - outputs(tiny_network(family, task), family)).abs().max() > 1e-2


def test_families_that_generate_are_among_those_compared():
    assert {"gpt2", "llama", "gemma3_text"} <= set(DECODERS)
