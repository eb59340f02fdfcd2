"""``peft export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from peftcli.cli import console, options
from peftcli.report.tables import Table, count, file_size

NAME = "export"
EXAMPLES = """\b
Examples:
  peft export runs/NAME --out adapter
  peft export runs/NAME --out adapter --to portable

peft: the files that Hugging Face peft's PeftModel.from_pretrained loads, and a model card.
portable: a LoRA that vLLM, SGLang, TGI and llama.cpp read alike: one rank, its scale folded in, in every layer.
Exit code 4 means that the method has no such form; 'peft merge' then often helps.
"""


def run(
    target: options.Target,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the files are written.")],
    to: Annotated[Literal["peft", "portable"], typer.Option("--to", help="Who is to read them.")] = "peft",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Write a trained delta for Hugging Face peft or for a server."""
    from peftcli.pipeline.exporting import export

    result = export(target, out, to, overwrite=overwrite)
    if json:
        console.data_json(result)
    else:
        console.table(Table(("exported", ""), "ll", tuple(_pairs(result))))
    if quiet:
        return
    if to == "portable":
        served = ["--lora-modules", f"{out.name}={out}", "--max-lora-rank", result["rank"]]
        console.next_command("vllm", "serve", result["base"], "--enable-lora", *served)
    else:
        console.next_command("hf", "upload", out.name, out)


def _pairs(result: dict[str, Any]) -> list[tuple[str, str]]:
    same = {"exact": "the same numbers", "converted": "the same function in other numbers"}
    return [
        ("folder", result["out"]),
        ("form", f"{result['peft_type']}, {same[result['kind']]}"),
        ("tensors", count(result["tensors"])),
        ("written", file_size(result["bytes"])),
    ]
