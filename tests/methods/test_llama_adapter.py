"""LLaMA-Adapter against a dense re-computation, and against Hugging Face peft."""

from __future__ import annotations

import copy

import pytest
import torch
from methods.oracle import beside_peft
from tiny import tiny_base, tiny_batch

from peftcli.base.anatomy import Anatomy
from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.llama_adapter import LlamaAdapter
from peftcli.methods.lora import Lora

SEVEN_B = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
N = 3


def adapted(family, task=None, **settings):
    """Return a delta with random prompts and open gates, and the blocks of its layers."""
    base = tiny_base(family, task)
    delta = attach((LlamaAdapter(prompt_length=N, **settings),), base, seed=0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return delta, [block for _, block in reversed(delta.blocks())]


def upper(layers):
    from peft import AdaptionPromptConfig, TaskType

    return AdaptionPromptConfig(task_type=TaskType.CAUSAL_LM, adapter_len=N, adapter_layers=layers)


def match(delta, theirs):
    for _, block in reversed(delta.blocks()):
        path = f".{block.address.split('.')[2]}.self_attn."
        for ours, name in ((block.prompt, "adaption_prompt"), (block.gate, "adaption_gate")):
            (other,) = (p for n, p in theirs.items() if n.endswith(path + name))
            yield ours, other


@pytest.mark.parametrize(("family", "layers"), [("llama", 2), ("mistral", 2), ("llama", 1)])
def test_a_scalar_gate_equals_peft(family, layers):
    method = LlamaAdapter(prompt_length=N, gate="scalar", layers=f"top:{layers}")
    both = beside_peft(family, method, upper(layers), match)
    with torch.no_grad():
        plain = tiny_base(family, "causal-lm").network(**both.batch).logits
        moved = (both.logits()[0] - plain).abs().max()
    logits, gradients = both.largest_logit_difference(), both.largest_gradient_difference()
    print(f"{family:8s} top {layers} max |difference| to peft: logits {logits:.1e}, gradients {gradients:.1e}")
    assert logits <= 1e-5
    assert gradients <= 1e-4
    assert moved > 1e-2
    assert both.largest_loss_difference() <= 1e-4


@torch.no_grad()
def test_its_peft_form_computes_the_same_there():
    from peft import get_peft_model, set_peft_model_state_dict

    delta, _ = adapted("llama", "causal-lm", gate="scalar", layers="top:1")
    layout = delta.methods[0].peft_layout(delta)
    theirs = get_peft_model(tiny_base("llama", "causal-lm").network, upper(layout.config["adapter_layers"])).eval()
    assert not set_peft_model_state_dict(theirs, layout.tensors).unexpected_keys
    batch = tiny_batch("llama")
    torch.testing.assert_close(theirs(**batch).logits, delta.base.network(**batch).logits, rtol=0, atol=1e-5)


def test_there_is_no_peft_form_where_peft_computes_something_else():
    for family, settings in (("llama", {}), ("qwen2", {"gate": "scalar"}), ("llama", {"gate": "scalar", "layers": 0})):
        delta, _ = adapted(family, "causal-lm", **settings)
        assert isinstance(delta.methods[0].peft_layout(delta), str)


def projected(weight, bias, prompt, heads):
    """Return what a projection makes of the prompt: (heads, prompt_length, head_width)."""
    made = prompt @ weight.T + (0 if bias is None else bias)
    return made.view(len(prompt), heads, -1).transpose(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("gate", ["per_head_tanh", "scalar"])
def test_bert_adds_a_gated_softmax_of_its_own(gate):
    (block,) = adapted("bert", layers=0, gate=gate)[1]
    inner = tiny_base("bert").network.encoder.layer[0].attention.self
    x = torch.randn(2, 5, 16)
    q, k, v = (m(x).view(2, 5, 4, 4).transpose(1, 2) for m in (inner.query, inner.key, inner.value))
    pk, pv = (projected(m.weight, m.bias, block.prompt, 4) for m in (inner.key, inner.value))
    opening = torch.tanh(block.gate).view(4, 1, 1) if gate == "per_head_tanh" else block.gate
    real, prompts = torch.softmax(q @ k.transpose(2, 3) / 2, -1), torch.softmax(q @ pk.transpose(1, 2) / 2, -1)
    expected = (real @ v + opening * (prompts @ pv)).transpose(1, 2).reshape(2, 5, 16)
    torch.testing.assert_close(block(x)[0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi3", "qwen3", "t5", "vit"])
def test_keys_and_values_are_those_of_the_frozen_projections(family):
    """Also out of fused ones: what reaches the attention function is W_k P and W_v P of each part."""
    delta, (block,) = adapted(family, layers=1) if family != "t5" else _encoder_block(*adapted("t5", layers=1))
    heads, seen = block.heads, []
    block.extended = lambda attention, sight, attended: seen.append(block._keys_and_values(sight)) or attended
    batch = tiny_batch(family)
    extra = {"decoder_input_ids": batch["input_ids"]} if family == "t5" else {}
    delta.base.network(**batch, **extra)
    for site, made in zip(delta.base.sites(("W_k", "W_v"), 1)[:2], seen[0], strict=True):
        weight, bias = delta.base.parameter(site), getattr(delta.base.module(site), "bias", None)
        weight = weight.T if site.transposed else weight
        rows = slice(None) if site.rows is None else torch.cat([torch.arange(*r) for r in site.rows])
        expected = projected(weight[rows], None if bias is None else bias[rows], block.prompt, heads.key_value)
        torch.testing.assert_close(made, expected.expand_as(made), rtol=1e-5, atol=1e-5)


def _encoder_block(delta, blocks):
    return delta, blocks[:1]


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "gemma2", "t5", "vit"])
def test_behind_shut_gates_it_is_the_base_exactly(family):
    base = tiny_base(family)
    attach((LlamaAdapter(prompt_length=N),), base, seed=0)
    batch = tiny_batch(family)
    extra = {"decoder_input_ids": batch["input_ids"]} if family == "t5" else {}
    plain = tiny_base(family).network(**batch, **extra).last_hidden_state
    assert (base.network(**batch, **extra).last_hidden_state - plain).abs().max() == 0


def test_behind_a_shut_gate_only_the_gate_has_a_gradient():
    base = tiny_base("llama", "causal-lm")
    delta = attach((LlamaAdapter(prompt_length=N),), base, seed=0)
    base.network(**tiny_batch("llama")).logits.pow(2).mean().backward()
    for address, parameter in delta.parameters.items():
        assert (parameter.grad.abs().max() > 0) == address.endswith("gate")


@torch.no_grad()
def test_soft_capped_scores_are_capped_for_the_prompt_too():
    """Gemma 2 caps scores in a function of its own. Under a cap of nearly zero all prompts weigh the same."""
    delta, (block,) = adapted("gemma2", "causal-lm", layers=0)
    block.wrapped.attn_logit_softcapping = 1e-6
    added, extended = [], block.extended

    def record(attention, sight, attended):
        result = extended(attention, sight, attended)
        mean = block._keys_and_values(sight)[1].mean(2).repeat_interleave(2, 1)[:, None]
        added.append((result - attended, torch.tanh(block.gate)[:, None] * mean))
        return result

    block.extended = record
    delta.base.network(**tiny_batch("gemma2"))
    ((moved, expected),) = added
    torch.testing.assert_close(moved, expected.expand_as(moved), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_lora_of_the_same_stack_moves_the_prompt_s_values_too():
    base = tiny_base("llama", "causal-lm")
    stack = (Lora(rank=2, target_modules=("W_v",)), LlamaAdapter(prompt_length=N))
    delta = attach(stack, base, seed=0)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.add_(0.3)
    batch = tiny_batch("llama")
    together = base.network(**batch).logits
    other = copy.deepcopy(base.network)
    for module in other.modules():
        if type(module).__name__ == "LowRank":
            module.wrapped.weight += module.delta_rows(slice(None))
            module.enabled = False
    torch.testing.assert_close(other(**batch).logits, together, rtol=1e-4, atol=1e-4)


def test_with_a_scalar_gate_a_layer_has_one_for_all_heads():
    assert LlamaAdapter(prompt_length=10, layers="top:30", gate="scalar").count(Anatomy.of(SEVEN_B)) == 1_228_830


def test_prompts_and_gates_are_not_decayed():
    delta, _ = adapted("llama")
    assert all(getattr(p, "no_decay", False) for p in delta.parameters.values())


@pytest.mark.parametrize("family", ["deberta-v2", "gpt_neo", "bloom", "falcon"])
def test_families_with_attention_code_of_their_own_are_refused(family):
    with pytest.raises(MethodError, match="has no way into the attention"):
        attach((LlamaAdapter(),), tiny_base(family), seed=0)
