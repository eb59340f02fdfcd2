"""Every method keeps the function when it is merged, or refuses; what it says of itself is what happens."""

import pytest
import torch
from adapted_models import adapt, logits, reopened, save_base

from peftcli.artifact.merging import MergeSettings, stream
from peftcli.delta.registry import all_methods
from peftcli.errors import MethodError

NETWORKS = [("bert", "AutoModel", "classification"), ("llama", "AutoModelForCausalLM", "causal-lm")]
NETWORKS += [(family, "AutoModelForSeq2SeqLM", "seq2seq") for family in ("t5", "bart")]


def small(name: str) -> dict:
    """Return a recipe's mapping for a method at a size that fits a tiny network."""
    method = all_methods()[name]
    setting = method.card.size_setting
    size = 1 if setting == "count_layers" else 2 * method().size_step
    return {"name": name, **({setting: size} if setting else {})}


@pytest.mark.parametrize("name", all_methods())
@pytest.mark.parametrize(("family", "saved_as", "task"), NETWORKS)
def test_a_merge_keeps_the_function_or_is_refused(tmp_path, family, saved_as, task, name):
    base = save_base(tmp_path / "base", family, saved_as)
    try:
        adapted = adapt(base, tmp_path / "run", small(name), task)
    except MethodError as error:
        pytest.skip(f"refuses: {str(error).splitlines()[0]}")
    method = adapted.delta.methods[0]
    holds = all(b.folds() for b in adapted.delta.blocks_of(method) if b.own_parameters())
    if method.mergeable and holds:
        stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
        assert torch.allclose(logits(reopened(tmp_path / "merged", task)), adapted.logits(), atol=1e-5)
    else:
        with pytest.raises(MethodError, match="cannot be merged"):
            stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
        assert not (tmp_path / "merged").exists()
