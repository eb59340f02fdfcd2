"""What scripts/oracle_adapters.py compares: the methods that the AdapterHub library has as their papers have them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.base.base_model import BaseModel
    from peftcli.delta.delta import Delta
    from peftcli.delta.method import Method

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # peftcli as it lies here, and the tiny networks of its tests
FAMILIES = {
    "bert": "classification",
    "roberta": "classification",
    "gpt2": "causal-lm",
    "llama": "causal-lm",
    "t5": None,
}
T5_BIAS = "relative_attention_bias"
Tensors = Mapping[str, "Tensor"]
Pairs = Iterator[tuple["Tensor", "Tensor"]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One method: our stack, their configurations, and how the tensors of the one are those of the other.

    Attributes:
        theirs: Names of configuration classes with their settings; several make a union.
        match: From our delta and their tensors by name to pairs of ours and theirs.
        steps: Whether training is compared too.
        fused: Whether their configurations are adapters of their own instead, mixed by AdapterFusion.
        zeroed: Part of the names of weights of the base that are set to zero, as the library goes wrong there.
    """

    name: str
    methods: tuple[Method, ...]
    theirs: tuple[tuple[str, dict[str, Any]], ...]
    match: Callable[[Delta, Tensors], Pairs]
    families: tuple[str, ...] = tuple(FAMILIES)
    steps: bool = False
    fused: bool = False
    zeroed: str | None = None

    def base(self, family: str) -> BaseModel:
        """Return the tiny network that both adapt."""
        from tiny import tiny_base

        base = tiny_base(family, FAMILIES[family])
        for name, parameter in base.network.named_parameters():
            if self.zeroed and self.zeroed in name:
                parameter.data.zero_()
        return base


def dense(delta: Delta, theirs: Tensors) -> Pairs:
    """Pair the matrices and biases of bottlenecks, sublayer by sublayer."""
    yield from twins(having(delta, "bottleneck"), theirs, {f"bottleneck.{n}": t for n, t in DENSE.items()})


def kronecker(delta: Delta, theirs: Tensors) -> Pairs:
    """Pair the factors and biases of Kronecker sums, and the rule that all of them share."""
    parts = {"s": "W_left", "t": "W_right", "bias": "b"}
    names = {f"bottleneck.down.{n}": f"adapter_down.0.{t}" for n, t in parts.items()}
    names |= {f"bottleneck.up.{n}": f"adapter_up.{t}" for n, t in parts.items()}
    yield from twins(having(delta, "bottleneck"), theirs, names)
    yield delta.parameters["compacter.shared.C"], next(t for n, t in theirs.items() if n.endswith("phm_rule"))


def prefixes(delta: Delta, theirs: Tensors) -> Pairs:
    """Pair keys and values; theirs are one vector for all layers of a kind: (length, layers, 2, heads, width)."""
    for kind in ("encoder_prefix", "self_prefix", "cross_prefix"):
        own = [b for b in having(delta, "keys") if kind == _kind(b.address)]
        for name in (n for n in theirs if n.endswith(f"{kind}.control_trans")):
            heads, length, width = own[0].keys.shape
            whole = theirs[name].view(length, len(own), 2, heads, width)
            for layer, block in enumerate(own):
                yield block.keys, whole[:, layer, 0].transpose(0, 1)
                yield block.values, whole[:, layer, 1].transpose(0, 1)


def mam(delta: Delta, theirs: Tensors) -> Pairs:
    """Pair prefixes and bottlenecks."""
    yield from prefixes(delta, theirs)
    yield from dense(delta, theirs)


def unipelt(delta: Delta, theirs: Tensors) -> Pairs:
    """Pair prefixes, bottlenecks, low-rank factors and every gate."""
    yield from mam(delta, theirs)
    for end in ("weight", "bias"):
        yield from twins(having(delta, "bottleneck"), theirs, {f"bottleneck.gate.{end}": f"adapters.one.gate.{end}"})
        yield from twins(having(delta, "keys"), theirs, {f"gate.{end}": f"prefix_gates.one.{end}"})
        yield from twins(having(delta, "A"), theirs, {f"gate.{end}": f"loras.one.gate.{end}"})
    yield from twins(having(delta, "A"), theirs, {"A": "lora_A", "B": "lora_B"})


def fusion(delta: Delta, theirs: Tensors) -> Pairs:
    """Pair what mixes the adapters, and the frozen adapters themselves."""
    names = {"W_q.weight": "query.weight", "W_q.bias": "query.bias", "W_k.weight": "key.weight", "W_k.bias": "key.bias"}
    names = {n: f"one,two.{t}" for n, t in names.items()} | {"W_v.weight": "one,two.value.weight"}
    for i, adapter in enumerate(("one", "two")):
        names |= {f"adapters.{i}.{n}": f"adapters.{adapter}.{t}" for n, t in DENSE.items()}
    yield from twins(having(delta, "bottleneck"), theirs, {f"bottleneck.{n}": t for n, t in names.items()})


DENSE = {
    "down.weight": "adapter_down.0.weight",
    "down.bias": "adapter_down.0.bias",
    "up.weight": "adapter_up.weight",
    "up.bias": "adapter_up.bias",
}


def having(delta: Delta, name: str) -> list[Any]:
    """Return the blocks that have a part called so, in the order of the network."""
    return [b for _, b in reversed(delta.blocks()) if name in {n for n, _ in b.named_children()} | set(b._parameters)]


def twins(blocks: list[Any], theirs: Tensors, names: Mapping[str, str]) -> Pairs:
    """Pair tensors of blocks with theirs: both stand in the order of the network."""
    for ours, end in names.items():
        found = [t for n, t in theirs.items() if n.endswith(end)]
        yield from ((attrgetter(ours)(block), t) for block, t in zip(blocks, found, strict=True))


def _kind(address: str) -> str:
    if ".cross." in address:
        return "cross_prefix"
    return "encoder_prefix" if ".encoder." in address else "self_prefix"


def cases() -> tuple[Case, ...]:
    """Return every method that the library has as its paper has it."""
    from peftcli.methods.adapter_fusion import AdapterFusion, FusedAdapter
    from peftcli.methods.compacter import Compacter
    from peftcli.methods.houlsby import Houlsby
    from peftcli.methods.parallel import Parallel
    from peftcli.methods.pfeiffer import Pfeiffer
    from peftcli.methods.prefix import Prefix
    from peftcli.methods.unipelt import Unipelt

    half, flat = {"reduction_factor": 2}, {"flat": True, "prefix_length": 3}
    phm = half | {"phm_dim": 4}
    prefix = Prefix(prefix_length=3, reparameterise=False)
    compacter = Compacter(bottleneck=8, train_norms=False)
    adapter = FusedAdapter(bottleneck=8, activation="relu")
    return (
        Case(
            name="houlsby", methods=(Houlsby(bottleneck=8, activation="swish", train_norms=False),),
            theirs=(("DoubleSeqBnConfig", half),), match=dense, steps=True,
        ),
        Case(
            name="pfeiffer", methods=(Pfeiffer(bottleneck=8),), theirs=(("SeqBnConfig", half),), match=dense, steps=True
        ),
        Case(
            name="parallel", methods=(Parallel(bottleneck=8),), theirs=(("ParBnConfig", half),), match=dense, steps=True
        ),
        Case(name="compacter", methods=(compacter,), theirs=(("CompacterConfig", phm),), match=kronecker, steps=True),
        Case(
            # Their CompacterPlusPlusConfig stands where Pfeiffer's adapter does; the paper's code has it in series.
            name="compacter++", methods=(compacter.model_copy(update={"placement": ("after_ffn",)}),),
            theirs=(("CompacterConfig", phm | {"mh_adapter": False}),), match=kronecker, steps=True,
        ),
        # Theirs takes the prefix for real positions in T5's relative bias; the papers' models have no such bias.
        Case(
            name="prefix", methods=(prefix,), theirs=(("PrefixTuningConfig", flat),), match=prefixes, zeroed=T5_BIAS
        ),
        Case(
            name="mam", methods=(prefix, Parallel(bottleneck=8)), match=mam, zeroed=T5_BIAS,
            theirs=(("PrefixTuningConfig", flat), ("ParBnConfig", half)),
        ),
        Case(
            name="unipelt", methods=(Unipelt(prefix_length=3, reparameterise=False, bottleneck=8, rank=2),),
            theirs=(
                ("PrefixTuningConfig", flat | {"use_gating": True}),
                ("SeqBnConfig", half | {"use_gating": True}),
                ("LoRAConfig", {"r": 2, "alpha": 2, "use_gating": True}),
            ),
            match=unipelt, families=("bert", "roberta"),
        ),
        Case(
            name="adapter_fusion", methods=(AdapterFusion(fused=(adapter, adapter)),), match=fusion, fused=True,
            theirs=(("SeqBnConfig", half), ("SeqBnConfig", half)),
        ),
    )  # fmt: skip
