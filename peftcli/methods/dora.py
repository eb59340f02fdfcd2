"""DoRA: W' = m * V / ||V|| with V = W + (alpha / rank) B A, row by row.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, arXiv:2402.09353 (its columns are the rows here: one
length m per output). As there, no gradient goes through the norm. The bias is added after, unscaled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

from peftcli.delta.method import Card, PeftLayout
from peftcli.delta.peft_pairs import rows_of
from peftcli.delta.targets import Projections
from peftcli.methods.lora import Lora, by_module

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.sites import Site
    from peftcli.blocks.decomposed import DecomposedLowRank
    from peftcli.delta.delta import Delta
    from peftcli.delta.peft_form import PeftForm


class Dora(Lora):
    """DoRA: LoRA on the direction of every row of a weight, and a trained length m for each; W' = m * V / ||V||."""

    card = Card(
        title="Weight-decomposed LoRA (DoRA)",
        family="reparameterisation",
        paper="2402.09353",
        size_setting="rank",
        mergeable=True,
        starts_at_base=True,
        learning_rate=2e-4,
        source="the authors' scripts: 2e-4 for LLaMA-7B, 1e-4 for LLaMA-3-8B",
        traps=(
            "half of LoRA's rank is often enough",
            "no other method may move the same matrix: the norm is that of W + B A alone",
            "the norm is computed in every pass: it costs about as much as materialising the weight",
        ),
    )

    target_modules: Literal["all-linear"] | Projections = ("W_q", "W_v")
    """The weight matrices that move; all-linear is every projection of attention and FFN, never head or embeddings."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        low_rank = super().sizes(anatomy)
        return {s.address: low_rank[s.address] + s.d_out for s in self.sites(anatomy)}

    def block(self, wrapped: nn.Module, site: Site) -> DecomposedLowRank:
        from peftcli.blocks.decomposed import DecomposedLowRank  # torch only when something is computed

        return DecomposedLowRank(wrapped, site, rank=self.rank, scale=self.scale, dropout=self.dropout)

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's LORA form with use_dora: beside the parts of a fused module the lengths are the base's own."""
        from peftcli.blocks.decomposed import DecomposedLowRank

        layout = super().peft_layout(delta)
        assert isinstance(layout, PeftLayout)
        modules = by_module(delta, DecomposedLowRank)
        lengths = {
            f"base_model.model.{path}.lora_magnitude_vector": _lengths(parts, delta) for path, parts in modules.items()
        }
        fused = any(parts[0].site.rows for parts in modules.values())
        config = {**layout.config, "use_dora": True}
        return replace(layout, config=config, tensors={**layout.tensors, **lengths}, exact=not fused)

    @classmethod
    def from_peft(cls, form: PeftForm, anatomy: Anatomy) -> Self | None:
        if form.kind != "LORA" or not form.config.get("use_dora"):
            return None
        for path, sites in form.sites(anatomy).items():
            lengths, rows = form.modules[path].get("lora_magnitude_vector"), sum(s.d_out for s in sites)
            if lengths is None or tuple(lengths.shape) != (rows,):
                raise form.refuse(f"{form.names[path]} has no lora_magnitude_vector of {rows} numbers")
        return cls._stored(form, anatomy)

    def take_peft(self, form: PeftForm, delta: Delta) -> dict[str, Tensor]:
        import torch

        from peftcli.blocks.decomposed import DecomposedLowRank

        found = super().take_peft(form, delta)
        for parts in by_module(delta, DecomposedLowRank).values():
            path = parts[0].site.path
            lengths = form.modules[path]["lora_magnitude_vector"]
            for part in parts:
                found[part.address_of("magnitude")] = rows_of(lengths, part.site)
            rest = torch.ones(len(lengths), dtype=torch.bool)
            for start, stop in (rows for part in parts for rows in part.site.rows or ((0, len(lengths)),)):
                rest[start:stop] = False
            if not torch.allclose(lengths[rest], _lengths(parts, delta)[rest], rtol=1e-5):
                raise form.refuse(f"it changes lengths in {form.names[path]} that no direction belongs to")
        return found


def _lengths(parts: list[DecomposedLowRank], delta: Delta) -> Tensor:
    """Return the length of every row of a module's weight. Shapes: (every output of the module,)."""
    import torch

    site = parts[0].site
    weight = delta.base.weight(site).float().cpu()
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=0 if site.transposed else 1)
    for part in parts:
        own, offset = part.magnitude.detach().cpu(), 0
        for start, stop in part.site.rows or ((0, len(lengths)),):
            lengths[start:stop] = own[offset : offset + stop - start]
            offset += stop - start
    return lengths
