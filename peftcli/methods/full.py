"""Full fine-tuning: every parameter of the base model trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcli.delta.method import Card, Method

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel


class Full(Method):
    """Full fine-tuning: every parameter of the base model trains; the yardstick of all the others."""

    card = Card(
        title="Full fine-tuning",
        family="specification",
        paper=None,
        size_setting=None,
        mergeable=True,
        starts_at_base=True,
        learning_rate=5e-5,
        source="BERT's grid of 2e-5 to 5e-5 (Devlin et al. 2019, arXiv:1810.04805, appendix A.3)",
    )

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {anatomy.address(t.path): t.size for t in anatomy.tensors}

    def attach(self, base: BaseModel) -> None:
        for tensor in base.anatomy.tensors:
            base.tensor(tensor.path).requires_grad_(True)
