"""What a base model forgets: its loss on text of its own, before anything is attached and after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from peftcli.data.source_text import SourceText, read_source, windows
from peftcli.errors import RecipeError

if TYPE_CHECKING:
    from peftcli.data.examples import Examples
    from peftcli.pipeline.adapting import Prepared
    from peftcli.pipeline.training import Run
    from peftcli.recipe.recipe import Recipe

LANGUAGE_MODEL = "AutoModelForCausalLM"
WINDOW = 512  # tokens; a position further on is predicted from as much as this, and no more
AT_ONCE = 4  # windows: every token has a label, and its logits are as many as the vocabulary


@dataclass(frozen=True)
class Source:
    """Text of the source task, as the base model reads it."""

    text: SourceText
    examples: Examples


def read_for(recipe: Recipe, prepared: Prepared) -> Source | None:
    """Return the text that ``evaluation.source`` names; None where the recipe names none.

    Raises:
        RecipeError: The network has no language-modelling head.
        DataError: The text cannot be read.
    """
    if recipe.evaluation.source is None:
        return None
    task = prepared.task
    if task.model_class != LANGUAGE_MODEL:
        raise RecipeError(
            f"evaluation.source is text for a language model, and the network for {task.name} has no such head",
            hint="Leave it out, or adapt a decoder with data.task=causal-lm.",
        )
    text = read_source(recipe.evaluation.source)
    length = min(task.max_length or WINDOW, WINDOW)
    return Source(text, windows(text, prepared.reader, length, prepared.base.anatomy.vocabulary))


def source_scores(run: Run, *, adapted: bool) -> dict[str, float] | None:
    """Return loss and perplexity per token of the source text, under the network as it is; None where there is none.

    Args:
        run: Whose network is measured.
        adapted: Whether the methods are attached, and their virtual tokens have vectors.
    """
    from peftcli.data.tasks import CausalLm
    from peftcli.training.evaluation import evaluate

    if run.source is None:
        return None
    virtual = run.prepared.virtual if adapted else None
    settings = replace(run.settings, virtual=virtual, batch_size=min(AT_ONCE, run.settings.batch_size))
    task = CausalLm(column_names={"text": "text"})
    metrics, _ = evaluate(run.prepared.base.network, task, run.source.examples, settings, ["loss", "perplexity"])
    return metrics


def forgetting(
    run: Run, before: Mapping[str, float] | None, after: Mapping[str, float] | None
) -> dict[str, Any] | None:
    """Return what a report says of it: both scores, and by how much the loss and the perplexity rose."""
    if run.source is None or before is None or after is None:
        return None
    examples = run.source.examples
    return {
        "source": run.source.text.files,
        "windows": len(examples),
        "tokens": examples.counts["tokens"],
        "before": {name: before[name] for name in ("loss", "perplexity")},
        "after": {name: after[name] for name in ("loss", "perplexity")},
        "change": {name: after[name] - before[name] for name in ("loss", "perplexity")},
    }
