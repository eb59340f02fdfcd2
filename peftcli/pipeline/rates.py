"""Which learning rate each trained tensor gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftcli.delta.delta import Delta
    from peftcli.delta.method import Method
    from peftcli.pipeline.progress import Progress
    from peftcli.recipe.recipe import TrainingSection

FAR = 30  # times the published rate


def learning_rates(training: TrainingSection, delta: Delta, progress: Progress) -> dict[str, float]:
    """Return address -> peak learning rate: the recipe's, else each method's published one; a head's may differ."""
    for method in delta.methods:
        _warn(method, training.learning_rate, progress)
    rates = {a: _rate(training, delta.owners[a], a) for a in delta.parameters}
    return rates | dict.fromkeys(delta.head, head_rate(training, delta.methods))


def _rate(training: TrainingSection, owner: Method, address: str) -> float:
    return (training.learning_rate or owner.learning_rate) * owner.rate_factor(address.rpartition(".")[2])


def head_rate(training: TrainingSection, methods: tuple[Method, ...]) -> float:
    """Return the rate of a new head: the recipe's for it, what a card says of heads, or the delta's own."""
    cards = [m.card.head_learning_rate for m in methods if m.card.head_learning_rate]
    delta_rate = training.learning_rate or min(m.learning_rate for m in methods)
    return training.head_learning_rate or min(cards, default=delta_rate)


def _warn(method: Method, chosen: float | None, progress: Progress) -> None:
    if chosen is None or 1 / FAR <= chosen / method.learning_rate <= FAR:
        return
    progress.note(
        f"warning: a learning rate of {chosen:g} is far from {method.learning_rate:g}, published for {method.name} "
        f"({method.card.source})"
    )
