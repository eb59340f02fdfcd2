"""Which of the last hidden states a head reads, in every family whose texts have one row of them."""

import copy
from pathlib import Path

import pytest
import torch
from tiny import CLASSIFIERS, DECODERS, ENCODER_DECODERS, save_tiny, tiny_batch, tiny_config, tiny_network

from peftcli.base.anatomy import Anatomy
from peftcli.base.loading import load_base
from peftcli.base.pooling import pooled
from peftcli.base.source import find_source
from peftcli.errors import MethodError

ONE_ROW = [family for family in CLASSIFIERS if family not in ENCODER_DECODERS]
CLASS = "AutoModelForSequenceClassification"


def load(folder: Path, pooling: str):
    settings = {"num_labels": 3, "pad_token_id": 0}
    return load_base(
        find_source(str(folder)),
        task_class=CLASS,
        settings=settings,
        dtype="auto",
        new_head=True,
        seed=0,
        pooling=pooling,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save_tiny(tmp_path_factory.mktemp(family), family, "classification")
        return made[family]

    return folder


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("family", ONE_ROW)
def test_a_head_reads_the_pooled_state_of_the_row_without_its_padding(folders, family, pooling):
    network = load(folders(family), pooling).network.eval()
    batch = tiny_batch(family)
    found = network(**batch).logits
    for row, mask in enumerate(batch["attention_mask"]):
        alone = network(input_ids=batch["input_ids"][row, : int(mask.sum())][None]).logits[0]
        torch.testing.assert_close(found[row], alone, rtol=1e-4, atol=1e-5)
    wanted = {"first": 0, "last": -1}
    own = load(folders(family), "base").network.eval()(**batch).logits
    same = wanted.get(pooling) == (-1 if family in DECODERS else 0)
    assert torch.allclose(found, own, rtol=1e-4, atol=1e-5) == same


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
def test_the_mean_is_that_of_the_hidden_states(folders, family):
    base = load(folders(family), "mean")
    plain = load(folders(family), "base")
    batch = tiny_batch(family)
    hidden = plain.network.get_submodule(plain.prefix)(**batch).last_hidden_state
    mean = torch.stack([h[m.bool()].mean(0) for h, m in zip(hidden, batch["attention_mask"], strict=True)])
    network = plain.network
    expected = {
        "bert": lambda: network.classifier(network.bert.pooler(mean[:, None])),
        "roberta": lambda: network.classifier(mean[:, None]),
        "llama": lambda: network.score(mean),
    }[family]()
    torch.testing.assert_close(base.network(**batch).logits, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("family", ["vit", "deit", "clip_vision_model", "bert", "llama"])
def test_a_bare_network_shows_the_pooled_state(tmp_path, family, pooling):
    found = find_source(str(save_tiny(tmp_path, family)))
    options = {"task_class": "AutoModel", "settings": {}, "dtype": "auto", "new_head": False, "seed": 0}
    batch = tiny_batch(family)
    mask = batch.get("attention_mask")
    plain = load_base(found, **options).network.eval()(**batch).last_hidden_state
    shown = load_base(found, **options, pooling=pooling).network.eval()(**batch).last_hidden_state
    for row, (states, own) in enumerate(zip(plain, shown, strict=True)):
        real = states if mask is None else states[mask[row].bool()]
        wanted = {"mean": real.mean(0), "first": real[0], "last": real[-1]}[pooling]
        torch.testing.assert_close(own, wanted.expand_as(own), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_token(folders):
    base = load(folders("bert"), "mean")
    embeddings = base.network.get_input_embeddings().weight.requires_grad_()
    batch = tiny_batch("bert")
    base.network(**batch).logits.sum().backward()
    assert (embeddings.grad[batch["input_ids"][0]].abs().sum(-1) > 0).all()


def test_a_copy_of_the_network_pools_as_well(folders):
    network, batch = load(folders("bert"), "mean").network.eval(), tiny_batch("bert")
    assert torch.equal(copy.deepcopy(network)(**batch).logits, network(**batch).logits)


def test_narrow_numbers_are_averaged_in_wide_ones():
    hidden = torch.full((1, 4096, 1), 1.0078125, dtype=torch.bfloat16)
    assert pooled(hidden, None, "mean").item() == hidden[0, 0].item()
    assert pooled(hidden, None, "mean").dtype == torch.bfloat16


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_an_encoder_decoder_has_no_one_row(folders, family):
    assert Anatomy.of(tiny_config(family)).arch == "encoder-decoder"
    with pytest.raises(MethodError, match="encoder and in its decoder"):
        load(folders(family), "mean")
    assert tiny_network(family, "classification") is not None  # without pooling it is a classifier like others
