"""BitFit: y = W x + b', only the biases train.

Ben-Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
2021, arXiv:2106.10199. The paper's subset "query and second MLP layer" is W_q and W_up: its b_m2 is the bias of the
projection to the FFN's width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from peftcli.delta.method import Card, Method, PeftLayout
from peftcli.delta.targets import Layers
from peftcli.errors import MethodError

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy, BaseTensor
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.delta.delta import Delta

Place = Literal["W_q", "W_k", "W_v", "W_o", "W_up", "W_gate", "W_down", "attention_norm", "ffn_norm"]


class Bitfit(Method):
    """BitFit: only biases train, all of them or those of the named sites."""

    card = Card(
        title="BitFit (bias terms)",
        family="specification",
        paper="2106.10199",
        size_setting=None,
        mergeable=True,
        starts_at_base=True,
        learning_rate=1e-3,
        source="the default of the authors' code",
        traps=(
            "the bias of W_k gets no gradient: the softmax does not see a shift of all keys",
            "LLaMA, Mistral, Gemma, T5 and Phi-3 have no biases",
        ),
    )

    biases: Literal["all"] | Annotated[tuple[Place, ...], Field(min_length=1)] = "all"
    """all, or a list of sites such as [W_q, W_up] (the paper's half-size subset)."""
    layers: Layers = "all"
    """With a list of sites: the layers whose biases train."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        if self.biases == "all":
            return {anatomy.address(t.path): t.size for t in self._all(anatomy)}
        return {s.address if s.rows else f"{s.address}.bias": s.d_out for s in self._sites(anatomy)}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.bias_shift import BiasShift  # torch only when something is computed

        if self.biases == "all":
            for tensor in self._all(base.anatomy):
                base.tensor(tensor.path).requires_grad_(True)
            return
        for site in self._sites(base.anatomy):
            if site.rows is None:
                base.parameter(site, "bias").requires_grad_(True)
            else:
                base.replace(site, BiasShift(base.module(site), site))

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's LORA form that trains biases: it must hold a LoRA too, which is one of rank 1 and all zeros."""
        import torch

        from peftcli.blocks.bias_shift import BiasShift

        base = delta.base
        carrier = base.sites(("W_q",))[0]
        biases = {
            base.name(address.removeprefix("base.")): p.detach().cpu()
            for address, p in delta.parameters.items()
            if address.startswith("base.")
        }
        for _, block in delta.blocks():
            if isinstance(block, BiasShift):
                name = f"{base.path(block.site)}.bias"
                whole = biases.setdefault(name, base.parameter(block.site, "bias").detach().cpu().float().clone())
                block.fold("bias", whole, slice(0, len(whole)))
        path = base.path(carrier)
        names = {f"{path}.bias": f"{path}.base_layer.bias"}  # what a LoRA stands around lies inside it
        tensors = {f"base_model.model.{names.get(n, n)}": b for n, b in biases.items()}
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.zeros(1, carrier.d_in)
        tensors[f"base_model.model.{path}.lora_B.weight"] = torch.zeros(base.output_rows(carrier), 1)
        config = {
            "peft_type": "LORA",
            "r": 1,
            "lora_alpha": 1,
            "target_modules": [path],
            "fan_in_fan_out": carrier.transposed,
            "bias": "all",
            "init_lora_weights": True,
        }
        return PeftLayout(config=config, tensors=tensors, exact=False)

    def _all(self, anatomy: Anatomy) -> list[BaseTensor]:
        found = [t for t in anatomy.tensors if t.path.rpartition(".")[2] == "bias"]
        if not found:
            raise _nothing(anatomy)
        return found

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        found = [s for s in anatomy.sites(self.biases, self.layers) if s.bias]
        if not found:
            raise _nothing(anatomy)
        return found


def _nothing(anatomy: Anatomy) -> MethodError:
    return MethodError(
        f"bitfit left nothing to train: {anatomy.family} has no biases there",
        hint="See 'peft methods' for those that add parameters.",
    )
