import pytest

from peftcli.errors import RecipeError
from peftcli.recipe.scalars import shown

GOOD = "base: {name: demo:minilm}\ndata: {task: classification, train: demo:intents}\nmethod: {name: lora}\n"
STACK = GOOD.replace("{name: lora}", "[{name: lora}, {name: lora, rank: 2}]")


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.learning_rate=5e-4", "training", "learning_rate", 5e-4),
        ("training.epochs = 2", "training", "epochs", 2.0),
        ("training.schedule=cosine", "training", "schedule", "cosine"),
        ("training.clip=null", "training", "clip", None),
        ("evaluation.base=false", "evaluation", "base", False),
        ("evaluation.metrics=[accuracy, f1]", "evaluation", "metrics", ["accuracy", "f1"]),
        ("evaluation.select='last'", "evaluation", "select", "last"),
        ("data.columns={text: sentence}", "data", "columns", {"text": "sentence"}),
        ("data.columns.text=a=b", "data", "columns", {"text": "a=b"}),
        ("data.train=/a: b #c/*.csv", "data", "train", "/a: b #c/*.csv"),
        ("data.train=*.csv", "data", "train", None),
        ("base.revision=@main", "base", "revision", "@main"),
    ],
)
def test_an_override_changes_one_key(read, override, section, key, value):
    found = getattr(getattr(read(GOOD, override), section), key)
    assert found == value or (value is None and found.endswith("/*.csv"))


def test_an_override_adds_a_section_and_a_setting(read):
    recipe = read(
        GOOD + "training:\n", "training.batch_size=4", "method.rank=4", "method.target_modules=[W_o]", "seed=3"
    )
    assert recipe.training.batch_size == 4
    assert recipe.method[0].rank == 4
    assert recipe.method[0].target_modules == ("W_o",)
    assert recipe.seed == 3


def test_an_override_reaches_into_a_stack(read):
    assert [m.rank for m in read(STACK, "method.0.rank=4").method] == [4, 2]


def test_an_override_takes_the_place_of_what_was_written(read):
    recipe = read(GOOD.replace("lora", "lroa"), "method={name: ladder, steps: [{width: 1}]}")
    assert recipe.method[0].name == "ladder"


def test_the_last_override_of_a_key_holds(read):
    assert read(GOOD, "seed=1", "seed=2").seed == 2


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("training.epochs", "'training.epochs' has no '='"),
        ("training.epochs=", "training.epochs has no value"),
        ("=3", "'' is not a key"),
        ("training..epochs=3", "'training..epochs' is not a key"),
        (".".join("a" * 3000) + "=3", "is not a key"),
        ("trainig.epochs=3", "Did you mean 'training'?"),
        ("batch_size=3", "Write training.batch_size=..."),
        ("training.epocs=3", "Did you mean 'epochs'?"),
        ("training.epochs=fast", "training.epochs is 'fast', but must be a number"),
        ("training.epochs=0", "must be greater than 0"),
        ("training.batch_size='8'", "Remove the quotes: write 8."),
        ("training.batch_size=010", 'Write 8 or "010".'),
        ("training.batch_size=1_000", "Write 1000."),
        ("data.train=[a, &x b]", "anchors (&x) are not allowed"),
        ("data.train=[a", "opened with '['"),
        ("data.train=" + "[" * 3000, "nested deeper than 30"),
        ('name="a"\nseed: 3', "name has more than one value"),
        ("data.train.x=3", "data.train is 'demo:intents' and has no key 'x'"),
        ("method.rnak=3", "Did you mean 'rank'?"),
        ("method.name=lroa", "Did you mean 'lora'?"),
        ("base.revision=None", "Did you mean null?"),
        ("name=a\u202eb", "U+202E"),
        ("name=a\udcff", "U+DCFF"),
        ("version=2", "needs a newer peftcli"),
    ],
)
def test_a_mistake_on_the_command_line_is_named_as_one(read, override, fragment):
    with pytest.raises(RecipeError) as caught:
        read(GOOD, override)
    assert [p.where for p in caught.value.problems] == ["command line"]
    assert fragment in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("method.rank=3", "Write method.0.rank for the first of its 2 items."),
        ("method.2.rank=3", "so there is no method.2"),
        ("method.-1.rank=3", "method is a list and has no key '-1'"),
        ("method.1.rank=0", "method.1.rank is 0"),
    ],
)
def test_a_mistake_in_a_stack_is_named(read, override, fragment):
    with pytest.raises(RecipeError) as caught:
        read(STACK, override)
    assert fragment in str(caught.value)


def test_all_overrides_are_judged_at_once(read):
    with pytest.raises(RecipeError) as caught:
        read(GOOD, "seed", "trainig.x=1", "name=")
    assert len(caught.value.problems) == 3


def test_an_override_that_excludes_what_the_file_says_names_the_line(read):
    with pytest.raises(RecipeError) as caught:
        read(GOOD + "training:\n  epochs: 3\n", "training.steps=5")
    assert "training.steps excludes training.epochs" in caught.value.problems[0].what
    assert "r.yaml:5:3" in caught.value.problems[0].what
    assert read(GOOD + "training:\n  epochs: 3\n", "training.steps=5", "training.epochs=null").training.steps == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [({}, "a mapping"), ([1], "a list"), ("a\n", r"'a\n'"), (None, "null"), (True, "true"), (float("-inf"), "-.inf")],
)
def test_values_are_shown_as_recipes_write_them(value, text):
    assert shown(value) == text
