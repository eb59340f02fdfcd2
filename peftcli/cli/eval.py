"""``peft eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from peftcli.cli import console, options
from peftcli.cli.progress import progress
from peftcli.report.tables import Table, bounds, count, score

NAME = "eval"
EXAMPLES = """\b
Examples:
  peft eval runs/NAME
  peft eval runs/NAME --split test --json
  peft eval runs/NAME --metrics loss,bleu,rougeL
  peft eval runs/NAME --data more.jsonl --predictions predictions.jsonl
  peft eval runs/NAME/delta --data more.jsonl --no-base
"""


def run(
    target: options.Target,
    split: Annotated[
        Literal["validation", "test", "train"], typer.Option("--split", help="Which rows of the recipe's data.")
    ] = "validation",
    data: options.Data = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE", help="Write one line of JSON for every row.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="NAMES", help="Metrics, separated by commas. [default: as the recipe says]"),
    ] = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Measure the un-tuned base model too.")] = True,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Measure a trained delta beside its un-tuned base."""
    from peftcli.pipeline.evaluation import EvaluationRequest, evaluate

    names = [name.strip() for name in metrics.split(",")] if metrics else None
    request = EvaluationRequest(split=split, data=data, predictions=predictions, base=base, metrics=names)
    with progress(quiet=quiet) as watcher:
        result = evaluate(target, request, watcher)
    if json:
        console.data_json(result)
    else:
        _show(result)
    if not quiet:
        console.next_command("peft", "compare", target)


def _show(result: dict[str, Any]) -> None:
    measured = {name: values for name, values in result["metrics"].items() if values}
    names = [name for name in measured["delta"] if name != "n"]
    found = result["intervals"]["delta"]
    rows = [(n, *(score(values.get(n)) for values in measured.values()), bounds(found.get(n))) for n in names]
    rows.append(("rows (n)", *(count(result["n"]) for _ in measured), ""))
    console.table(Table(("metric", *measured, "95 % interval"), "lr" + "r" * len(measured), tuple(rows)))
    if result["predictions"]:
        console.data(f"\npredictions: {result['predictions']}")
