import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, ClassVar

import pytest

from peftcli.errors import RecipeError
from peftcli.recipe.read import read_recipe
from peftcli.recipe.settings import IsPath, Settings
from peftcli.recipe.stack import read_stack

GOOD = "base: {name: demo:minilm}\ndata: {task: classification, train: demo:intents}\nmethod: {name: lora}\n"


def written(folder: Path, text: str = GOOD, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "number"),
    [("5e-4", 5e-4), ("1E-3", 1e-3), ("1e4", 1e4), (".5", 0.5), ("2.", 2.0), ("+1", 1.0), ("0x10", 16.0), ("3", 3.0)],
)
def test_numbers_are_those_of_yaml_1_2(read, text, number):
    epochs = read(GOOD + f"training: {{epochs: {text}}}").training.epochs
    assert epochs == number
    assert isinstance(epochs, float)


@pytest.mark.parametrize(
    "text", ["no", "yes", "on", "off", "n", "2024-01-01", "1_000", "1:2:3a", "0b1", "<<", "=", "NaN"]
)
def test_text_stays_text(read, text):
    recipe = read(
        f"base: {{name: x}}\ndata: {{task: classification, train: x, labels: [{text}, b]}}\nmethod: {{name: lora}}"
    )
    assert recipe.data.labels == [text, "b"]


def test_sections_that_are_left_out_have_defaults(read):
    recipe = read(GOOD)
    assert (recipe.version, recipe.seed, recipe.name) == (1, 0, "r")
    assert recipe.training.batch_size == 32
    assert recipe.evaluation.every == "epoch"
    assert recipe.method[0].target_modules == ("W_q", "W_v")


def test_a_list_of_methods_is_a_stack(read):
    stack = "method:\n- {name: lora, target_modules: [W_o], layers: [0, 5]}\n- {name: ladder, steps: [{width: 3}]}\n"
    lora, ladder = read(GOOD.replace("method: {name: lora}\n", stack)).method
    assert lora.target_modules == ("W_o",)
    assert lora.layers == [0, 5]
    assert ladder.steps[0].width == 3


@pytest.mark.parametrize("change", [lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\n", b"\r\n")])
def test_a_byte_order_mark_and_windows_line_ends_are_accepted(read, change):
    assert read(change(GOOD.encode())) == read(GOOD)


def test_comments_may_hold_any_letter(read):
    assert read("# \u202e זה \u200b 👩\u200d🔬\n" + GOOD) == read(GOOD)


def test_paths_are_relative_to_the_folder_of_the_recipe(tmp_path, methods, monkeypatch):
    (tmp_path / "model").mkdir()
    text = """
base: {name: model}
data: {task: classification, train: [a b.jsonl, "../c/*.csv", /d.tsv], validation: ~/e.csv, test: ß.csv}
method: {name: lora}
evaluation: {metrics: [accuracy, mine/metric.py]}
"""
    path = written(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    recipe = read_recipe(Path(path.name), (), methods)
    assert recipe.base.name == str(tmp_path / "model")
    assert recipe.data.train == [f"{tmp_path}/a b.jsonl", f"{tmp_path}/../c/*.csv", "/d.tsv"]
    assert recipe.data.validation == "/home/ada/e.csv"
    assert recipe.data.test == f"{tmp_path}/ß.csv"
    assert recipe.evaluation.metrics == ["accuracy", f"{tmp_path}/mine/metric.py"]


def test_hub_ids_demos_and_shares_are_no_paths(read):
    recipe = read(GOOD.replace("demo:minilm", "org/name").replace("demo:intents", "demo:intents, validation: 10%"))
    assert recipe.base.name == "org/name"
    assert recipe.data.train == "demo:intents"
    assert recipe.data.validation == "10%"


def test_a_dot_before_a_base_says_that_it_is_a_directory(tmp_path, methods):
    recipe = read_recipe(written(tmp_path, GOOD.replace("demo:minilm", "./org/name")), (), methods)
    assert recipe.base.name == str(tmp_path / "org/name")


def test_a_method_marks_those_of_its_settings_that_hold_paths(tmp_path, monkeypatch):
    class Mixture(Settings):
        name: ClassVar[str] = "mixture"
        size_setting: ClassVar[str | None] = None
        runs: Annotated[tuple[str, ...], IsPath()] = ()
        label: str = ""

    def methods(value):
        return read_stack(value, ["mixture"], {"mixture": Mixture}.__getitem__)

    def find(part):
        return Mixture if part == {**part, "name": "mixture"} else None

    monkeypatch.setenv("PEFTCLI_RUNS", "/kept")
    monkeypatch.chdir("/")
    mixture = "{name: mixture, runs: [../a, '${env:PEFTCLI_RUNS}/b'], label: c/d}"
    one = written(tmp_path, GOOD.replace("{name: lora}", mixture))
    assert read_recipe(one, (), methods, find).method[0].runs == (f"{tmp_path}/../a", "/kept/b")
    assert read_recipe(one, ["method.runs=[e, f]"], methods, find).method[0].runs == ("/e", "/f")
    stack = read_recipe(written(tmp_path, GOOD.replace("{name: lora}", f"[{mixture}, {mixture}]")), (), methods, find)
    assert [m.runs for m in stack.method] == 2 * [(f"{tmp_path}/../a", "/kept/b")]
    assert stack.method[1].label == "c/d"


def test_variables_are_filled_in_where_they_are_the_value_or_in_a_path(read, monkeypatch):
    monkeypatch.setenv("PEFTCLI_SEED", "17")
    monkeypatch.setenv("PEFTCLI_DATA", "/corpora")
    recipe = read(GOOD.replace("demo:intents", '"${env:PEFTCLI_DATA}/a.csv"') + "seed: ${env:PEFTCLI_SEED}\n")
    assert recipe.seed == 17
    assert recipe.data.train == "/corpora/a.csv"


def test_a_quoted_variable_is_text(read, monkeypatch):
    monkeypatch.setenv("PEFTCLI_SEED", "17")
    with pytest.raises(RecipeError, match="seed is '17', but must be a whole number"):
        read(GOOD + "seed: '${env:PEFTCLI_SEED}'\n")


def test_a_dollar_alone_is_text(read):
    assert read(GOOD.replace("demo:intents", "/$HOME/${x}.csv".join("''"))).data.train == "/$HOME/${x}.csv"


@pytest.mark.parametrize(
    ("file", "name"), [("my run (2).yaml", "my-run-2-"), ("_x.yml", "x"), ("...yaml", "recipe"), ("a.b.yaml", "a.b")]
)
def test_a_run_is_named_after_the_file(tmp_path, methods, file, name):
    assert read_recipe(written(tmp_path, name=file), (), methods).name == name


def test_a_recipe_that_is_missing_or_no_file_is_refused(tmp_path, methods):
    written(tmp_path, name="lora.yaml")
    os.mkfifo(tmp_path / "pipe")
    for path, fragment in [
        (tmp_path / "lroa.yaml", "There: lora.yaml."),
        (tmp_path, "is a directory"),
        (tmp_path / "pipe", "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path / ("x" * 300), "cannot be read: file name too long"),
        (tmp_path / "a\0b", "is not a path"),
        (tmp_path / "lora.yaml" / "x", "cannot be read: not a directory"),
    ]:
        with pytest.raises(RecipeError) as caught:
            read_recipe(path, (), methods)
        assert fragment in str(caught.value)


def test_settings_of_the_method_are_read_by_whoever_knows_them(read):
    recipe = read(GOOD)
    assert read(GOOD, "method.rank=3").method[0] != recipe.method[0]


def test_reading_a_recipe_does_not_import_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from peftcli.recipe.read import read_recipe;"
        f"read_recipe(Path({str(written(tmp_path))!r}), (), lambda value: ());"
        "assert not {'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_read_recipes_without_disturbing_each_other(tmp_path, methods):
    paths = [written(tmp_path, GOOD + f"seed: {n}\n", f"{n}.yaml") for n in range(8)]
    seeds: dict[int, int] = {}
    threads = [
        threading.Thread(target=lambda n=n, p=p: seeds.update({n: read_recipe(p, (), methods).seed}))
        for n, p in enumerate(paths)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seeds == {n: n for n in range(8)}
