"""Tiny base models on disk, adapted and saved as a run would."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tiny import FAMILIES, VOCABULARY

from peftcli.artifact.artifact import Artifact, ArtifactContents, base_identity, open_artifact, save
from peftcli.artifact.exports import export
from peftcli.artifact.fingerprint import fingerprint
from peftcli.base.loading import load_base
from peftcli.base.source import find_source
from peftcli.data.tasks import task_from_manifest
from peftcli.delta.delta import Delta, attach
from peftcli.delta.registry import read_methods

TASKS = {
    "classification": (
        "AutoModelForSequenceClassification",
        {"name": "classification", "labels": ["no", "maybe", "yes"]},
    ),
    "multi-label-classification": (
        "AutoModelForSequenceClassification",
        {"name": "multi-label-classification", "labels": ["red", "round", "ripe", "sweet"]},
    ),
    "regression": ("AutoModelForSequenceClassification", {"name": "regression"}),
    "token-classification": (
        "AutoModelForTokenClassification",
        {"name": "token-classification", "labels": ["B-X", "I-X", "O"]},
    ),
    "span-qa": (
        "AutoModelForQuestionAnswering",
        {"name": "span-qa", "doc_stride": 4, "max_answer_length": 3, "null_threshold": 0.0, "unanswerable": False},
    ),
    "causal-lm": ("AutoModelForCausalLM", {"name": "causal-lm"}),
    "seq2seq": ("AutoModelForSeq2SeqLM", {"name": "seq2seq", "source_prefix": ""}),
}
COLUMNS = {
    "causal-lm": {"prompt": "a", "completion": "b"},
    "seq2seq": {"input": "a", "target": "b"},
    "token-classification": {"tokens": "a", "tags": "b"},
    "span-qa": {"question": "a", "context": "b", "answers": "c"},
}


@dataclass(frozen=True)
class Adapted:
    base: Path
    delta: Delta
    artifact: Artifact
    task: str

    def logits(self) -> torch.Tensor:
        return logits(self.delta.base.network, self.virtual())

    def virtual(self) -> int:
        """How many vectors of a prompt stand before the tokens."""
        found = [m.virtual_tokens(self.delta.base.anatomy) for m in self.delta.methods]
        return sum(v.count for v in found if v is not None and not v.after)


def save_base(folder: Path, family: str, auto: str = "AutoModel", dtype=torch.float32, **config) -> Path:
    torch.manual_seed(0)
    given = {**FAMILIES[family], **config}
    settings = transformers.AutoConfig.for_model(given.pop("model_type"), **given)
    network = getattr(transformers, auto).from_config(settings).to(dtype)
    with torch.no_grad():  # norms and biases start at one and zero, which would hide a mistake
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return folder


def adapt(base: Path, run: Path, method, task: str, change=None) -> Adapted:
    """Attach, make every number another one (or let ``change`` do so), pack and save."""
    auto, about = TASKS[task]
    manifest = {**about, "columns": COLUMNS.get(task, {"text": "a"}), "max_length": 16}
    asked = task_from_manifest(manifest)
    settings, source = asked.network_settings(), find_source(str(base))
    model = load_base(source, task_class=auto, settings=settings, dtype="auto", new_head=asked.new_head, seed=0)
    delta = attach(read_methods(method), model, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in delta.trained().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    if change is not None:
        change(delta)
    delta = delta.pack()
    about_base = base_identity(
        model,
        json.loads((base / "config.json").read_text()),
        name=str(base),
        commit=None,
        fingerprint=fingerprint(base),
        dtype="float32",
    )
    contents = ArtifactContents(
        methods=delta.methods,
        base=about_base,
        tensors=delta.state(),
        task=manifest,
        counts={},
        seed=0,
        export=export(delta, base=str(base), revision=None, task=task),
    )
    save(run / "delta", contents)
    model.network.eval()
    return Adapted(base, delta, open_artifact(run), task)


@torch.no_grad()
def logits(network, virtual: int = 0) -> torch.Tensor:
    network.eval()
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=generator)
    ended = network.config.is_encoder_decoder
    ids[:, -1] = 1 if network.config.eos_token_id == 1 else 2  # BART and T5 pool their end-of-sequence token
    ids = torch.cat([torch.arange(VOCABULARY, VOCABULARY + virtual).expand(2, -1), ids], 1)
    written = {"decoder_input_ids": ids[:, virtual:-1]} if hasattr(network, "lm_head") and ended else {}
    out = network(input_ids=ids, attention_mask=torch.ones_like(ids), **written)
    return out.logits if "logits" in out else torch.stack([out.start_logits, out.end_logits], dim=-1)


def reopened(folder: Path, task: str):
    auto = getattr(transformers, TASKS[task][0])
    network, info = auto.from_pretrained(folder, output_loading_info=True, dtype="auto")
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    assert not info["mismatched_keys"], info
    return network
