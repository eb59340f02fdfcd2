"""``peft merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from peftcli.cli import console, options
from peftcli.cli.progress import progress
from peftcli.report.tables import Table, count, duration, file_size, percent

NAME = "merge"
EXAMPLES = """\b
Examples:
  peft merge runs/NAME --out merged
  peft merge runs/NAME --out merged --dtype bfloat16
  peft merge runs/NAME --out merged --tolerance 1e-6

Without --no-check the merged model is loaded again and must compute what base and delta compute; exit code 9 means
that it was written but does not.
"""


def run(
    target: options.Target,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the merged model is written.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option("--dtype", help="Type of the written weights. [default: the base model's]"),
    ] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Compare the merged model's logits.")] = True,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0,
            help="Largest difference of a logit, as a share of the largest logit. [default: by the type]",
        ),
    ] = None,
    data: options.Data = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Fold a trained delta into its base: a plain model."""
    from peftcli.pipeline.merging import MergeOptions, merge

    choices = MergeOptions(dtype=dtype, check=check, tolerance=tolerance, data=data, overwrite=overwrite)
    with progress(quiet=quiet) as watcher:
        result = merge(target, out, choices, watcher)
    if json:
        console.data_json(result)
    else:
        console.table(Table(("merged", ""), "ll", tuple(_pairs(result))))
    if not quiet:
        console.next_command("peft", "eval", out, "--data", "FILE")


def _pairs(result: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = [
        ("folder", str(result["out"])),
        ("tensors", f"{count(result['tensors'])}, of which {count(result['changed'])} changed"),
        ("written", file_size(result["bytes"])),
        ("time", f"{duration(result['seconds'])}, peak memory {file_size(result['peak_memory_bytes'])}"),
    ]
    if result["relative_error"] is not None:
        lost = f"{percent(result['relative_error'])} of the delta, {percent(result['share_unchanged'])} of its entries"
        pairs.append(("rounding", f"{result['dtype']} loses {lost} wholly; --dtype float32 keeps them"))
    if check := result["check"]:
        difference = f"largest difference of a logit {check['max_abs_logit_difference']:.2e}"
        allowed = f"allowed {check['tolerance']:.2e}"
        agreement = f"same answer for {percent(check['argmax_agreement'])}"
        pairs.append(("check", f"{check['rows']} rows: {difference} ({allowed}), {agreement}"))
    else:
        pairs.append(("check", "not made"))
    return pairs
