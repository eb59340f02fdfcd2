"""The likelihood of continuations, beside the bare network's own logits."""

import torch
from tiny import tiny_base

from peftcli.data.tasks.likelihood import AT_ONCE, likelihoods

PAIRS = [([7, 8, 9], [10, 11]), ([5], [6]), ([7, 8, 9, 12, 13], [10, 11, 14])]


@torch.no_grad()
def alone(network, prompt, continuation) -> float:
    logits = network(torch.tensor([[*prompt, *continuation]])).logits[0].log_softmax(-1)
    return sum(float(logits[len(prompt) + n - 1, token]) for n, token in enumerate(continuation))


@torch.no_grad()
def test_pairs_of_unequal_lengths_have_the_likelihoods_they_have_alone():
    network = tiny_base("llama", "causal-lm").network.eval()
    found, lengths = likelihoods(network, PAIRS, pad=0)
    torch.testing.assert_close(found, torch.tensor([alone(network, *pair) for pair in PAIRS]), rtol=1e-4, atol=1e-4)
    assert lengths.tolist() == [2, 1, 3]


@torch.no_grad()
def test_more_pairs_than_go_through_at_once_keep_their_order():
    network = tiny_base("gpt2", "causal-lm").network.eval()
    pairs = [([5 + n % 7, 6], [7 + n % 5] * (1 + n % 3)) for n in range(AT_ONCE + 3)]
    found, _ = likelihoods(network, pairs, pad=0)
    expected = torch.tensor([alone(network, *pair) for pair in pairs])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
