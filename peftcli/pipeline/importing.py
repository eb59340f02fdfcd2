"""``peft import``: a delta that another tool trained becomes an artifact, or it is said why it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli import files
from peftcli.base.source import Source, find_source, read_config
from peftcli.data.tasks import Task, task_from_manifest
from peftcli.errors import ArtifactError, RecipeError

if TYPE_CHECKING:
    import torch

    from peftcli.artifact.stored_delta import StoredDelta
    from peftcli.base.anatomy import Anatomy
    from peftcli.delta.delta import Delta
    from peftcli.delta.method import Method
    from peftcli.delta.peft_form import PeftForm

# By Hugging Face peft's task_type.
TASKS = {"SEQ_CLS": "classification", "CAUSAL_LM": "causal-lm", "SEQ_2_SEQ_LM": "seq2seq"}
COLUMNS = {
    "classification": {"text": "text", "label": "label"},
    "causal-lm": {"prompt": "prompt", "completion": "completion"},
    "seq2seq": {"input": "input", "target": "target"},
}
SEED = 0


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What to import, and what the files themselves do not say.

    Attributes:
        source: A folder of Hugging Face peft's, or a file of tensors.
        base: The base model: a hub id, a directory, or demo:minilm.
        task: What the delta was trained for; None: what its config says.
        labels: Of a classifier, in the order of the head's rows; None: those of the base model's config.
        columns: What data files call the task's columns.
        alpha: LoRA's numerator, for files that do not say it.
        parts: Which parts of a fused projection moved, for files that do not say it.
        allow_pickle: Whether a file of torch's is opened.
        overwrite: Replace an existing folder.
    """

    source: Path
    base: str
    revision: str | None = None
    task: str | None = None
    labels: tuple[str, ...] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    alpha: float | None = None
    parts: tuple[str, ...] | None = None
    allow_pickle: bool = False
    overwrite: bool = False


def import_delta(request: ImportRequest, out: Path) -> dict[str, Any]:
    """Write the delta of another tool to ``out`` as an artifact.

    Raises:
        ArtifactError: It is damaged, does not fit the base model, or computes what no method here does.
        RecipeError: Something must be said that the files do not say.
        BaseModelError: The base model cannot be used.
    """
    from peftcli.artifact.imports import choose, peft_form
    from peftcli.artifact.stored_delta import read_stored

    files.check_new(out, overwrite=request.overwrite)
    stored = read_stored(request.source, allow_pickle=request.allow_pickle)
    source = find_source(request.base, request.revision)
    task = _task(request, stored, read_config(str(source.folder)))
    anatomy = _anatomy(source, task)
    form = peft_form(_in_pefts_words(stored, anatomy, request), anatomy)
    method = choose(form, anatomy)  # whatever the config alone can tell is found before the weights are loaded
    delta = _delta(form, method, source, task)
    kind = _save(delta, source, task, out, overwrite=request.overwrite)
    said = (stored.config or {}).get("base_model_name_or_path")
    return {
        "out": str(out),
        "method": method.name,
        "settings": method.model_dump(mode="json"),
        "base": source.label,
        "base_said": said,
        "task": task.name,
        "delta": delta.size,
        "head": delta.head_size,
        "hf_peft": kind,
        "note": _note(said, source.label),
    }


def _task(request: ImportRequest, stored: StoredDelta, config: Mapping[str, Any]) -> Task:
    said = TASKS.get(str((stored.config or {}).get("task_type")))
    name = request.task or said
    if name is None:
        raise RecipeError("the delta does not say what task it is for", hint="Give it with --task.")
    if name not in COLUMNS:
        raise RecipeError(f"no task for an import is called {name!r}", hint=f"Known are {', '.join(COLUMNS)}.")
    if said and said != name:
        raise RecipeError(f"the delta was trained for {said}, not for {name}", hint="Leave --task out.")
    columns = {**COLUMNS[name], **request.columns}
    allowed = {*COLUMNS[name], *(("text_pair",) if name == "classification" else ())}
    if unknown := sorted(set(columns) - allowed):
        raise RecipeError(f"the task has no column {unknown[0]!r}", hint=f"It has {', '.join(sorted(allowed))}.")
    manifest: dict[str, Any] = {"name": name, "columns": columns, "max_length": None}
    if name == "classification":
        manifest["labels"] = list(request.labels or _labels(config))
    return task_from_manifest(manifest)


def _labels(config: Mapping[str, Any]) -> list[str]:
    """Return the labels of the base model's config."""
    named = config.get("id2label")
    found = [named.get(str(n)) for n in range(len(named))] if isinstance(named, dict) else []
    if len(found) < 2 or not all(isinstance(one, str) for one in found):
        hint = "Give them with --labels, in the order of the head's rows."
        raise RecipeError("neither the delta nor its base model says what the labels are called", hint=hint)
    return [str(one) for one in found]


def _anatomy(source: Source, task: Task) -> Anatomy:
    from peftcli.base.anatomy import Anatomy

    labels = task.network_settings().get("num_labels")
    return Anatomy.of(read_config(str(source.folder)), task=task.name, labels=labels)


def _in_pefts_words(stored: StoredDelta, anatomy: Anatomy, request: ImportRequest) -> StoredDelta:
    from peftcli.artifact.loralib import as_peft, is_loralib

    if is_loralib(stored):
        return as_peft(stored, anatomy, request.alpha, request.parts)
    if stored.config is None:
        some = ", ".join(sorted(stored.tensors)[:3])
        hint = "Name a folder with an adapter_config.json, or a file of loralib."
        raise ArtifactError(f"holds tensors of no known form (for instance {some})", where=stored.where, hint=hint)
    if request.alpha is not None or request.parts is not None:
        raise RecipeError("adapter_config.json says alpha and the parts itself", hint="Leave --alpha and --parts out.")
    return stored


def _delta(form: PeftForm, method: Method, source: Source, task: Task) -> Delta:
    """Load the base model, attach the method, and give it the stored numbers."""
    from peftcli.base.loading import load_base
    from peftcli.delta.delta import attach

    base = load_base(
        source,
        task_class=task.model_class,
        settings=task.network_settings(),
        dtype="auto",
        new_head=task.new_head,
        seed=SEED,
    )
    delta = attach((method,), base, seed=SEED)
    head = _head(form, delta)
    taken = method.take_peft(form, delta)
    assert taken.keys() == delta.parameters.keys(), "a method takes every tensor that it trains"
    delta.load({**delta.state(), **taken, **head})
    return delta.pack()


def _head(form: PeftForm, delta: Delta) -> dict[str, torch.Tensor]:
    """Return the head's tensors by address; peft would leave one that is missing at random numbers."""
    given = {f"head.{address}": tensor for address, tensor in form.head.items()}
    missing, extra = sorted(delta.head.keys() - given.keys()), sorted(given.keys() - delta.head.keys())
    if missing:
        raise form.refuse(
            f"it holds no numbers for {len(missing)} tensors of the head (for instance {missing[0]})",
            "What is missing would be random.",
        )
    if extra:
        raise form.refuse(
            f"it trained {len(extra)} tensors of the base model itself (for instance {extra[0].removeprefix('head.')})",
            "Load it with peft, and save the merged model there.",
        )
    for address, parameter in delta.head.items():
        if given[address].shape != parameter.shape:
            raise form.refuse(
                f"{address} is {tuple(given[address].shape)}, but the labels make it {tuple(parameter.shape)}",
                "Look at --labels.",
            )
    return given


def _save(delta: Delta, source: Source, task: Task, out: Path, *, overwrite: bool) -> str:
    from peftcli.artifact.artifact import ArtifactContents, base_identity, open_artifact, save
    from peftcli.artifact.exports import export
    from peftcli.artifact.fingerprint import fingerprint
    from peftcli.pipeline.reporting import parameters

    dtype = next(iter(delta.base.parameters.values())).dtype
    hub = source.label if source.kind == "hub" else None
    contents = ArtifactContents(
        methods=delta.methods,
        base=base_identity(
            delta.base,
            read_config(str(source.folder)),
            name=source.label,
            commit=source.commit,
            fingerprint=fingerprint(source.folder),
            dtype=str(dtype).removeprefix("torch."),
        ),
        tensors=delta.state(),
        task=task.manifest(),
        counts=parameters(delta, delta.size, task),
        seed=SEED,
        export=export(delta, base=hub, revision=source.commit, task=task.name),
    )
    save(out, contents, overwrite=overwrite)
    return open_artifact(out).manifest.hf_peft


def _note(said: str | None, given: str) -> str:
    """Return what people should know of the base: the files of other tools hold no fingerprint of theirs."""
    if said is None or said == given:
        return "nothing in the delta proves that this is its base model: measure it"
    return (
        f"the delta says that its base model is {said}; whether {given} is the same, nothing in it proves: measure it"
    )
