"""Where rows come from beside plain files: folders of the datasets library, its cache, and names of public sets."""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import datasets
import pyarrow
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from peftcli.data.datasets import load_data
from peftcli.data.known import KNOWN, completed
from peftcli.data.rows import RowStream, read_rows
from peftcli.delta.registry import read_methods, settings_of
from peftcli.errors import DataError, RecipeError
from peftcli.metrics.registry import NAMES
from peftcli.recipe.read import read_recipe
from peftcli.recipe.recipe import DataSection, Recipe

COLUMNS = {"sentence": ["a fine film", "a bore", "quite fine"], "label": [1, 0, 1], "idx": [0, 1, 2]}
FEATURES = Features(
    {"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"]), "idx": Value("int32")}
)
NAMED = [
    {"sentence": text, "label": ("negative", "positive")[label], "idx": n}
    for text, label, n in zip(*COLUMNS.values(), strict=True)
]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def rows() -> Dataset:
    datasets.disable_progress_bars()
    return Dataset.from_dict(COLUMNS, features=FEATURES)


@pytest.fixture
def cache(rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache of the datasets library that holds two splits of nyu-mll/glue's sst2, with no hub to ask."""
    folder = tmp_path / "cache"
    entry = folder / "nyu-mll___glue" / "sst2" / "0.0.0" / COMMIT
    entry.mkdir(parents=True)
    saved = {}
    for split in ("train", "validation"):
        table = rows.data.table
        with pyarrow.ipc.new_stream(entry / f"glue-{split}.arrow", table.schema) as out:
            out.write_table(table)
        saved[split] = {"name": split, "num_bytes": 100, "num_examples": 3, "dataset_name": "glue"}
    info = {"builder_name": "parquet", "dataset_name": "glue", "config_name": "sst2", "splits": saved}
    info |= {"features": FEATURES.to_dict(), "version": {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0}}
    (entry / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def values(table) -> list[dict]:
    return [row.values for row in table.rows]


def test_a_folder_that_the_datasets_library_saved_is_read_with_the_names_of_its_labels(rows: Dataset, tmp_path: Path):
    rows.save_to_disk(tmp_path / "saved", num_shards=2)
    table = read_rows(str(tmp_path / "saved"))
    assert values(table) == NAMED
    assert [Path(file.path).name for file in table.files] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert list(RowStream(str(tmp_path / "saved")).rows()) == table.rows


def test_a_folder_with_splits_gives_the_one_that_is_asked_for(rows: Dataset, tmp_path: Path):
    folder = tmp_path / "saved"
    DatasetDict(train=rows, validation=rows.select([2])).save_to_disk(folder)
    names = {"text": "sentence", "label": "label"}
    section = DataSection(task="classification", train=str(folder), validation=str(folder), columns=names)
    found = load_data(section, seed=0)
    assert (len(found.train), values(found.validation)) == (3, NAMED[2:])
    with pytest.raises(DataError, match=r"no split called 'test'\n.*It has train, validation"):
        read_rows(str(folder), "test")


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ({"_data_files": [{"filename": "../other.arrow"}]}, "not beside it"),
        ({"_data_files": [{"filename": "missing.arrow"}]}, "not beside it"),
        ({"_data_files": [7]}, "not beside it"),
        ({"_data_files": []}, "names no file"),
        ({}, "no list '_data_files'"),
        ([], "no list '_data_files'"),
    ],
)
def test_a_damaged_saved_folder_is_refused(rows: Dataset, tmp_path: Path, state, what: str):
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=what):
        read_rows(str(tmp_path / "saved"))


@pytest.mark.parametrize("new", [pyarrow.ipc.new_stream, pyarrow.ipc.new_file])
def test_arrow_files_of_both_kinds_are_read(tmp_path: Path, new: Callable):
    table = pyarrow.Table.from_pylist([{"a": n, "b": f"{n}"} for n in range(10)])
    with new(tmp_path / "rows.arrow", table.schema) as out:
        out.write_table(table, max_chunksize=3)
    found = read_rows(str(tmp_path / "rows.arrow"))
    assert values(found) == table.to_pylist()
    assert found.rows[9].where.endswith("rows.arrow:row 10")


@pytest.mark.parametrize("name", ["glue/sst2", "nyu-mll/glue:sst2", "nyu-mll/glue:sst2#train"])
def test_a_data_set_of_a_hub_is_read_from_the_cache(cache: Path, name: str):
    table = read_rows(name)
    assert values(table) == NAMED
    assert table.rows[1].where == "nyu-mll/glue:sst2#train:row 2"
    assert table.files[0].path == f"nyu-mll/glue:sst2#train @ {COMMIT[:7]}"
    assert len(read_rows(name, "validation")) == 3


def test_a_data_set_of_a_hub_is_streamed_from_the_cache(cache: Path):
    assert [row.values for row in RowStream("glue/sst2", "validation").rows(skip=1)] == NAMED[1:]


@pytest.mark.parametrize(
    ("name", "split", "what"),
    [
        ("nyu-mll/glue:rte", "train", r"nyu-mll/glue.*\n  hint: "),
        ("glue/sst2#dev", "train", "'dev'|dev"),
        (
            "no-such/set",
            "train",
            r"no such file, and no data set no-such/set in .*HF_HUB_OFFLINE forbids to ask\n.*Run it once",
        ),
    ],
)
def test_what_the_cache_does_not_have_is_told_in_one_message(cache: Path, name: str, split: str, what: str):
    with pytest.raises(DataError, match=what) as error:
        read_rows(name, split)
    assert len(error.value.problems) == 1
    assert error.value.problems[0].where == name


def test_a_path_that_exists_wins_over_a_name(
    cache: Path, rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    rows.select([0]).save_to_disk(tmp_path / "glue" / "sst2")
    assert values(read_rows("glue/sst2")) == NAMED[:1]


def recipe_of(folder: Path, text: str) -> Recipe:
    file = folder / "r.yaml"
    file.write_text(f"base: {{name: demo:minilm}}\nmethod: {{name: lora}}\ndata: {text}\n")
    return read_recipe(file, [], read_methods, settings_of)


def test_names_stay_and_paths_are_made_absolute(tmp_path: Path):
    (tmp_path / "here" / "folder").mkdir(parents=True)
    names = ["glue/sst2", "org/name:config#dev", "squad", "here/folder", "data/rows.jsonl", "rows.csv.gz", "./org/name"]
    read = recipe_of(tmp_path, json.dumps({"task": "classification", "train": names})).data.train
    kept = ["glue/sst2", "org/name:config#dev", "squad"]
    assert read == [*kept, *(str(tmp_path / n) for n in ("here/folder", "data/rows.jsonl", "rows.csv.gz", "org/name"))]


def test_what_is_known_of_a_data_set_is_filled_in_where_the_recipe_says_nothing(tmp_path: Path):
    plain = completed(recipe_of(tmp_path, "{task: classification, train: glue/cola}"))
    assert plain.data.columns == {"text": "sentence", "label": "label"}
    assert plain.data.labels == ["unacceptable", "acceptable"]
    assert (plain.evaluation.metrics, plain.evaluation.select) == (["matthews", "accuracy", "loss"], "matthews")
    own = completed(recipe_of(tmp_path, "{task: classification, train: glue/cola, labels: [b, a]}"))
    assert own.data.labels == ["b", "a"]
    assert completed(plain) == plain
    other = recipe_of(tmp_path, "{task: causal-lm, train: glue/cola}")
    assert completed(other) == other


def test_every_known_data_set_is_told_in_words_that_its_task_knows():
    from peftcli.data.tasks import _TASKS

    for name, known in KNOWN.items():
        assert re.fullmatch(r"[\w-]+/[\w-]+", known.hub), name
        task = _TASKS[known.task]
        assert set(known.metrics) <= {*task.metric_names, *task.more_metrics}, name
        if known.labels:
            assert "labels" in {field.name for field in fields(task)}
    assert {"accuracy", "matthews", "f1"} <= set(NAMES["classes"])


def shots(section: Callable[..., DataSection], rows: list[dict], count: int, seed: int = 0) -> list[str]:
    return [row.where for row in load_data(section("classification", rows, shots=count), seed).train.rows]


def test_shots_are_as_many_of_each_class_drawn_with_the_seed(section):
    rows = [{"text": f"text {n}", "label": "aab"[n % 3]} for n in range(60)]
    found = load_data(section("classification", rows, shots=4, validation=rows[:6]), seed=1)
    assert found.summary["labels"] == {"train": {"a": 4, "b": 4}, "validation": {"a": 4, "b": 2}}
    assert shots(section, rows, 4, 1) == shots(section, rows, 4, 1) != shots(section, rows, 4, 2)
    places = [int(place.rpartition(":")[2]) for place in shots(section, rows, 4)]
    assert places == sorted(places)


def test_a_class_with_fewer_rows_than_shots_is_named(section):
    rows = [{"text": f"text {n}", "label": "a" if n else "rare"} for n in range(9)]
    with pytest.raises(DataError, match=r"data\.shots is 2, but fewer training rows have the label 'rare' \(1\)"):
        shots(section, rows, 2)


def test_rows_without_classes_have_no_shots(section):
    with pytest.raises(RecipeError, match=r"data\.shots means nothing for causal-lm"):
        load_data(section("causal-lm", [{"prompt": "a", "completion": "b"}], shots=1), seed=0)
