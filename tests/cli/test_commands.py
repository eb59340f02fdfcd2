import json
import time

import pytest

from peftcli.cli.program import run

GPT3 = {"model_type": "gpt2", "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048, "vocab_size": 50257}


@pytest.fixture
def gpt3(tmp_path):
    folder = tmp_path / "gpt3"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GPT3))
    return folder / "config.json"


def printed(capsys):
    return json.loads(capsys.readouterr().out)


def test_init_writes_a_recipe_that_check_accepts(capsys):
    assert run(["init", "first.yaml"]) == 0
    assert run(["check", "first.yaml"]) == 0
    written = capsys.readouterr()
    assert written.out.startswith("first.yaml\nfirst.yaml: no mistake found")
    assert written.err.splitlines()[-1] == "next: peft train first.yaml"


def test_init_never_overwrites_unasked(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("mine")
    assert run(["init"]) == 2
    assert (tmp_path / "recipe.yaml").read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert run(["init", "--overwrite"]) == 0


def test_init_names_a_folder_that_is_not_there(capsys):
    assert run(["init", "no/such/recipe.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: no/such: no such folder")


def test_check_shows_every_mistake_with_its_line(capsys):
    run(["init"])
    capsys.readouterr()
    assert run(["check", "recipe.yaml", "method.rnak=4", "training.batch_size=0"]) == 2
    said = capsys.readouterr().err
    assert said.count("error: command line: ") == 2
    assert "'rank'" in said


def test_check_prints_json(capsys):
    run(["init"])
    capsys.readouterr()
    assert run(["check", "recipe.yaml", "--json"]) == 0
    assert printed(capsys)["name"] == "recipe"


def test_the_schema_names_every_method(capsys):
    assert run(["schema"]) == 0
    schema = capsys.readouterr().out
    run(["methods", "--json"])
    assert all(f'"{method["name"]}"' in schema for method in printed(capsys))


def test_a_method_is_explained_with_all_its_settings(capsys):
    from peftcli.delta.registry import find

    assert run(["methods", "lora"]) == 0
    out = capsys.readouterr().out
    assert "(alpha / rank) B A" in out
    assert all(f"\n{setting} " in out for setting in find("lora").model_fields)


def test_methods_prints_json_of_one_and_of_all(capsys):
    run(["methods", "lora", "--json"])
    one = printed(capsys)
    run(["methods", "--json"])
    assert one in printed(capsys)
    assert {"name", "title", "family", "paper", "mergeable", "settings", "learning_rate"} <= one.keys()


@pytest.mark.parametrize(("rank", "published"), [(1, 4_718_592), (8, 37_748_736)])
def test_lora_on_gpt3_is_what_its_paper_says(rank, published, gpt3, capsys):
    begun = time.process_time()
    assert run(["params", str(gpt3), "--method", "lora", f"method.rank={rank}", "--json"]) == 0
    assert time.process_time() - begun < 0.5
    counted = printed(capsys)
    assert counted["delta"] == published
    assert {"base", "delta", "head", "fraction", "fraction_of_all", "method"} <= counted.keys()
    assert counted["fraction"] == pytest.approx(published / counted["base"])


def test_a_single_count_shows_its_sites_and_layers(gpt3, capsys):
    assert run(["params", str(gpt3), "--method", "lora", "method.rank=1"]) == 0
    out = capsys.readouterr().out
    assert "4,718,592" in out
    assert "W_q" in out


def test_params_of_every_method_is_a_list(gpt3, capsys):
    assert run(["params", str(gpt3), "--method", "all", "--json"]) == 0
    assert len(printed(capsys)) > 5
    assert run(["params", str(gpt3), "--method", "all"]) == 0
    assert "bitfit" in capsys.readouterr().out


def test_params_of_a_recipe_suggests_to_train_it(capsys):
    run(["init"])
    capsys.readouterr()
    assert run(["params", "recipe.yaml", "method.rank=4"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "next: peft train recipe.yaml method.rank=4"


def test_resume_and_overwrite_exclude_each_other(capsys):
    assert run(["train", "recipe.yaml", "--resume", "--overwrite"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_recipe_with_a_mistake_starts_no_processes(capsys):
    run(["init"])
    capsys.readouterr()
    begun = time.monotonic()
    assert run(["train", "recipe.yaml", "method.rnak=4", "--nproc", "2"]) == 2
    assert time.monotonic() - begun < 2
    assert "rnak" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["eval", "nowhere"], ["merge", "nowhere", "--out", "m"], ["verify", "nowhere"]])
def test_a_target_that_is_not_there_is_an_artifact_error(command, capsys):
    assert run(command) == 5
    assert "nowhere" in capsys.readouterr().err


def test_comparing_what_is_no_run_names_it(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(["compare", "empty"]) == 5
    assert "empty" in capsys.readouterr().err


def test_markdown_and_json_exclude_each_other(capsys):
    assert run(["compare", "x", "--json", "--markdown"]) == 2
    assert "exclude each other" in capsys.readouterr().err
