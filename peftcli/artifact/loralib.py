"""The files of loralib, the LoRA authors' package: bare tensors, which say neither alpha nor which parts are fused.

A fused projection (MergedLinear) keeps the A of its moved parts one below the other, and their B likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from peftcli.artifact.exports import INNER
from peftcli.artifact.peft_config import check_config
from peftcli.artifact.stored_delta import StoredDelta
from peftcli.base.anatomy import Anatomy
from peftcli.base.checkpoint_names import map_names
from peftcli.base.sites import Site
from peftcli.errors import ArtifactError, RecipeError

ENDS = (".lora_A", ".lora_B")


def is_loralib(stored: StoredDelta) -> bool:
    """Whether these are loralib's names."""
    return stored.config is None and any(name.endswith(ENDS) for name in stored.tensors)


def as_peft(stored: StoredDelta, anatomy: Anatomy, alpha: float | None, parts: Sequence[str] | None) -> StoredDelta:
    """Return the same delta as Hugging Face peft would store it.

    Args:
        stored: In loralib's names.
        anatomy: Of the base model.
        alpha: LoRA's numerator.
        parts: Which of a fused projection's parts moved, such as W_q and W_v.

    Raises:
        RecipeError: ``alpha`` or ``parts`` is needed and not given.
        ArtifactError: Tensors do not fit together.
    """
    if alpha is None:
        hint = "Give it with --alpha, as it was trained with; loralib's own default is 1."
        raise RecipeError("a file of loralib does not say alpha", where=stored.where, hint=hint)
    names = sorted({n[:-7] for n in stored.tensors if n.endswith(ENDS)})
    tensors = {f"{INNER}{n}": t for n, t in stored.tensors.items() if not n.endswith(ENDS)}
    places = map_names([f"{n}.weight" for n in names], anatomy)
    ranks: dict[str, tuple[int, int]] = {}
    for name in names:
        A, B = (stored.tensors.get(name + end) for end in ENDS)
        if A is None or B is None or A.ndim != 2 or B.ndim != 2 or not B.shape[1] or len(A) % B.shape[1]:
            raise ArtifactError(f"the lora_A and lora_B of {name} do not fit together", where=stored.where)
        sites = [s for s in anatomy.sites(anatomy.projections) if f"{s.path}.weight" == places[f"{name}.weight"]]
        ranks[name] = (B.shape[1], len(A) // B.shape[1])
        if len(sites) > 1:
            B = _spread(B, _moved(sites, ranks[name][1], parts, stored.where), sites)
        tensors[f"{INNER}{name}.lora_A.weight"], tensors[f"{INNER}{name}.lora_B.weight"] = A, B
    if len({r for r, _ in ranks.values()}) > 1:
        raise ArtifactError("its modules have different ranks", where=stored.where)
    fused = {name: number for name, (_, number) in ranks.items() if number > 1}
    rank = next(iter(ranks.values()))[0]
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": names,
        "rank_pattern": {name: number * rank for name, number in fused.items()},
        "alpha_pattern": {name: number * alpha for name, number in fused.items()},
    }
    return replace(stored, config=check_config(config, stored.where), tensors=tensors)


def _moved(sites: Sequence[Site], number: int, parts: Sequence[str] | None, where: str) -> list[Site]:
    if parts is None and number < len(sites):
        choices = ", ".join(s.name for s in sites)
        hint = f"Give them with --parts, in the order of {choices}."
        raise RecipeError(f"{number} of {choices} moved, and the file does not say which", where=where, hint=hint)
    chosen = [s for s in sites if parts is None or s.name in parts]
    if len(chosen) != number:
        raise ArtifactError(f"{number} parts of a fused projection moved, not {len(chosen)}", where=where)
    widths = {s.d_out for s in sites}
    if len(widths) > 1 or any(s.rows != ((i * s.d_out, (i + 1) * s.d_out),) for i, s in enumerate(sites)):
        raise ArtifactError("loralib's fused layout does not fit this family's projections", where=where)
    return chosen


def _spread(B: torch.Tensor, moved: Sequence[Site], sites: Sequence[Site]) -> torch.Tensor:
    """Put each part's B into its own rows and columns. Shapes: B (parts * d_out, rank)."""
    rank, d_out = B.shape[1], sites[0].d_out
    if len(B) != len(moved) * d_out:
        raise ArtifactError(f"a fused lora_B has {len(B)} rows, not {len(moved)} times {d_out}")
    whole = torch.zeros(len(sites) * d_out, len(moved) * rank)
    for number, site in enumerate(moved):
        assert site.rows is not None
        (start, stop) = site.rows[0]
        whole[start:stop, number * rank : (number + 1) * rank] = B[number * d_out : (number + 1) * d_out]
    return whole
