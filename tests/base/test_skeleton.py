import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, label_count, tasks, tiny_base, tiny_config

from peftcli.base.anatomy import Anatomy
from peftcli.base.skeleton import TransposedLinear, skeleton

CASES = [(family, task) for family in FAMILIES for task in tasks(family)]


@pytest.mark.parametrize(("family", "task"), CASES)
def test_a_skeleton_has_the_addresses_and_shapes_of_the_network(family, task):
    bones = skeleton(Anatomy.of(tiny_config(family), task=task, labels=label_count(task)))
    flesh = tiny_base(family, task)
    assert {bones.address(n): p.shape for n, p in bones.parameters.items()} == {
        flesh.address(n): p.shape for n, p in flesh.parameters.items()
    }
    assert {bones.address(n) for n in bones.head} == {flesh.address(n) for n in flesh.head}


@pytest.mark.parametrize(("family", "task"), CASES)
def test_every_site_of_a_skeleton_can_be_reached(family, task):
    bones = skeleton(Anatomy.of(tiny_config(family), task=task, labels=label_count(task)))
    for site in bones.sites(bones.anatomy.site_names):
        bones.module(site)
        if site.out:
            bones.module(bones.sublayer_out(site))
        if site.name.startswith("W_"):
            assert bones.output_rows(site) >= site.d_out


def test_a_skeleton_takes_no_memory():
    config = {"model_type": "gpt2", "n_layer": 96, "n_embd": 12288, "n_head": 96, "n_positions": 2048}
    bones = skeleton(Anatomy.of(config, task="causal-lm"))
    assert bones.size == 174_604_259_328
    assert all(p.device.type == "meta" for p in bones.parameters.values())


def test_a_head_can_be_given_by_its_shapes():
    head = {"classifier.weight": (7, 16), "classifier.bias": (7,), "pooler.dense.weight": (16, 16)}
    bones = skeleton(Anatomy.of(tiny_config("bert"), task="classification"), head)
    assert {bones.address(n): tuple(bones.parameters[n].shape) for n in bones.head} == head


def test_a_skeleton_needs_no_transformers():
    code = "import sys, peftcli.base.skeleton; print('transformers' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert found.stdout.strip() == "False"


def test_a_transposed_projection_multiplies_from_the_right():
    layer = TransposedLinear(3, 2, bias=True).to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        layer.bias.copy_(torch.tensor([10.0, 20.0]))
    assert layer(torch.tensor([1.0, 0.0, 1.0])).tolist() == [16.0, 28.0]
