"""The delta in Hugging Face peft's own form: ``PeftModel.from_pretrained`` loads the artifact as it is."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftcli import files
from peftcli.artifact.tensor_file import TensorFile, TensorSpec, arranged, new_tensor_file

if TYPE_CHECKING:
    import torch

    from peftcli.delta.delta import Delta

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
INNER = "base_model.model."  # where peft keeps the network of methods that change modules
OUTER = "base_model."  # and of methods that only add to the input
TASK_TYPES = {
    "classification": "SEQ_CLS",
    "multi-label-classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "word-tags": "TOKEN_CLS",
    "span-qa": "QUESTION_ANS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq": "SEQ_2_SEQ_LM",
    "multiple-choice": "CAUSAL_LM",
}


@dataclass(frozen=True, kw_only=True)
class Export:
    """A delta as Hugging Face peft stores it, or why it cannot.

    Attributes:
        kind: exact: the same numbers; converted: the same function in other numbers; none.
        reason: Why there is none.
        config: adapter_config.json.
        tensors: adapter_model.safetensors.
    """

    kind: Literal["exact", "converted", "none"]
    reason: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write both files into ``folder``, which is not committed yet; none where there is no such form."""
        if self.kind == "none":
            return
        from peftcli.artifact.numbers import dtype_name, to_bytes

        specs = arranged([TensorSpec(n, dtype_name(t.dtype), tuple(t.shape)) for n, t in self.tensors.items()])
        with new_tensor_file(folder / TENSORS, specs) as writer:
            for spec in specs:
                writer.begin(spec)
                writer.write(to_bytes(self.tensors[spec.name]))
        files.write_json(folder / CONFIG, {k: _ordered(v) for k, v in self.config.items()})


def export(delta: Delta, *, base: str | None, revision: str | None, task: str | None) -> Export:
    """Return ``delta`` in peft's form, head included, or the reason why there is none.

    Args:
        delta: Finished: packed, on any device.
        base: What peft is to load: a hub id; None for a directory, which is another one on another machine.
        revision: The commit of a hub id.
        task: The name of the task.
    """
    if delta.base.pooling != "base":
        reason = f"the head reads the {delta.base.pooling} of the hidden states, and peft's adapters do not say so"
        return Export(kind="none", reason=reason)
    if len(delta.methods) != 1:
        return Export(kind="none", reason="Hugging Face peft has no form for a stack of methods")
    layout = delta.methods[0].peft_layout(delta)
    if isinstance(layout, str):
        return Export(kind="none", reason=layout)
    modules, head = head_entries(delta, INNER if any(n.startswith(INNER) for n in layout.tensors) else OUTER)
    saved = {*(layout.config.get("modules_to_save") or ()), *modules}
    config = {
        "base_model_name_or_path": base,
        "revision": revision,
        "task_type": TASK_TYPES.get(task or ""),
        "inference_mode": True,
        **layout.config,
        **({"modules_to_save": sorted(saved)} if saved else {}),  # peft warns of a key that a form does not have
    }
    tensors = {**layout.tensors, **head}
    return Export(kind="exact" if layout.exact else "converted", config=config, tensors=tensors)


def stored(folder: Path, kind: Literal["exact", "converted", "none"]) -> Export:
    """Return the form that lies in an artifact's folder.

    Raises:
        ArtifactError: A file is missing or damaged.
    """
    from peftcli.artifact.numbers import from_bytes

    with TensorFile(folder / TENSORS) as file:
        tensors = {n: from_bytes(file.read(n), e.dtype).reshape(e.shape) for n, e in file.entries.items()}
    return Export(kind=kind, config=files.read_json(folder / CONFIG), tensors=tensors)


def head_entries(delta: Delta, prefix: str) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Return the modules that hold the head, for ``modules_to_save``, and their tensors under peft's names.

    A module is named by its whole path, because peft matches by the end of a path: ``dense`` would be many modules.

    Args:
        delta: The finished delta.
        prefix: Where peft keeps the network: INNER or OUTER.
    """
    base = delta.base
    tensors = {base.name(address.removeprefix("head.")): p for address, p in delta.head.items()}
    modules = {_largest(name, tensors.keys(), base.parameters.keys()) for name in tensors}
    return sorted(modules), {prefix + name: p.detach().cpu().contiguous() for name, p in sorted(tensors.items())}


def _largest(name: str, head: Set[str], every: Set[str]) -> str:
    """Return the outermost module around parameter ``name`` that holds nothing but the head."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        module = ".".join(parts[:depth])
        if all(n in head for n in every if n.startswith(module + ".")):
            return module
    raise AssertionError(f"{name} lies in no module of its own")


def _ordered(value: Any) -> Any:  # noqa: ANN401  # any value of a config
    """Put what is a set in peft's eyes into one order, so that the same delta gives the same bytes."""
    return sorted(value) if isinstance(value, set | frozenset | list | tuple) else value
