"""Splits: checked, divided, limited, summed up."""

import pytest

from peftcli.data.datasets import load_data
from peftcli.errors import DataError, RecipeError
from peftcli.recipe.recipe import DataSection


def rows(count, labels=3, start=0):
    return [{"text": f"text {n}", "label": f"l{n % labels}"} for n in range(start, start + count)]


def texts(table):
    return [row.values["text"] for row in table.rows]


def test_splits_are_read_and_summed_up(section):
    validation = [{"text": " TEXT  1 ", "label": "l1"}, {"text": "new", "label": "l0", "note": ""}]
    splits = load_data(section("classification", [*rows(6), rows(1)[0]], validation=validation), seed=0)
    assert splits.summary["rows"] == {"train": 7, "validation": 2}
    assert splits.summary["labels"]["train"] == {"l0": 3, "l1": 2, "l2": 2}
    assert splits.summary["duplicates"] == {"train": 1, "validation": 0}
    assert splits.summary["overlap"] == {"validation": 1}
    assert splits.summary["empty_cells"] == {"train": {}, "validation": {"note": 1}}
    assert splits.summary["files"]["train"][0]["rows"] == 7
    assert splits.test is None


def test_the_demo_is_ready():
    splits = load_data(DataSection(task="classification", train="demo:intents", validation="demo:intents"), seed=0)
    assert splits.summary["overlap"] == {"validation": 0}


def test_an_unknown_demo_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match=r"no demo data is called 'intent'\n.*Did you mean 'intents'"):
        load_data(DataSection(task="classification", train="demo:intent"), seed=0)


def test_a_demo_without_the_split_is_refused():
    with pytest.raises(DataError, match="demo:intents has no test rows"):
        load_data(DataSection(task="classification", train="demo:intents", test="demo:intents"), seed=0)


def test_a_share_has_as_much_of_each_label_and_keeps_the_order(section):
    splits = load_data(section("classification", rows(60), validation="20%"), seed=3)
    assert splits.summary["labels"]["validation"] == {"l0": 4, "l1": 4, "l2": 4}
    assert sorted(texts(splits.train) + texts(splits.validation)) == sorted(texts_of(rows(60)))
    for table in (splits.train, splits.validation):
        assert texts(table) == sorted(texts(table), key=lambda text: int(text.split()[1]))


def texts_of(some):
    return [row["text"] for row in some]


def test_a_share_is_a_function_of_the_seed(section):
    recipe = section("classification", rows(60), validation="20%")
    assert texts(load_data(recipe, 1).validation) == texts(load_data(recipe, 1).validation)
    assert texts(load_data(recipe, 1).validation) != texts(load_data(recipe, 2).validation)


def test_repeated_rows_stay_on_one_side_of_a_share(section):
    splits = load_data(section("classification", rows(20) * 3, validation="30%", forbid_overlap=True), seed=0)
    assert splits.summary["overlap"] == {"validation": 0}
    assert len(splits.validation) == pytest.approx(18, abs=3)


def test_a_share_leaves_a_row_of_every_label_to_train_on(section):
    rare = [*rows(40, labels=1), {"text": "only one", "label": "rare"}]
    splits = load_data(section("classification", rare, validation="50%"), seed=0)
    assert "rare" in splits.summary["labels"]["train"]


@pytest.mark.parametrize("share", ["0%", "100%", "250 %"])
def test_a_share_of_nothing_or_all_is_refused(share, section):
    with pytest.raises(DataError, match=r"data\.validation is"):
        load_data(section("classification", rows(9), validation=share), seed=0)


def test_a_share_that_is_no_row_is_refused(section):
    with pytest.raises(DataError, match="leaves no row to validate on"):
        load_data(section("classification", rows(9), validation="1%"), seed=0)


def test_limits_draw_with_the_seed_and_keep_the_order(section):
    recipe = section("classification", rows(50), validation=rows(20, start=50), limit=10, limit_validation=5)
    splits = load_data(recipe, 0)
    assert (len(splits.train), len(splits.validation)) == (10, 5)
    assert texts(splits.train) == sorted(texts(splits.train), key=lambda text: int(text.split()[1]))
    assert texts(splits.train) == texts(load_data(recipe, 0).train) != texts(load_data(recipe, 1).train)


def test_the_labels_are_those_of_all_rows_whatever_is_drawn(section):
    splits = load_data(section("classification", rows(50, labels=25), limit=2), seed=0)
    assert len(splits.task.labels) == 25


def test_overlap_is_refused_when_it_is_forbidden(section):
    recipe = section("classification", rows(6), validation=rows(3), test=rows(2), forbid_overlap=True)
    with pytest.raises(DataError, match=r"3 validation rows also in train: validation\.jsonl:1 repeats train") as error:
        load_data(recipe, 0)
    assert len(error.value.problems) == 2


def test_the_problems_of_all_splits_are_told_at_once(section):
    train = [*rows(4), {"text": "", "label": "l1"}]
    recipe = section("classification", train, validation=[{"text": "a", "label": "l9"}], test=[{"text": 1, "label": 3}])
    with pytest.raises(DataError) as error:
        load_data(recipe, 0)
    assert [problem.where.rpartition("/")[2] for problem in error.value.problems] == [
        "train.jsonl:5",
        "validation.jsonl:1",
        "test.jsonl:1",
        "test.jsonl:1",
    ]


def test_unreadable_files_of_all_splits_are_told_at_once(section):
    recipe = section("classification", rows(4), validation="no.jsonl", test="no.csv")
    with pytest.raises(DataError) as error:
        load_data(recipe, 0)
    assert len(error.value.problems) == 2


def test_a_column_that_the_task_does_not_have_is_a_mistake_of_the_recipe(section):
    with pytest.raises(RecipeError, match=r"no key 'txt'\n.*Did you mean 'text'"):
        load_data(section("classification", rows(4), columns={"txt": "text"}), seed=0)
