"""The portable LoRA is the same function in the form that every server reads."""

import json

import pytest
from adapted_models import adapt, logits, save_base
from safetensors.torch import load_file
from test_exports import BASES, load_with_peft

from peftcli.errors import MethodError
from peftcli.pipeline.exporting import export

QV = {"name": "lora", "rank": 3, "alpha": 7.0, "target_modules": ["W_q", "W_v"]}


def exported(tmp_path, base, method, form="portable"):
    family, saved_as, task = BASES[base]
    adapted = adapt(save_base(tmp_path / "base", family, saved_as), tmp_path / "run", method, task)
    return adapted, export(tmp_path / "run", tmp_path / "out", form)


@pytest.mark.parametrize("base", ["gpt2", "llama", "phi3", "gpt_neox"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scaling": "rank_stabilised"},
        {"layers": 1},
        {"target_modules": ["W_o"], "layers": 0},
        {"target_modules": "all-linear", "rank": 5},
    ],
    ids=["plain", "rsLoRA", "one layer", "W_o", "all-linear"],
)
def test_the_portable_form_has_one_rank_no_scale_every_layer_and_the_same_function(tmp_path, base, settings):
    adapted, result = exported(tmp_path, base, {**QV, **settings})
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert config["r"] == config["lora_alpha"] == result["rank"]
    assert config["r"] in (8, 16, 32)
    assert "rank_pattern" not in config
    assert config["bias"] == "none"
    assert not config["use_rslora"]
    assert {t.shape[0] for n, t in tensors.items() if n.endswith("lora_A.weight")} == {config["r"]}
    assert {t.shape[1] for n, t in tensors.items() if n.endswith("lora_B.weight")} == {config["r"]}
    layers = {i: {n.replace(f".{i}.", ".*.") for n in tensors if f".{i}." in n} for i in (0, 1)}
    assert layers[0] == layers[1]
    difference = (logits(load_with_peft(adapted, tmp_path / "out")) - adapted.logits()).abs().max()
    print(f"{base:8s} rank {config['r']} max |difference| {difference:.1e}")
    assert difference <= 1e-6


@pytest.mark.parametrize(
    ("base", "method", "why"),
    [
        ("bert", QV, "a head"),
        ("llama", {**QV, "name": "dora"}, "DoRA"),
        ("gpt2", {"name": "bitfit"}, "biases"),
        ("llama", {"name": "ia3"}, "no LoRA"),
        ("llama", {"name": "houlsby", "bottleneck": 2}, "houlsby"),
    ],
)
def test_what_servers_do_not_take_is_refused_with_what_helps(tmp_path, base, method, why):
    with pytest.raises(MethodError, match=why) as refused:
        exported(tmp_path, base, method)
    (problem,) = refused.value.problems
    assert ("peft merge" in problem.hint) == (method["name"] != "houlsby")
    assert not (tmp_path / "out").exists()


def test_an_export_for_peft_holds_the_same_files_and_a_card(tmp_path):
    adapted, result = exported(tmp_path, "llama", QV, "peft")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    for name in names - {"README.md"}:
        assert (tmp_path / "out" / name).read_bytes() == (adapted.artifact.folder / name).read_bytes()
    assert result["kind"] == "exact"


def test_the_card_names_the_base_only_where_it_is_a_hub_id_and_tells_the_scores(tmp_path):
    import yaml

    (tmp_path / "run").mkdir()
    scores = {"base": {"accuracy": 0.5, "n": 4}, "validation": {"accuracy": 0.75, "n": 4}, "test": None}
    adapted, _ = exported(tmp_path, "llama", QV, "peft")
    (tmp_path / "run" / "report.json").write_text(json.dumps({"metrics": scores}))
    export(tmp_path / "run", tmp_path / "again", "peft")
    card = (tmp_path / "again" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "peft"
    assert front["metrics"] == ["accuracy"]
    assert front["pipeline_tag"] == "text-generation"
    assert "| accuracy | 0.5 | 0.75 |" in card
    config = json.loads((adapted.artifact.folder / "adapter_config.json").read_text())
    assert front.get("base_model") == config["base_model_name_or_path"]
