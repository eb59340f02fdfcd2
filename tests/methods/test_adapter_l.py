"""Lin's adapter against its formula on the output of a layer of every family."""

from __future__ import annotations

import pytest
import torch
from methods.streams import base_of, block_at, bottleneck, first_layer, randomised
from tiny import FAMILIES
from torch.nn import functional as F

from peftcli.methods.adapter_l import AdapterL


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("clip", "clip_vision_model")])
@torch.no_grad()
def test_it_adds_to_the_output_of_a_layer_behind_a_norm_of_its_own(family):
    delta = randomised(AdapterL(bottleneck=3, layers=0), family)
    block = block_at(delta, "layers.0.ffn")
    x = first_layer(base_of(family), family)
    norm = block.bottleneck.norm
    expected = x + bottleneck(block, F.layer_norm(x, (16,), norm.gain, norm.shift, 1e-5))
    torch.testing.assert_close(first_layer(delta.base, family), expected, rtol=1e-5, atol=1e-5)
