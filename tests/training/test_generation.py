"""What is written is what the network finds likeliest, for a row alone as in any batch."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from tiny import VOCABULARY, tiny_base
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from training.test_processes import on_two_processes
from transformers import PreTrainedTokenizerFast

from peftcli.data.examples import IGNORED, Example, Examples
from peftcli.data.tasks import CausalLm, Seq2Seq
from peftcli.delta.delta import attach
from peftcli.delta.registry import find
from peftcli.recipe.recipe import GenerationSection
from peftcli.training.evaluation import EvaluationSettings, evaluate, write
from peftcli.training.generation import Writer

END = 2
DECODER = CausalLm(column_names={"prompt": "prompt", "completion": "completion"})
ENCODED = Seq2Seq(column_names={"input": "input", "target": "target"})
TASKS = {"gpt2": DECODER, "llama": DECODER, "opt": DECODER, "bloom": DECODER, "t5": ENCODED, "bart": ENCODED}
METHODS = ["lora", "prefix", "prompt", "pre_embed", "houlsby"]
SIZES = {"lora": {"rank": 2}, "prefix": {"prefix_length": 3}, "prompt": {"prompt_length": 3}, "houlsby": {}}
SIZES["pre_embed"] = {"prefix_length": 2}


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": END, **{f"w{number}": number for number in range(3, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>")


def examples_of(task, lengths=(3, 7, 5, 1, 6)) -> Examples:
    draw = torch.Generator().manual_seed(5)
    items = []
    for row, length in enumerate(lengths):
        ids = torch.randint(5, VOCABULARY, (length,), generator=draw).tolist()
        references = (f"w{row + 3}",)
        if task is ENCODED:
            example = Example(
                {"input_ids": ids}, length + 2, row, f"rows:{row}", target=[9, END], references=references
            )
        else:
            labels = [IGNORED] * length + [9, END]
            given = {"input_ids": [*ids, 9, END], "labels": labels}
            example = Example(given, length + 2, row, f"rows:{row}", references=references)
        items.append(example)
    return Examples(items, {})


def adapted(family: str, method: str | None, seed: int = 0):
    """Return a network with numbers in its blocks, and the virtual tokens that they want."""
    task = "seq2seq" if TASKS[family] is ENCODED else "causal-lm"
    base = tiny_base(family, task, seed=seed)
    with torch.no_grad():
        for parameter in base.parameters.values():  # quieter, a network of random numbers soon repeats itself
            parameter.mul_(1.5)
    methods = (find(method)(**SIZES[method]),) if method else ()
    virtual = methods[0].virtual_tokens(base.anatomy) if methods else None
    if methods:
        delta = attach(methods, base, seed=0)
        with torch.no_grad():
            for number, parameter in enumerate(delta.parameters.values()):
                draw = torch.Generator().manual_seed(number)
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    base.network.generation_config.eos_token_id = None
    return base.network, virtual


def settings(words, virtual=None, *, seed=0, accelerator=None, positions=None, **section) -> EvaluationSettings:
    given = GenerationSection(**{"max_new_tokens": 6, "batch_size": 8, **section})
    writer = Writer(section=given, tokenizer=words, positions=positions, seed=seed)
    accelerator = accelerator or Accelerator(cpu=True)
    return EvaluationSettings(batch_size=4, pad=0, accelerator=accelerator, virtual=virtual, writer=writer)


def texts(family, method, words, **keys) -> list[str]:
    network, virtual = adapted(family, method)
    task = TASKS[family]
    return [one["text"] for one in write(network, task, examples_of(task), settings(words, virtual, **keys))]


@torch.no_grad()
def by_argmax(network, task, example, virtual, words, steps: int) -> str:
    """Write one row token by token, without a cache, from what the collator makes of it alone."""
    batch = task.collate([task.prompted(example) if task is DECODER else example], 0, virtual)
    ids = batch["input_ids"]
    said = torch.tensor([[network.config.decoder_start_token_id]]) if task is ENCODED else ids
    written = []
    for _ in range(steps):
        inputs = {"input_ids": ids, "decoder_input_ids": said} if task is ENCODED else {"input_ids": said}
        logits = network(**inputs, use_cache=False).logits[0, -1]
        written.append(int(logits.argmax()))
        if written[-1] == END:
            break
        said = torch.cat([said, torch.tensor([written[-1:]])], 1)
    return words.decode([token for token in written if token > END])


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("family", list(TASKS))
def test_greedy_texts_are_the_likeliest_tokens_step_by_step(family, method, words):
    if family == "bloom" and method == "prefix":
        pytest.skip("bloom attends by a function of its own")
    task = TASKS[family]
    examples = examples_of(task)
    for seed in range(9):  # a network of random numbers may say the same to every prompt: then another one is asked
        network, virtual = adapted(family, method, seed)
        found = [one["text"] for one in write(network, task, examples, settings(words, virtual))]
        assert found == [by_argmax(network, task, example, virtual, words, 6) for example in examples]
        if len(set(found)) > 2:
            return
    pytest.fail("all prompts get one answer")


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}, {"sample": True, "temperature": 2.0, "top_p": 0.9, "top_k": 40}])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_row_alone_is_written_as_in_a_batch(family, way, words):
    whole = texts(family, "prompt", words, **way)
    assert texts(family, "prompt", words, batch_size=1, **way) == whole
    assert texts(family, "prompt", words, batch_size=2, **way) == whole


def test_beams_find_what_is_at_least_as_likely(words):
    def likelihood(text: str, example: Example) -> float:
        said = words.convert_tokens_to_ids([f"w{n}" for n in text.split("w")[1:]])
        inputs = torch.tensor([[*DECODER.prompted(example).ids["input_ids"], *said]])
        scores = network(inputs).logits.log_softmax(-1)[0, -len(said) - 1 : -1]
        return float(scores.gather(1, torch.tensor(said)[:, None]).sum())

    network, _ = adapted("gpt2", None)
    examples = examples_of(DECODER)
    network.generation_config.eos_token_id = None
    ways = [settings(words, max_new_tokens=4, **way) for way in ({}, {"num_beams": VOCABULARY})]
    greedy, beams = ([one["text"] for one in write(network, DECODER, examples, way)] for way in ways)
    with torch.no_grad():
        full = [(g, b, e) for g, b, e in zip(greedy, beams, examples, strict=True) if g.count("w") == b.count("w") == 4]
        assert full
        assert all(likelihood(b, e) >= likelihood(g, e) - 1e-4 for g, b, e in full)


def test_draws_are_those_of_the_seed_and_leave_the_runs_randomness_alone(words):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (texts("llama", None, words, sample=True, temperature=3.0, seed=s) for s in (1, 1, 2))
    assert one == same != other
    torch.manual_seed(4)
    assert texts("llama", None, words, sample=True, temperature=3.0, seed=1) == one
    torch.manual_seed(3)
    network, _ = adapted("llama", None)
    before = torch.get_rng_state()
    write(network, DECODER, examples_of(DECODER), settings(words, sample=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_follow_the_softmax(words):
    from peftcli.training.generation import _Draws

    logits = torch.tensor([0.1, 2.0, -1.0, 0.7]).expand(20_000, -1)
    drawn = _Draws(range(20_000))(torch.empty(0), logits).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.015, rtol=0)


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}, {"sample": True}])
def test_a_text_ends_before_its_stop(way, words):
    whole = texts("llama", None, words, max_new_tokens=8, **way)
    stop = "w" + whole[1].split("w")[4]
    found = texts("llama", None, words, max_new_tokens=8, stop=[stop], **way)
    assert all(stop not in text for text in found)
    if not way.get("num_beams"):  # what a beam may still become decides which is taken
        assert found == [text.split(stop)[0] for text in whole]


def test_what_a_checkpoint_says_of_generation_neither_acts_nor_is_lost(words):
    network, _ = adapted("llama", None)
    plain = write(network, DECODER, examples_of(DECODER), settings(words))
    own = network.generation_config
    own.update(num_beams=4, do_sample=True, temperature=9.0, no_repeat_ngram_size=1, min_new_tokens=6, max_length=9)
    assert write(network, DECODER, examples_of(DECODER), settings(words)) == plain
    assert network.generation_config is own


def test_the_checkpoints_own_ends_count_as_well(words):
    network, _ = adapted("llama", None)
    first = write(network, DECODER, examples_of(DECODER), settings(words))[0]["text"]
    network.generation_config.eos_token_id = [int(first.split("w")[2])]
    assert write(network, DECODER, examples_of(DECODER), settings(words))[0]["text"] == "w" + first.split("w")[1]


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_no_text_outgrows_the_positions(family, words):
    network, _ = adapted(family, None)
    wide = settings(words, positions=40, max_new_tokens=100)
    found = write(network, TASKS[family], examples_of(TASKS[family], (20, 18)), wide)
    assert all(one["text"].count("w") <= 39 for one in found)


def test_training_goes_on_as_it_was(words):
    network, _ = adapted("llama", "lora")
    network.train()
    network.config.use_cache = False
    first, second = (write(network, DECODER, examples_of(DECODER), settings(words)) for _ in range(2))
    assert first == second
    assert all(module.training for module in network.modules())
    assert network.config.use_cache is False


def test_metrics_of_texts_stand_beside_the_loss(words):
    network, _ = adapted("llama", None)
    examples = examples_of(DECODER)
    right = write(network, DECODER, examples, settings(words))[0]["text"]
    items = [replace(examples[0], references=("w9", f" {right}")), *examples.items[1:]]
    scores, outcomes = evaluate(
        network, DECODER, Examples(items, {}), settings(words), ["loss", "exact_match", "rougeL"]
    )
    assert scores["exact_match"] == 0.2
    assert 0.2 <= scores["rougeL"] < 1
    assert scores["n"] == 5
    assert outcomes[0]["text"] == right
    plain, quick = evaluate(network, DECODER, examples, settings(words))
    assert plain["loss"] == scores["loss"]
    assert "text" not in quick[0]


def test_two_processes_write_what_one_does(words, tmp_path):
    way = {"batch_size": 2, "sample": True, "temperature": 2.0}

    def work(accelerator):
        network, _ = adapted("llama", None)
        return write(network, DECODER, examples_of(DECODER), settings(words, accelerator=accelerator, **way))

    first, second = on_two_processes(tmp_path, work)
    network, _ = adapted("llama", None)
    alone = write(network, DECODER, examples_of(DECODER), settings(words, **way))
    assert first == second == json.loads(json.dumps(alone))
