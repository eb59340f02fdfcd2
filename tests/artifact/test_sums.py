"""Sparse deltas: merged they are what was adapted, and their sum is both of them applied."""

import pytest
import torch
from adapted_models import adapt, logits, reopened, save_base
from tiny import tiny_base

from peftcli import files
from peftcli.artifact.artifact import open_artifact, save
from peftcli.artifact.merging import MergeSettings, stream
from peftcli.artifact.sums import sparse_sum, sum_of
from peftcli.delta.delta import attach
from peftcli.delta.registry import find
from peftcli.errors import ArtifactError

LtSft = find("lt_sft")
NETWORKS = [
    ("bert", "AutoModelForMaskedLM", "classification"),
    ("deberta-v2", "AutoModel", "classification"),
    ("bart", "AutoModel", "classification"),
    ("gpt2", "AutoModelForCausalLM", "causal-lm"),
    ("gpt_neox", "AutoModelForCausalLM", "causal-lm"),
    ("llama", "AutoModelForCausalLM", "causal-lm"),
    ("phi3", "AutoModelForCausalLM", "causal-lm"),
]


@pytest.mark.parametrize("method", ["lt_sft", "diff_pruning"])
@pytest.mark.parametrize(("family", "saved_as", "task"), NETWORKS)
def test_a_merged_model_computes_what_the_adapted_one_does(tmp_path, family, saved_as, task, method):
    base = save_base(tmp_path / "base", family, saved_as)
    adapted = adapt(base, tmp_path / "run", {"name": method, "entries": "20%"}, task)
    summary = stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    assert torch.equal(logits(reopened(tmp_path / "merged", task)), adapted.logits())
    assert summary.changed > 0


def test_tensors_without_a_change_are_copied(tmp_path):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    adapted = adapt(base, tmp_path / "run", {"name": "lt_sft", "entries": 3}, "causal-lm")
    assert stream(adapted.artifact, base, tmp_path / "merged", MergeSettings()).changed == 3


def delta_of(*methods, seed=0, task=None):
    """Return a delta whose entries and values depend on the seed."""
    delta = attach(methods, tiny_base("bert", task), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in delta.parameters.values():
            values.add_(torch.randn(values.shape, generator=generator))
    return delta


@torch.no_grad()
def test_a_sum_is_both_deltas_applied():
    one, other = delta_of(LtSft(entries="30%"), seed=1), delta_of(LtSft(entries="10%"), seed=2)
    both = attach((LtSft(entries="30%"), LtSft(entries="10%")), tiny_base("bert"), seed=0)
    both.load(one.state() | {n.replace("lt_sft.", "lt_sft-2.", 1): t for n, t in other.state().items()})
    summed = attach((LtSft(),), tiny_base("bert"), seed=0)
    summed.load(sparse_sum([one.state(), other.state()], label="lt_sft"))
    assert summed.size < one.size + other.size  # some entries are in both
    torch.testing.assert_close(logits_of(summed), logits_of(both), rtol=1e-5, atol=1e-5)
    assert (logits_of(summed) - logits_of(one)).abs().max() > 1e-3


def logits_of(delta):
    return delta.base.network(input_ids=torch.arange(5, 15)[None]).last_hidden_state


def test_a_sum_of_artifacts_is_an_artifact(tmp_path):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    parts = [
        adapt(base, tmp_path / f"{n}", {"name": name, "entries": entries}, "causal-lm")
        for n, (name, entries) in enumerate((("diff_pruning", "10%"), ("lt_sft", "30%")))
    ]
    save(tmp_path / "sum", sum_of([part.artifact for part in parts]))
    files.check_folder(tmp_path / "sum")
    found = open_artifact(tmp_path / "sum")
    assert found.methods[0].entries == found.manifest.counts["delta"]
    stream(found, base, tmp_path / "at-once", MergeSettings())
    own = parts[0].artifact.tensors()
    merged = reopened(tmp_path / "at-once", "causal-lm")
    expected = parts[1].delta  # already holds its own change
    stacked = dict(merged.named_parameters())
    for address, values in ((a, t) for a, t in own.items() if f"{a}.indices" in own):
        name = expected.base.name(address.partition(".")[2])
        path, _, last = name.rpartition(".")
        tensor = getattr(expected.base.module(path), last).detach().clone()
        tensor.view(-1)[own[f"{address}.indices"]] += values
        torch.testing.assert_close(stacked[name].detach(), tensor, rtol=1e-6, atol=1e-6)


def test_deltas_of_other_bases_do_not_add_up(tmp_path):
    made = []
    for family in ("llama", "gpt2"):
        base = save_base(tmp_path / family, family, "AutoModelForCausalLM")
        made.append(adapt(base, tmp_path / f"{family}-run", {"name": "lt_sft"}, "causal-lm").artifact)
    with pytest.raises(ArtifactError, match="was trained on"):
        sum_of(made)


def test_only_sparse_artifacts_add_up(tmp_path):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    made = adapt(base, tmp_path / "run", [{"name": "lt_sft"}, {"name": "full"}], "causal-lm").artifact
    with pytest.raises(ArtifactError, match="lt_sft and full makes no sparse delta"):
        sum_of([made, made])


def test_two_heads_do_not_add_up():
    states = [delta_of(LtSft(), seed=s, task="classification").state() for s in range(2)]
    with pytest.raises(ArtifactError, match="two of the deltas have a head"):
        sparse_sum(states, label="lt_sft")


def test_what_is_not_sparse_does_not_add_up():
    with pytest.raises(ArtifactError, match="is not part of a sparse delta"):
        sparse_sum([delta_of(find("bitfit")()).state()], label="lt_sft")
