"""(IA)3: k <- l_k * k, v <- l_v * v, and W_down (l_ff * u); only the vectors l train.

Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", 2022,
arXiv:2205.05638. Keys and values are scaled as their projections return them, biases included and before
any norm of keys or rotation, because that can be merged; l_ff scales what enters W_down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from peftcli.delta.method import Card, Method, PeftLayout
from peftcli.delta.peft_form import names_and_layers
from peftcli.delta.peft_pairs import rows_of
from peftcli.delta.targets import Layers

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.blocks.scale import InputScale, OutputScale
    from peftcli.delta.delta import Delta
    from peftcli.delta.peft_form import PeftForm


class Ia3(Method):
    """(IA)3: keys, values and the inside of the FFN, each multiplied by a trained vector."""

    card = Card(
        title="(IA)3",
        family="reparameterisation",
        paper="2205.05638",
        size_setting=None,
        mergeable=True,
        starts_at_base=True,
        learning_rate=3e-3,
        source="T0 with Adafactor, 1,000 steps of batch 8, the authors' code",
        traps=(
            "beside lora it scales LoRA's branch too, whichever is listed first",
            "Qwen 3 and Gemma 3 normalise every head's keys afterwards: a factor common to a whole head is lost",
        ),
    )

    target_modules: Annotated[tuple[Literal["W_k", "W_v", "W_down"], ...], Field(min_length=1)] = (
        "W_k",
        "W_v",
        "W_down",
    )
    """Where vectors stand: W_k and W_v at the output, W_down at the input; also in attention over an encoder."""
    layers: Layers = "all"
    """The layers that get vectors: all, 8-11, [0, 5] or top:4."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {s.address: s.d_in if s.name == "W_down" else s.d_out for s in self._sites(anatomy)}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.scale import InputScale, OutputScale  # torch only when something is computed

        for site in self._sites(base.anatomy):
            block = InputScale if site.name == "W_down" else OutputScale
            base.replace(site, block(base.module(site), site))

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        return anatomy.sites(tuple(dict.fromkeys(self.target_modules)), self.layers)

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's IA3 form; the outputs of a fused module that do not train are multiplied by one."""
        from peftcli.blocks.scale import InputScale, OutputScale

        modules: dict[str, list[InputScale | OutputScale]] = {}
        for _, block in reversed(delta.blocks()):
            if isinstance(block, InputScale | OutputScale):
                modules.setdefault(delta.base.path(block.site), []).append(block)
        feedforward = sorted(path for path, parts in modules.items() if isinstance(parts[0], InputScale))
        tensors = {}
        for path, parts in modules.items():
            vector = _joined(parts, delta.base.output_rows(parts[0].site))
            tensors[f"base_model.model.{path}.ia3_l"] = vector[None] if path in feedforward else vector[:, None]
        config = {
            "peft_type": "IA3",
            "target_modules": sorted(modules),
            "feedforward_modules": feedforward,
            "fan_in_fan_out": any(parts[0].site.transposed for parts in modules.values()),
            "init_ia3_weights": True,
        }
        fused = any(parts[0].site.rows for parts in modules.values())
        return PeftLayout(config=config, tensors=tensors, exact=not fused)

    @classmethod
    def from_peft(cls, form: PeftForm, anatomy: Anatomy) -> Self | None:
        if form.kind != "IA3":
            return None
        found = [site for path, sites in form.sites(anatomy).items() for site in _scaled(form, path, sites)]
        names, layers = names_and_layers(form, found, anatomy)
        return cls.model_validate({"target_modules": names, "layers": layers})

    def take_peft(self, form: PeftForm, delta: Delta) -> dict[str, Tensor]:
        from peftcli.blocks.scale import InputScale, OutputScale

        found = {}
        for _, block in delta.blocks():
            if isinstance(block, InputScale | OutputScale):
                vector = form.modules[block.site.path]["ia3_l"].flatten()
                found[block.address_of("scale")] = (
                    vector if isinstance(block, InputScale) else rows_of(vector, block.site)
                )
        return found


def _scaled(form: PeftForm, path: str, sites: list[Site]) -> list[Site]:
    """Return which of a module's parts a stored vector scales.

    Raises:
        ArtifactError: One is scaled that is not here, or the vector is of another shape.
    """
    name, vector = form.names[path], form.modules[path].get("ia3_l")
    inside = any(name == one or name.endswith(f".{one}") for one in form.config["feedforward_modules"])
    wanted = (1, sites[0].d_in) if inside else (sum(s.d_out for s in sites), 1)
    if vector is None or tuple(vector.shape) != wanted:
        has = "has no ia3_l" if vector is None else f"has an ia3_l of {tuple(vector.shape)}"
        raise form.refuse(f"{name} {has}, but on this base model it would be {wanted}")
    places = ("W_down",) if inside else ("W_k", "W_v")
    found = [s for s in sites if s.name in places]
    others = [s for s in sites if s.name not in places and (inside or bool((rows_of(vector, s) != 1).any()))]
    if others or not found:
        raise form.refuse(
            f"it scales the {'input' if inside else 'output'} of {(others or sites)[0].name} ({name}), and ia3 scales "
            "the outputs of W_k and W_v and the input of W_down"
        )
    return found


def _joined(parts: list[InputScale | OutputScale], d_out: int) -> Tensor:
    """Return the one vector that scales as ``parts`` do. Shapes: (d_in,) or (every output of the module,)."""
    from peftcli.blocks.scale import InputScale, by_output

    first = parts[0]
    if isinstance(first, InputScale):
        return first.scale.detach().cpu()
    vector = by_output(first.scale.detach().cpu(), first.site, slice(0, d_out))
    for part in parts[1:]:
        vector = vector * by_output(part.scale.detach().cpu(), part.site, slice(0, d_out))
    return vector
