"""``peft predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from peftcli.cli import console, options
from peftcli.cli.progress import progress
from peftcli.errors import RecipeError

NAME = "predict"
EXAMPLES = """\b
Examples:
  peft predict runs/NAME --text "what was said?"
  peft predict runs/NAME --data new.jsonl --out predictions.jsonl
  peft predict runs/NAME --split test --limit 20
  peft predict runs/NAME --data new.jsonl --beams 4 --max-new-tokens 100
  peft predict runs/NAME --data new.jsonl --sample --temperature 0.7 --seed 1

Rows need no answers; where they have some, these stand beside the predictions. One line of JSON is written per row,
to stdout or to the file that --out names.
"""

MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, metavar="N", help="Most tokens of a written text.")
]
Beams = Annotated[
    int | None, typer.Option("--beams", min=1, metavar="N", help="Search the likeliest text with N beams.")
]
Sample = Annotated[bool | None, typer.Option("--sample/--no-sample", help="Draw the tokens of a text.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", min=1e-3, metavar="X", help="Below 1 draws likely tokens more.")
]
TopP = Annotated[
    float | None, typer.Option("--top-p", min=1e-6, max=1, metavar="X", help="Draw from the likeliest X of all.")
]
TopK = Annotated[int | None, typer.Option("--top-k", min=0, metavar="N", help="Draw from the N likeliest tokens.")]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End a text there; may be given several times.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, metavar="N", help="Of what is drawn.")]


def run(
    target: options.Target,
    data: options.Data = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="TEXT", help="Ask about this; may be given several times.")
    ] = None,
    split: Annotated[
        Literal["validation", "test", "train"], typer.Option("--split", help="Which rows of the recipe's data.")
    ] = "validation",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the lines there.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N rows.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Let the un-tuned base model answer.")] = False,
    max_new_tokens: MaxNewTokens = None,
    beams: Beams = None,
    sample: Sample = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    stop: Stop = None,
    seed: Seed = None,
    quiet: options.Quiet = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Say what a trained delta answers, row by row."""
    from peftcli import files
    from peftcli.pipeline.predicting import PredictionRequest, line, predict, write_predictions

    if text and data:
        raise RecipeError("--text and --data exclude each other", hint="Ask about one of them.")
    if out:
        files.check_new(out, overwrite=overwrite)
    given = {
        "max_new_tokens": max_new_tokens,
        "num_beams": beams,
        "sample": sample,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "stop": stop,
    }
    request = PredictionRequest(
        split=split,
        data=data,
        texts=text,
        limit=limit,
        base=base,
        generation={name: value for name, value in given.items() if value is not None},
        seed=seed,
    )
    with progress(quiet=quiet) as watcher:
        rows = predict(target, request, watcher)
    if out:
        write_predictions(out, rows)
        console.data(f"{out}: {len(rows):,} predictions")
        return
    for row in rows:
        console.data(line(row))
