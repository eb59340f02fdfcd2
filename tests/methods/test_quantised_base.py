"""Methods on a base model whose projections are held quantised."""

import copy

import pytest
import torch
from quantised_bases import dequantised_twin, quantised_base
from tiny import tiny_batch

from peftcli.base.quantise import quantised_paths
from peftcli.delta.delta import attach
from peftcli.delta.registry import all_methods
from peftcli.errors import MethodError
from peftcli.methods.bitfit import Bitfit
from peftcli.methods.dora import Dora
from peftcli.methods.lora import Lora
from peftcli.training.proofs import checksums

pytest.importorskip("bitsandbytes", reason="the engine is an extra")
ALL = {"rank": 2, "target_modules": "all-linear"}


def _randomise(delta):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def _logits(base, batch):
    with torch.no_grad():
        return base.network(**batch).logits


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize(
    ("family", "task"), [("llama", "causal-lm"), ("gpt2", "causal-lm"), ("bert", "classification")]
)
def test_lora_starts_at_the_quantised_base_exactly_and_is_switched_off_exactly(family, task, form):
    base, batch = quantised_base(family, task, form), tiny_batch(family)
    before = _logits(base, batch)
    delta = attach((Lora(**ALL),), base, seed=0)
    assert torch.equal(_logits(base, batch), before)
    _randomise(delta)
    assert float((_logits(base, batch) - before).abs().max()) > 1e-3
    with delta.disabled():
        assert torch.equal(_logits(base, batch), before)


@pytest.mark.parametrize(
    "method", [Lora(**ALL), Dora(**ALL), Dora(**ALL, dropout=0.5)], ids=["lora", "dora", "dropped"]
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_delta_computes_what_it_computes_beside_the_unpacked_weights(family, method):
    base, batch = quantised_base(family, "causal-lm", "nf4"), tiny_batch(family)
    twin = dequantised_twin(base, family, "causal-lm")
    sides = [attach((method,), one, seed=0) for one in (base, twin)]
    if not isinstance(method, Dora):  # lengths are positive
        for delta in sides:
            _randomise(delta)
    outputs = []
    for delta in sides:
        delta.base.network.train()
        torch.manual_seed(0)
        out = delta.base.network(**batch).logits
        out.pow(2).mean().backward()
        outputs.append(out.detach())
    assert float((outputs[0] - outputs[1]).abs().max()) < 1e-5
    for one, other in zip(sides[0].parameters.values(), sides[1].parameters.values(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


def test_lora_has_the_logits_and_gradients_of_peft_on_bitsandbytes_own_layers():
    bnb = pytest.importorskip("bitsandbytes")
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.quantised_linear import quantised

    # Rows of whole blocks: where a block ends inside a row, the layers of bitsandbytes 0.50 go wrong on a CPU.
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=61, max_position_embeddings=40, pad_token_id=0, **sizes)
    torch.manual_seed(0)
    network = LlamaForCausalLM(config).eval()
    anatomy = Anatomy.of(config.to_dict(), task="causal-lm")
    ours, theirs = copy.deepcopy(network), copy.deepcopy(network)
    for path in quantised_paths(anatomy):
        name = f"model.{path}".removesuffix(".weight")
        weight = network.get_submodule(name).weight
        layer = bnb.nn.Linear4bit(weight.shape[1], weight.shape[0], bias=False, quant_type="nf4")
        layer.weight = bnb.nn.Params4bit(weight.detach().clone(), requires_grad=False, quant_type="nf4").to("cpu")
        theirs.set_submodule(name, layer)
        ours.set_submodule(name, quantised(weight, "nf4", bias=None, transposed=False))
    delta = attach((Lora(**ALL, alpha=8),), BaseModel(ours, anatomy), seed=0)
    modules = sorted({p.split(".")[-2] for p in quantised_paths(anatomy)})
    theirs = get_peft_model(theirs, LoraConfig(r=2, lora_alpha=8, target_modules=modules))
    theirs.train()  # in evaluation their layers compute in bfloat16 on some CPUs
    _randomise(delta)
    twins = []
    with torch.no_grad():
        for path, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                module, letter = path.removeprefix("base_model.model.model.").split(".lora_")
                block = next(b for _, b in delta.blocks() if b.site.path == module)
                own = getattr(block, letter[0])
                parameter.copy_(own)
                twins.append((own, parameter))
    assert len(twins) == len(delta.parameters) == 28
    batch = {"input_ids": torch.arange(2, 16).view(2, 7)}
    plain = _logits(BaseModel(network, anatomy), batch)
    one, other = (side(**batch).logits for side in (ours, theirs))
    assert float((one - other).detach().abs().max()) < 1e-5
    assert float((one.detach() - plain).abs().max()) > 1e-3
    one.pow(2).mean().backward()
    other.pow(2).mean().backward()
    assert max(float((a.grad - b.grad).abs().max()) for a, b in twins) < 1e-5


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_moves_the_delta_and_nothing_that_is_packed(precision):
    base = quantised_base("llama", "causal-lm", "nf4", dtype=precision)
    delta = attach((Lora(**ALL),), base, seed=0)
    frozen = [p for p in base.network.parameters() if not p.requires_grad]
    before = checksums(frozen)
    assert sum(p.dtype == torch.uint8 for p in frozen) == 2 * len(base.quantised)
    optimizer = torch.optim.AdamW(delta.parameters.values(), lr=1e-2)
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        base.network(**tiny_batch("llama")).logits.float().pow(2).mean().backward()
    optimizer.step()
    assert checksums(frozen) == before
    assert all(float(p.detach().abs().sum()) > 0 for n, p in delta.parameters.items() if n.endswith(".B"))


def test_biases_and_norms_of_a_quantised_base_may_train():
    base = quantised_base("gpt2", "causal-lm", "nf4", dtype=torch.bfloat16)
    delta = attach((Bitfit(),), base, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        base.network(**tiny_batch("gpt2")).logits.float().pow(2).mean().backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in delta.parameters.values())
    assert {p.dtype for m in base.quantised.values() for p in m.packed.parameters()} == {torch.uint8, torch.float32}


@pytest.mark.parametrize("method", ["full", "top_layers", "lt_sft", "diff_pruning"])
def test_what_trains_a_packed_weight_is_refused_with_a_hint(method):
    base = quantised_base("llama", "causal-lm", "nf4")
    with pytest.raises(MethodError, match="held quantised: it can be neither trained nor changed") as caught:
        attach((all_methods()[method](),), base, seed=0)
    assert "lora" in str(caught.value.problems[0].hint)


@pytest.mark.parametrize("name", sorted(all_methods()))
def test_every_method_trains_beside_packed_weights_or_says_that_it_cannot(name):
    base = quantised_base("bert", "classification", "nf4")
    try:
        method = all_methods()[name](**_small(name))
        sizes = method.sizes(base.anatomy)
        delta = attach((method,), base, seed=0)
    except MethodError as error:
        if "held quantised" not in error.problems[0].what:
            pytest.skip(error.problems[0].what)
        assert method.card.family == "specification"
        return
    delta.begin_phase(delta.phases - 1)
    packed = [p for layer in base.quantised.values() for p in layer.packed.parameters()]
    assert not any(p.requires_grad for p in packed)
    if method.virtual_tokens(base.anatomy) is None:
        base.network(**tiny_batch("bert")).logits.pow(2).mean().backward()
        assert all(any(p.grad is not None for p in group.values()) for group in (delta.parameters, delta.head) if group)
    assert delta.pack().size == sum(sizes.values())


def _small(name: str) -> dict[str, int]:
    card = all_methods()[name].card
    method = all_methods()[name]
    step = method.model_construct().size_step if card.size_setting else 1
    return {card.size_setting: 1 if card.size_setting == "count_layers" else 2 * step} if card.size_setting else {}
