"""AdapterFusion against its formula under norms before and behind the sublayers, its count, and whole runs of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from methods.streams import POST_NORM, PRE_NORM, base_of, block_at, first_layer
from tiny import save_tiny, tiny_base, tiny_batch
from torch.nn import functional as F

from peftcli.base.anatomy import Anatomy
from peftcli.blocks.fusion import Fusion
from peftcli.cli.program import run
from peftcli.delta.delta import Delta, attach
from peftcli.delta.method import TrainedDelta
from peftcli.errors import ArtifactError, MethodError
from peftcli.methods.adapter_fusion import AdapterFusion
from peftcli.methods.houlsby import Houlsby
from peftcli.methods.lora import Lora
from peftcli.methods.pfeiffer import Pfeiffer
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.reading import read
from peftcli.pipeline.training import TrainOptions, train

BERT_BASE = 21_252_096
PFEIFFERS = (Pfeiffer(bottleneck=3), Pfeiffer(bottleneck=5, activation="tanh"))
ACTIVATIONS = (F.relu, torch.tanh)
PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")
FUSION = ("W_q.weight", "W_q.bias", "W_k.weight", "W_k.bias", "W_v.weight")


def perturbed(delta: Delta, seed: int, scale: float = 0.3) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return delta


def trained(family: str, *methods, seed: int = 1) -> TrainedDelta:
    delta = perturbed(attach(methods, base_of(family), seed=seed), seed)
    return TrainedDelta(folder=f"runs/{seed}", identity=str(seed), methods=delta.methods, tensors=delta.state())


def two(family: str, methods=PFEIFFERS) -> list[TrainedDelta]:
    return [trained(family, method, seed=seed) for seed, method in enumerate(methods, 1)]


def fused(family: str, scale: float = 0.3, **settings) -> Delta:
    adapters = [m.model_copy(update={"placement": settings.get("placement", "after_ffn")}) for m in PFEIFFERS]
    method = AdapterFusion(**settings).built_on(two(family, adapters))
    return perturbed(attach((method,), base_of(family), seed=0), 7, scale)


def added(delta: Delta, address: str, z: torch.Tensor) -> torch.Tensor:
    """sum_i alpha_i W_v u_i, one adapter and one token after the other, with the numbers of the two runs."""
    own = {n.removeprefix(f"adapter_fusion.{address}.bottleneck."): p for n, p in delta.parameters.items()}
    states = [t.tensors for t in delta.methods[0]._trained]
    outputs = []
    for state, activation in zip(states, ACTIVATIONS, strict=True):
        down, down_bias, up, up_bias = (state[f"pfeiffer.{address}.bottleneck.{n}"] for n in PARTS)
        outputs.append(activation(z @ down.T + down_bias) @ up.T + up_bias)
    q = z @ own["W_q.weight"].T + own["W_q.bias"]
    scores = [(q * (u @ own["W_k.weight"].T + own["W_k.bias"])).sum(-1) for u in outputs]
    total = sum(torch.exp(s) for s in scores)
    alphas = [(torch.exp(s) / total)[..., None] for s in scores]
    return sum(alpha * (u @ own["W_v.weight"].T) for alpha, u in zip(alphas, outputs, strict=True))


@pytest.mark.parametrize("placement", ["after_ffn", "after_attention"])
@torch.no_grad()
def test_a_layer_of_bert_is_the_formula_with_the_pretrained_norm_serving_twice(placement):
    delta = fused("bert", placement=placement, layers=0)
    plain = base_of("bert").network.bert
    address = f"layers.0.{placement.removeprefix('after_')}"
    x = x0 = plain.embeddings(tiny_batch("bert", rows=1)["input_ids"])
    layer = plain.encoder.layer[0]

    def end(norm, h, x, mixed):
        z = norm(h + x)
        return norm(h + added(delta, address, z) + x) if mixed else z

    h = layer.attention.output.dense(layer.attention.self(x)[0])
    x = end(layer.attention.output.LayerNorm, h, x, placement == "after_attention")
    h = layer.output.dense(layer.intermediate(x))
    expected = end(layer.output.LayerNorm, h, x, placement == "after_ffn")
    found = delta.base.network.bert.encoder.layer[0](x0)
    found = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - plain.encoder.layer[0](x0)[0]).abs().max() > 1e-2


@pytest.mark.parametrize("family", PRE_NORM)
@torch.no_grad()
def test_on_a_pre_norm_stream_it_adds_to_what_leaves_the_layer(family):
    delta = fused(family, layers=0)
    block = block_at(delta, "layers.0.ffn")
    z = first_layer(base_of(family), family)
    expected = z + added(delta, block.address.removeprefix("adapter_fusion."), z)
    torch.testing.assert_close(first_layer(delta.base, family), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", POST_NORM)
@torch.no_grad()
def test_behind_every_familys_norm_it_adds_before_the_norm(family):
    delta = fused(family, layers=0)
    block = block_at(delta, "layers.0.ffn")
    heard = []
    handle = block.wrapped.register_forward_hook(lambda _, args, out: heard.append((args[0], out)))
    first_layer(delta.base, family)
    handle.remove()
    (t, z), (moved, _) = heard[:2]
    expected = t + added(delta, block.address.removeprefix("adapter_fusion."), z)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_it_starts_at_a_nearly_even_mixture():
    function = block_at(fused("bert", scale=0.0), "layers.0.ffn").bottleneck
    assert isinstance(function, Fusion)
    width = len(function.W_v.weight)
    assert torch.equal(function.W_v.weight, torch.full((width, width), 1e-6).fill_diagonal_(1.0))
    assert not function.W_q.bias.any()
    assert not function.W_k.bias.any()
    z = torch.randn(50, width)
    u = torch.stack([adapter(z) for adapter in function.adapters], -2)
    assert (function.mixture(z, u) - 0.5).abs().max() < 0.1
    torch.testing.assert_close(function(z), u.mean(-2), rtol=0.1, atol=0.1)


def test_queries_and_keys_start_normal_with_deviation_002():
    function = Fusion(400, (), dropout=0.0)
    function.initialise(torch.Generator().manual_seed(0))
    for weight in (function.W_q.weight.detach(), function.W_k.weight.detach()):
        assert float(weight.std()) == pytest.approx(0.02, rel=0.02)
        assert abs(float(weight.mean())) < 2e-4
    assert not torch.equal(function.W_q.weight, function.W_k.weight)


@pytest.mark.parametrize("settings", [{}, {"adapters": ("runs/a", "runs/b")}])
def test_the_count_of_bert_base_needs_no_adapters(settings):
    anatomy = Anatomy.of({"model_type": "bert"})
    assert AdapterFusion(**settings).count(anatomy) == BERT_BASE == 12 * (3 * 768**2 + 2 * 768)


def test_counting_imports_no_torch_and_opens_no_adapters(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    code = (
        "import sys; from peftcli.pipeline.counting import params;"
        "found = params('config.json', ['method.adapters=[no/such, folders/here]'], 'adapter_fusion', False, None);"
        f"assert found[0]['delta'] == {BERT_BASE}; assert 'torch' not in sys.modules"
    )
    path = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": path})


def test_a_network_without_weights_counts_the_same(tmp_path, capsys):
    folder = save_tiny(tmp_path / "base", "bert")
    assert run(["params", str(folder / "config.json"), "--method", "adapter_fusion", "--counted", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["delta"] == 2 * (3 * 16**2 + 2 * 16)


def test_only_the_fusion_and_the_head_train_and_the_adapters_travel_as_they_are():
    delta = fused("bert")
    expected = {f"adapter_fusion.layers.{n}.ffn.bottleneck.{p}" for n in (0, 1) for p in FUSION}
    assert set(delta.parameters) == expected
    assert len(delta.head) == 2
    assert {n.split(".bottleneck.")[1][:10] for n in delta.buffers} == {"adapters.0", "adapters.1"}
    before = {n: b.clone() for n, b in delta.buffers.items()}
    optimizer = torch.optim.AdamW(delta.trained().values(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        delta.base.network(**tiny_batch("bert")).logits.pow(2).sum().backward()
        optimizer.step()
    assert all(torch.equal(before[n], b) for n, b in delta.state().items() if n in before)
    assert all(p.grad is not None and p.grad.any() for n, p in delta.trained().items() if not n.endswith("W_k.bias"))
    reached = {n for n, p in delta.base.network.named_parameters() if p.grad is not None}
    assert len(reached) == len(delta.trained())


def test_the_penalty_pulls_every_value_matrix_to_the_identity():
    delta = fused("gpt2", value_penalty=0.5)
    values = [p for n, p in delta.parameters.items() if n.endswith("W_v.weight")]
    expected = 0.5 * sum((v - torch.eye(16)).square().sum() for v in values)
    torch.testing.assert_close(delta.penalty(), expected)
    delta.penalty().backward()
    torch.testing.assert_close(values[0].grad, values[0] - torch.eye(16))
    assert fused("gpt2", value_penalty=0.0).penalty() is None


def test_dropout_sets_scores_to_zero_in_training_alone():
    function = block_at(fused("bert", dropout=0.5), "layers.0.ffn").bottleneck
    z, u = torch.randn(200, 16), torch.randn(200, 2, 16)
    scores = ((function.W_q(z)[:, None] * function.W_k(u)).sum(-1)).detach()
    torch.testing.assert_close(function.eval().mixture(z, u), scores.softmax(-1))
    found = function.train().mixture(z, u)
    both_dropped = (found - 0.5).abs().amax(-1) == 0
    assert 0.1 < float(both_dropped.float().mean()) < 0.45


def test_it_is_no_change_of_weights():
    delta = fused("bert")
    assert not delta.mergeable
    assert all(b.folds() == () for _, b in delta.blocks())


def test_a_finished_delta_brings_its_adapters_along():
    delta = fused("bert")
    finished = delta.pack()
    (method,) = finished.methods
    assert (method.adapters, method._trained) == ((), ())
    assert [(f.bottleneck, f.activation) for f in method.fused] == [(3, "relu"), (5, "tanh")]
    fresh = attach(finished.methods, base_of("bert"), seed=3)
    fresh.load(finished.state())
    batch = tiny_batch("bert")
    with torch.no_grad():
        assert torch.equal(fresh.base.network(**batch).logits, delta.base.network(**batch).logits)


@pytest.mark.parametrize(
    ("methods", "what"),
    [
        ((Lora(rank=2),), "holds a delta of lora, and adapter_fusion mixes adapters of pfeiffer"),
        ((Houlsby(bottleneck=2),), "holds a delta of houlsby"),
        ((Pfeiffer(bottleneck=2), Lora(rank=2)), "holds a delta of pfeiffer and lora"),
        ((Pfeiffer(bottleneck=2, train_norms=True),), "its norms were trained with its adapters"),
    ],
)
def test_what_is_no_adapter_of_this_kind_is_refused_by_what_it_is(methods, what):
    deltas = [trained("bert", PFEIFFERS[0], seed=1), trained("bert", *methods, seed=2)]
    with pytest.raises(ArtifactError, match=f"^runs/2: {what}"):
        AdapterFusion().built_on(deltas)


def test_one_adapter_or_the_same_twice_is_no_mixture():
    delta = trained("bert", PFEIFFERS[0])
    with pytest.raises(MethodError, match=r"at least 2 trained adapters, and method\.adapters names 1"):
        AdapterFusion().built_on([delta])
    with pytest.raises(ArtifactError, match="holds the same adapters as runs/1"):
        AdapterFusion().built_on([delta, delta])
    with pytest.raises(MethodError, match="no trained adapters"):
        attach((AdapterFusion(),), tiny_base("bert"), seed=0)


@pytest.mark.parametrize(("settings", "place"), [({"layers": 0}, 1), ({"placement": "after_attention"}, 0)])
def test_an_adapter_that_is_missing_at_a_fused_layer_is_named(settings, place):
    methods = (PFEIFFERS[0], PFEIFFERS[1].model_copy(update=settings))
    method = AdapterFusion().built_on(two("bert", methods))
    with pytest.raises(ArtifactError, match=f"runs/2: has no adapter at layer {place} ffn"):
        attach((method,), base_of("bert"), seed=0)


def test_tensors_of_another_shape_than_the_settings_say_are_refused():
    one, other = two("bert")
    lying = TrainedDelta(folder="runs/2", identity="2", methods=(Pfeiffer(bottleneck=4),), tensors=other.tensors)
    method = AdapterFusion().built_on([one, lying])
    with pytest.raises(ArtifactError, match="its tensors at layer 0 ffn are not what its settings say"):
        attach((method,), base_of("bert"), seed=0)


PHASE_ONE = """
base: {name: ../base}
method: {name: pfeiffer, bottleneck: 3}
data: {task: classification, train: ../rows.jsonl, validation: ../rows.jsonl, max_length: 12}
training: {steps: 4, batch_size: 4, warmup: 0, learning_rate: 0.01}
"""
FUSED = PHASE_ONE.replace("pfeiffer, bottleneck: 3", "adapter_fusion, adapters: [../runs/one, ../runs/other]")
WORDS = ["[PAD]", "[UNK]", "the", "book", "card", "room", "is", "lost", "open", "late"]


def prepare_base(folder: Path) -> Path:
    """Write a tiny BERT with a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    save_tiny(folder, "bert")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> Path:
    """A base, rows, recipes, and two runs of Pfeiffer's adapter."""
    root = tmp_path_factory.mktemp("fusion")
    prepare_base(root / "base")
    rows = [{"text": " ".join(WORDS[i : i + 4]), "label": f"label {i % 3}"} for i in range(6)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "recipes").mkdir()
    (root / "recipes/phase_one.yaml").write_text(PHASE_ONE)
    (root / "recipes/fused.yaml").write_text(FUSED)
    first = root / "recipes/phase_one.yaml"
    train(read(first), TrainOptions(out=root / "runs/one"), Silent())
    changes = ["method.bottleneck=5", "method.activation=tanh", "seed=1"]
    train(read(first, changes), TrainOptions(out=root / "runs/other"), Silent())
    return root


@pytest.fixture
def place(adapted, tmp_path, monkeypatch) -> Path:
    """A copy of it that a test may spoil; commands start in it."""
    shutil.copytree(adapted, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def test_a_run_is_built_on_two_runs_and_needs_them_no_longer(place, capsys):
    assert run(["train", "recipes/fused.yaml"]) == 0
    report = json.loads((place / "runs/fused/report.json").read_text())
    assert report["parameters"]["delta"] == 2 * (3 * 16**2 + 2 * 16)
    assert report["proofs"]["frozen_tensors_moved"] == 0
    shutil.rmtree(place / "runs/one")
    shutil.rmtree(place / "runs/other")
    capsys.readouterr()
    assert run(["verify", "runs/fused"]) == 0
    assert run(["merge", "runs/fused", "--out", "merged"]) == 4
    assert "cannot be merged" in capsys.readouterr().err
    assert run(["eval", "runs/fused", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["delta"]
    assert found["loss"] == pytest.approx(report["metrics"]["validation"]["loss"], rel=1e-5)


def test_adapters_on_the_command_line_are_relative_to_the_working_directory(place):
    recipe = read(Path("recipes/fused.yaml"), ["method.adapters=[runs/one, ./runs/other]"])
    assert recipe.method[0].adapters == (f"{place}/runs/one", f"{place}/runs/other")
    recipe = read(Path("recipes/fused.yaml"), ["method.adapters.1=runs/other"])
    assert recipe.method[0].adapters == (f"{place}/recipes/../runs/one", f"{place}/runs/other")


class Dies(Silent):
    """Ends the run after its third step."""

    def step(self, step, loss, learning_rate, examples_per_second):
        if step == 3:
            raise KeyboardInterrupt


def test_a_resumed_run_is_the_uninterrupted_one(place):
    recipe = read(place / "recipes/fused.yaml", ["training.checkpoint_every=1"])
    train(recipe, TrainOptions(out=place / "whole"), Silent())
    with pytest.raises(KeyboardInterrupt):
        train(recipe, TrainOptions(out=place / "halves"), Dies())
    train(recipe, TrainOptions(out=place / "halves", resume=True), Silent())
    whole, halves = ((place / f"{name}/delta/delta.safetensors").read_bytes() for name in ("whole", "halves"))
    assert whole == halves


def test_a_run_is_not_resumed_with_other_adapters(place):
    recipe = read(place / "recipes/fused.yaml", ["training.checkpoint_every=1"])
    with pytest.raises(KeyboardInterrupt):
        train(recipe, TrainOptions(out=place / "halves"), Dies())
    again = read(place / "recipes/phase_one.yaml", ["seed=2"])
    train(again, TrainOptions(out=place / "runs/one", overwrite=True), Silent())
    with pytest.raises(ArtifactError, match=r"the trained delta .*runs/one differs"):
        train(recipe, TrainOptions(out=place / "halves", resume=True), Silent())


def refused(capsys, *changes: str) -> str:
    """Return what `peft train` and `peft check --deep` say; both refuse and the first leaves no folder."""
    assert run(["train", "recipes/fused.yaml", *changes, "--out", "refused"]) in (4, 5)
    said = capsys.readouterr().err
    assert not Path("refused").exists()
    assert run(["check", "recipes/fused.yaml", *changes, "--deep"]) in (4, 5)
    assert capsys.readouterr().err.splitlines()[0] == said.splitlines()[-2 if "hint:" in said else -1]
    return said


def test_adapters_that_are_not_there_or_too_few_are_refused(place, capsys):
    assert "runs/none: no such folder" in refused(capsys, "method.adapters=[runs/one, runs/none]")
    assert "names 1" in refused(capsys, "method.adapters=[runs/one]")
    assert "names 0" in refused(capsys, "method={name: adapter_fusion}")
    assert "names 0" in refused(capsys, "method={name: adapter_fusion, fused: [{bottleneck: 2, activation: relu}]}")


def test_a_delta_of_another_method_is_refused(place, capsys):
    train(read(place / "recipes/phase_one.yaml", ["method={name: lora, rank: 2}"]), TrainOptions(), Silent())
    assert "holds a delta of lora" in refused(capsys, "method.adapters=[runs/one, runs/phase_one]")


def test_a_damaged_adapter_is_refused(place, capsys):
    path = place / "runs/other/delta/delta.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "delta.safetensors" in refused(capsys)


def test_an_adapter_of_another_base_model_is_refused(place, capsys):
    shutil.rmtree(place / "base")
    save_tiny(place / "base", "bert", seed=1)
    prepared = prepare_base(place / "third")
    for path in prepared.glob("*token*"):
        shutil.copy(path, place / "base")
    assert "the delta was trained on" in refused(capsys)


def test_adapters_and_what_a_finished_delta_holds_exclude_each_other(place, capsys):
    assert run(["check", "recipes/fused.yaml", "method.fused=[{bottleneck: 2, activation: relu}]"]) == 2
    assert "method.fused stands in finished deltas" in capsys.readouterr().err
