"""Our adapters beside those of the AdapterHub library: same weights, same delta, same batch, outputs compared.

    python scripts/oracle_adapters.py --environment ~/adapters-oracle [--only houlsby,mam]

``adapters`` 1.3.0 wants transformers 4.57, which peftcli cannot run with. So it gets an environment of its own in the
folder that is named: made with venv and pip (about 1.5 GB, from wherever pip is set up to download) unless it is there.
The other half, scripts/oracle_adapters_theirs.py, runs in it as one process; networks, inputs and deltas go to it and
come back as safetensors files.

Every weight of the tiny networks has been moved at random, so that no start value hides a mistake, and so has every
tensor of the delta; one row of the batch is padded. A method agrees where the largest difference is at most 1e-5, which
is what two versions of transformers differ by, while the control (the difference to the base alone) is above 1e-2.
Where steps are compared, the largest difference of the losses of 20 AdamW steps is at most 1e-5 of the first loss.
Exit code 1: some method does not agree.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oracle_adapters_cases import FAMILIES, Case, Tensors, cases

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.delta.delta import Delta

THEIRS = Path(__file__).with_name("oracle_adapters_theirs.py")
NEEDS = ("torch==2.13.*", "adapters==1.3.0", "transformers~=4.57.6", "huggingface_hub<1", "safetensors")
TOLERANCE, CONTROL = 1e-5, 1e-2
STEPS = 20


@dataclass(frozen=True)
class Result:
    """What one method gave on one family; ``curve`` is None where training was not compared."""

    method: str
    family: str
    difference: float
    control: float
    versions: float
    curve: float | None

    @property
    def agrees(self) -> bool:
        """Whether it is the same function, and not that of the base alone."""
        return self.difference <= TOLERANCE and self.control > CONTROL and (self.curve or 0) <= TOLERANCE


def environment(folder: Path) -> Path:
    """Return the Python of an environment with their library, made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if subprocess.run([str(python), "-c", "import adapters"], capture_output=True, check=False).returncode:
        subprocess.run([str(python), "-m", "pip", "install", "-q", *NEEDS], check=True)
    return python


def send(case: Case, family: str, folder: Path) -> None:
    """Write what the other half needs: the network, the inputs, what to train towards, and the configuration."""
    import torch
    from safetensors.torch import save_file

    network = case.base(family).network
    network.save_pretrained(folder)
    inputs = batch(family)
    with torch.no_grad():
        shape = output(network(**inputs)).shape
    target = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    save_file(inputs | {"target": target}, folder / "inputs.safetensors")
    request = {
        "task": FAMILIES[family],
        "configurations": case.theirs,
        "fused": case.fused,
        "steps": STEPS * case.steps,
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")


def compare(case: Case, family: str, folder: Path) -> Result:
    """Give their delta to our network and compare."""
    import torch
    from safetensors.torch import load_file

    from peftcli.delta.delta import attach

    theirs = load_file(folder / "theirs.safetensors")
    tensors = {n.removeprefix("delta."): t for n, t in theirs.items() if n.startswith("delta.")}
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    inputs = batch(family)
    base = case.base(family)
    with torch.no_grad():
        plain = output(base.network(**inputs))
        delta = attach(case.methods, base, seed=0)
        filled = set()
        for ours, other in case.match(delta, {n: tensors[n] for n in order}):
            ours.copy_(other.reshape(ours.shape))
            filled.add(id(ours))
        assert filled >= {id(p) for p in delta.parameters.values()}, f"{case.name}: not every tensor has a twin"
        found = output(base.network(**inputs))
    return Result(
        method=case.name,
        family=family,
        difference=largest(found - theirs["adapted"]),
        control=largest(found - plain),
        versions=largest(plain - theirs["plain"]),
        curve=curve_difference(delta, inputs, load_file(folder / "inputs.safetensors")["target"], theirs.get("losses")),
    )


def curve_difference(delta: Delta, inputs: Tensors, target: Tensor, theirs: Tensor | None) -> float | None:
    """Take the same steps and return by how much of the first loss the losses differ; None: they took none."""
    import torch

    if theirs is None:
        return None
    optimizer = torch.optim.AdamW(delta.parameters.values(), lr=1e-2, weight_decay=0.1)
    losses = []
    for _ in range(len(theirs)):
        optimizer.zero_grad()
        loss = (output(delta.base.network(**inputs)) - target).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert losses[-1] < losses[0]
    return largest(torch.stack(losses) - theirs) / float(losses[0])


def batch(family: str) -> dict[str, Tensor]:
    """Return inputs of which one row is padded, for the decoder of T5 too."""
    from tiny import tiny_batch

    inputs = tiny_batch(family)
    if family == "t5":
        inputs["attention_mask"][-1, -2:] = 0
        inputs["decoder_input_ids"] = inputs["input_ids"].flip(1)[:, :5].contiguous()
    return inputs


def output(out: Tensors) -> Tensor:
    """Return the logits, or what leaves a bare network."""
    return out["logits"] if "logits" in out else out["last_hidden_state"]


def largest(tensor: Tensor) -> float:
    """Return the largest absolute value."""
    return float(tensor.abs().max())


def show(results: list[Result]) -> None:
    """Print the table."""
    print("| method | family | max difference | control | two versions, base alone | 20 losses | |")
    print("|---|---|---:|---:|---:|---:|---|")
    for r in results:
        curve = "-" if r.curve is None else f"{r.curve:.1e}"
        print(
            f"| {r.method} | {r.family} | {r.difference:.1e} | {r.control:.2f} | {r.versions:.1e} | {curve} |", end=""
        )
        print(f" {'agrees' if r.agrees else 'DIFFERS'} |")


def main() -> int:
    """Compare every method on every family, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True, help="folder of their environment; made if missing")
    parser.add_argument("--only", help="names of methods, with commas; default: all")
    options = parser.parse_args()
    from transformers.utils import logging

    logging.disable_progress_bar()
    python = environment(options.environment)
    wanted = options.only.split(",") if options.only else [c.name for c in cases()]
    with tempfile.TemporaryDirectory() as scratch:
        cells = {Path(scratch) / f"{c.name}-{f}": (c, f) for c in cases() if c.name in wanted for f in c.families}
        for folder, (case, family) in cells.items():
            send(case, family, folder)
        subprocess.run([str(python), str(THEIRS), *map(str, cells)], check=True)
        results = [compare(case, family, folder) for folder, (case, family) in cells.items()]
    show(results)
    return 0 if results and all(r.agrees for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
