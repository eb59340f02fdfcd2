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
  peft merge runs/STACK --out merged --partial     fold what can be folded, keep the rest as a delta
  peft merge runs/NAME --out merged --keep-originals && peft unmerge merged --out base
  peft merge runs/QLORA --out merged --into dequantised

Without --no-check the merged model is loaded again and must compute what base and delta compute; exit code 9 means
that it was written but does not. After --partial, merged/delta holds the methods that stay, and the head; it belongs to
the weights beside it, and 'peft eval merged' measures both.
"""
Weights = Annotated[
    Literal["dequantised", "original"] | None,
    typer.Option(
        "--into",
        help="Of a quantised base, which weights: dequantised as in training, or the original ones, with which the "
        "delta computes something else.",
    ),
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Of a stack, fold the methods that can be; the others stay a delta.")
]
KeepOriginals = Annotated[
    bool,
    typer.Option(
        "--keep-originals",
        help="Store what the merge changes as it was, so that 'peft unmerge' needs no base; with another --dtype that "
        "is the whole base.",
    ),
]


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
    into: Weights = None,
    partial: Partial = False,
    keep_originals: KeepOriginals = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Fold a trained delta into its base: a plain model."""
    from peftcli.pipeline.merging import MergeOptions, merge

    choices = MergeOptions(
        dtype=dtype,
        check=check,
        tolerance=tolerance,
        data=data,
        into=into,
        overwrite=overwrite,
        partial=partial,
        keep_originals=keep_originals,
    )
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
        ("folded", " + ".join(result["folded"])),
        ("tensors", f"{count(result['tensors'])}, of which {count(result['changed'])} changed"),
        ("written", file_size(result["bytes"])),
        ("time", f"{duration(result['seconds'])}, peak memory {file_size(result['peak_memory_bytes'])}"),
    ]
    if result["staying"]:
        pairs.insert(2, ("stays", f"{' + '.join(result['staying'])}, in {Path(result['out']) / 'delta'}"))
    if result["relative_error"] is not None:
        lost = f"{percent(result['relative_error'])} of the delta, {percent(result['share_unchanged'])} of its entries"
        pairs.append(("rounding", f"{result['dtype']} loses {lost} wholly; --dtype float32 keeps them"))
    if check := result["check"]:
        difference = f"largest difference of a logit {check['max_abs_logit_difference']:.2e}"
        allowed = f"allowed {check['tolerance']:.2e}"
        agreement = f"same answer for {percent(check['argmax_agreement'])}"
        what = "" if check["required"] else "; not what was trained: the delta belongs to the quantised weights"
        pairs.append(("check", f"{check['rows']} rows: {difference} ({allowed}), {agreement}{what}"))
    else:
        pairs.append(("check", "not made"))
    return pairs
