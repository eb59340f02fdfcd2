"""LLaMA-Adapter: o = softmax(Q K^T) V + g softmax(Q (W_k P)^T) W_v P, with P and the gate g trained.

Zhang et al., "LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention", 2023,
arXiv:2303.16199. Our readings: where a family normalises its keys (Qwen 3, Gemma 3), those of P stay as W_k
makes them; an encoder-decoder gets prompts in the self-attention of both stacks, and none between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from peftcli.delta.method import Card, Method, PeftLayout
from peftcli.delta.targets import Layers
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.delta.delta import Delta


class LlamaAdapter(Method):
    """LLaMA-Adapter: prompts inside the attention of the upper layers, behind a gate that starts shut."""

    card = Card(
        title="LLaMA-Adapter (gated prompts)",
        family="addition",
        paper="2303.16199",
        size_setting="prompt_length",
        mergeable=False,
        starts_at_base=True,
        learning_rate=1e-3,
        source="the authors' code: 9e-3 times batch size / 256, which is this at a batch of 32",
        traps=(
            "the first step moves only the gate: behind a shut one the prompt has no gradient",
            "published are the upper 30 of LLaMA-7B's 32 layers (layers: top:30) and 2 warm-up epochs of 5",
        ),
    )

    prompt_length: PositiveInt = 10
    """Trained vectors per layer."""
    gate: Literal["per_head_tanh", "scalar"] = "per_head_tanh"
    """tanh of one number per head, as in the authors' code, or one plain number per layer, as in Hugging Face peft."""
    layers: Layers = "all"
    """The layers that get prompts: all, 8-11, [0, 5] or top:30."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        sizes = {}
        for site, _, _ in self._sites(anatomy):
            assert site.heads is not None
            gates = site.heads.query if self.gate == "per_head_tanh" else 1
            sizes[site.address] = self.prompt_length * site.d_in + gates
        return sizes

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.attention_prefix import install  # torch only when something is computed
        from peftcli.blocks.gated_prompt import GatedPrompt

        for site, *projections in self._sites(base.anatomy):
            made = GatedPrompt(
                base.module(site), site, projections=projections, length=self.prompt_length, gate=self.gate
            )
            base.replace(site, made)
        install(base.network)

    def _sites(self, anatomy: Anatomy) -> list[tuple[Site, Site, Site]]:
        """Return attention, W_k and W_v of every chosen layer."""
        if not anatomy.attention_interface:
            raise MethodError(
                f"llama_adapter has no way into the attention of {anatomy.family}, which has code of its own for it",
                hint="Use prompt or lora there.",
            )
        found = anatomy.sites(("attention", "W_k", "W_v"), self.layers, cross=False)
        by_name = [[s for s in found if s.name == name] for name in ("attention", "W_k", "W_v")]
        return list(zip(*by_name, strict=True))

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's ADAPTION_PROMPT form, where peft computes the same."""
        from peftcli.blocks.gated_prompt import GatedPrompt

        anatomy, sites = delta.base.anatomy, [s for s, _, _ in self._sites(delta.base.anatomy)]
        depth, heads = sum(anatomy.layers.values()), sites[0].heads
        if self.gate != "scalar":
            return "peft's gate is one plain number per layer; train with method.gate=scalar"
        if [s.layer for s in sites] != list(range(depth - len(sites), depth)):
            return "peft's adaption prompts stand in the upper layers; train with method.layers=top:N"
        as_theirs = heads is not None and heads.query * heads.width == anatomy.width
        if anatomy.family not in ("llama", "mistral") or delta.head or not as_theirs:
            return f"peft computes something else for adaption prompts on {anatomy.family} here"
        tensors = {}
        blocks = [b for _, b in reversed(delta.blocks()) if isinstance(b, GatedPrompt)]
        for site, block in zip(sites, blocks, strict=True):
            path = f"base_model.model.{delta.base.path(site)}"
            tensors[f"{path}.adaption_prompt"] = block.prompt.detach().cpu()[None].clone()
            tensors[f"{path}.adaption_gate"] = block.gate.detach().cpu().clone()
        config = {
            "peft_type": "ADAPTION_PROMPT",
            "adapter_len": self.prompt_length,
            "adapter_layers": len(sites),
            "target_modules": sites[0].path.rpartition(".")[2],
        }
        return PeftLayout(config=config, tensors=tensors, exact=True)
