"""The loss of labelled tokens alone is the loss of the plain computation."""

import pytest
import torch
from tiny import DECODERS, tiny_network
from torch.nn import functional

from peftcli.data.examples import Example
from peftcli.data.tasks import CausalLm
from peftcli.data.tasks.labelled_logits import labelled_logits

CAUSAL = CausalLm(column_names={"completion": "completion"})


def batch(lengths=(9, 5, 7), prompts=(3, 1, 6)):
    generator = torch.Generator().manual_seed(0)
    examples = []
    for length, prompt in zip(lengths, prompts, strict=True):
        ids = torch.randint(3, 60, (length,), generator=generator).tolist()
        examples.append(Example({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]}, length, 0, "a:1"))
    return CAUSAL.collate(examples, 0, None)


def plain_loss(network, inputs):
    ids, labels, mask = (inputs[key] for key in ("input_ids", "labels", "attention_mask"))
    logits = network(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("family", DECODERS)
def test_loss_and_gradients_are_those_of_all_logits(family):
    network, inputs = tiny_network(family, "causal-lm"), batch()
    expected, loss = plain_loss(network, inputs), CAUSAL.loss(network, inputs)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients(network, loss), gradients(network, expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", DECODERS)
def test_outcomes_are_the_loss_of_each_row(family):
    network = tiny_network(family, "causal-lm")
    outcomes = CAUSAL.outcomes(network, batch())
    assert [o["tokens"] for o in outcomes] == [6, 4, 1]
    alone = [plain_loss(network, batch((9, 5, 7)[: n + 1], (3, 1, 6)[: n + 1])).item() for n in range(3)]
    expected = [alone[0], alone[1] - alone[0], alone[2] - alone[1]]
    assert [o["loss"] for o in outcomes] == pytest.approx(expected, abs=1e-4)


class Wrapper(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self, **inputs):
        self.calls += 1
        return self.module(**inputs)


def test_a_wrapped_network_is_called_through_its_wrapper():
    network, inputs = tiny_network("llama", "causal-lm"), batch()
    wrapper = Wrapper(network)
    assert torch.equal(CAUSAL.loss(wrapper, inputs), CAUSAL.loss(network, inputs))
    assert wrapper.calls == 1


def test_a_network_that_does_not_show_its_head_gives_all_logits(monkeypatch):
    network, inputs = tiny_network("gpt2", "causal-lm"), batch()
    expected = CAUSAL.loss(network, inputs)
    monkeypatch.setattr(network, "get_output_embeddings", lambda: None)
    torch.testing.assert_close(CAUSAL.loss(network, inputs), expected, rtol=1e-6, atol=1e-6)


def test_the_head_sees_labelled_positions_only():
    network, inputs = tiny_network("llama", "causal-lm"), batch()
    seen = []
    handle = network.get_output_embeddings().register_forward_hook(lambda _m, _a, output: seen.append(output.shape))
    CAUSAL.loss(network, inputs)
    handle.remove()
    assert seen == [(1, len(inputs["positions"]), network.config.vocab_size)]


def test_the_hook_is_removed_even_when_the_network_fails():
    network, inputs = tiny_network("llama", "causal-lm"), batch()
    with pytest.raises(ValueError, match="exactly one of input_ids"):
        labelled_logits(network, {"input_ids": None}, inputs["positions"])
    assert not network.get_output_embeddings()._forward_pre_hooks
