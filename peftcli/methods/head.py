"""Feature-based transfer: y = head(f(x)), the base model frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcli.delta.method import Card, Method

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel


class Head(Method):
    """Head only: the features of the frozen base model, and a new head that trains, as with every method."""

    card = Card(
        title="Head only (feature-based)",
        family="specification",
        paper=None,
        size_setting=None,
        mergeable=True,
        starts_at_base=True,
        learning_rate=1e-3,
        source="the frozen-encoder run of the BitFit authors' code",
    )

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {}

    def attach(self, base: BaseModel) -> None:
        """Attach nothing: the head trains with every method."""
