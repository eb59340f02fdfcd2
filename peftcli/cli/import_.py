"""``peft import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from peftcli.cli import console, options
from peftcli.errors import RecipeError
from peftcli.report.tables import Table, count

NAME = "import"
EXAMPLES = """\b
Examples:
  peft import adapter --base gpt2 --out runs/theirs
  peft import adapter --base FacebookAI/roberta-base --out theirs --labels negative,positive
  peft import mnli.bin --base FacebookAI/roberta-base --out mnli --task classification --allow-pickle \\
      --alpha 16 --labels contradiction,neutral,entailment \\
      --columns text=premise,text_pair=hypothesis

SOURCE is a folder of Hugging Face peft (LORA with rsLoRA and DoRA, IA3, PROMPT_TUNING, PREFIX_TUNING), or a file of
loralib. What peft would load with a warning or without one (missing, renamed or odd tensors, NaN, settings that are
not known) is refused: exit code 5.
"""


def run(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A folder of peft's, or a file of loralib's.")],
    base: Annotated[str, typer.Option("--base", metavar="MODEL", help="The base model the delta was trained on.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the artifact is written.")],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="COMMIT", help="Branch, tag or commit of a hub id.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", metavar="TASK", help="classification, causal-lm or seq2seq. [default: as its config says]"
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="A,B,...", help="Of a classifier, in the order of the head's rows."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="COLUMN=NAME,...", help="What data files call its columns.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", min=0, help="LoRA's alpha, for a file that does not say it.")
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option("--parts", metavar="W_q,W_v", help="What moved of a fused projection, for a file of loralib."),
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Open a .bin or .pt file, as torch reads one of tensors alone.")
    ] = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Turn a delta of another tool into one of ours, or say why not."""
    from peftcli.pipeline.importing import ImportRequest, import_delta

    request = ImportRequest(
        source=source,
        base=base,
        revision=revision,
        task=task,
        labels=tuple(labels.split(",")) if labels else None,
        columns=_columns(columns),
        alpha=alpha,
        parts=tuple(parts.split(",")) if parts else None,
        allow_pickle=allow_pickle,
        overwrite=overwrite,
    )
    result = import_delta(request, out)
    if json:
        console.data_json(result)
    else:
        console.table(Table(("imported", ""), "ll", tuple(_pairs(result))))
    if not quiet:
        console.note(f"note: {result['note']}")
        console.next_command("peft", "eval", out, "--data", "FILE")


def _columns(text: str | None) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")] if text else []
    if any(not (role and mark and name) for role, mark, name in pairs):
        raise RecipeError(f"--columns is {text!r}", hint="Write --columns text=sentence,label=label.")
    return {role: name for role, _, name in pairs}


def _pairs(result: dict[str, Any]) -> list[tuple[str, str]]:
    head = f", and a head of {count(result['head'])}" if result["head"] else ""
    return [
        ("folder", result["out"]),
        ("method", f"{result['method']}, {count(result['delta'])} numbers{head}"),
        ("base", result["base"]),
        ("task", result["task"]),
    ]
