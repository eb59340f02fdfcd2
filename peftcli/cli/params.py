"""``peft params``."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any

import typer

from peftcli.cli import console, options
from peftcli.report.tables import Table, count, percent, plain

NAME = "params"
EXAMPLES = """\b
Examples:
  peft params recipe.yaml
  peft params gpt3/config.json --method lora method.rank=1
  peft params roberta/config.json --method all
  peft params recipe.yaml --method all --budget 0.1%
  peft params gpt3/config.json --method lora --budget 18.9M method.target_modules=[W_q]
  peft params recipe.yaml --counted --json

The fraction is trained parameters without the head over base parameters; "of all" is what Hugging Face peft prints.
"""


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_RECIPE",
            help="A recipe, a model's folder or config.json, or a hub id that was fetched before.",
        ),
    ],
    overrides: options.Overrides = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="Count this method, or all, instead of the recipe's.")
    ] = None,
    counted: Annotated[
        bool, typer.Option("--counted", help="Build the network without weights and count its tensors as well.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="BUDGET",
            help="Solve each method's size setting for this share of the base (0.1%) or number (300k).",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Count what a method trains, from the shape alone."""
    from peftcli.pipeline.counting import params

    counts = params(model, overrides or [], method, counted, budget)
    if json:
        console.data_json(counts if method == "all" or len(counts) != 1 else counts[0])
    else:
        _show(counts)
    if model.endswith((".yaml", ".yml")):
        size = [f"method.{s['setting']}=null" for s in counts[0]["budgets"]] if budget and method is None else []
        words = [*(overrides or []), *size, *([f"method.budget={budget}"] if size else [])]
        console.next_command("peft", "train", model, *words)
    else:
        console.next_command("peft", "init", "recipe.yaml")


def _show(counts: list[dict[str, Any]]) -> None:
    columns = ("method", "trained |Φ|", "head", "base |Θ|", "|Φ|/|Θ|", "of all", "settings")
    rows = tuple(
        (
            c["method"],
            *(count(c[key]) for key in ("delta", "head", "base")),
            percent(c["fraction"]),
            percent(c["fraction_of_all"]),
            ", ".join(f"{name} {plain(value)}" for name, value in c["settings"].items() if value is not None),
        )
        for c in counts
    )
    console.table(Table(columns, "lrrrrrl", rows))
    for c in counts:
        if c["note"]:
            console.note(f"{c['method']}: {c['note']}")
    if len(counts) == 1:
        _show_places(counts[0])


def _show_places(counted: dict[str, Any]) -> None:
    for title, places in (("site", counted["per_site"]), ("layer", _spans(counted["per_layer"]))):
        if places:
            console.data("")
            console.table(Table((title, "trained"), "lr", tuple((name, count(n)) for name, n in places.items())))
    if counted["counted"]:
        console.data("\nThe network, built without weights, holds as many.")


def _spans(per_layer: dict[str, int]) -> dict[str, int]:
    """Return the layers with neighbours that train as many put together: 96 equal lines say less than one."""
    spans: dict[str, int] = {}
    for trained, group in groupby(per_layer.items(), key=lambda item: item[1]):
        layers = [layer for layer, _ in group]
        spans[layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}, each"] = trained
    return spans
