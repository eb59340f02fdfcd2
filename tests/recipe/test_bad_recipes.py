"""Every mistake a recipe can hold: where it is named, and in which words."""

import pytest

from peftcli.errors import RecipeError

BASE = "base: {name: demo:minilm}\n"  # line 1
DATA = "data: {task: classification, train: demo:intents}\n"  # line 2
METHOD = "method: {name: lora}\n"  # line 3
GOOD = BASE + DATA + METHOD  # what follows stands in line 4

SYNTAX = [
    # name, recipe, where, fragments of the message
    ("octal", GOOD + "seed: 010\n", "4:7", ['Write 8 or "010".']),
    ("YAML 1.2 octal", GOOD + "seed: 0o10\n", "4:7", ['Write 8 or "0o10".']),
    ("octal that is none", GOOD + "seed: 009\n", "4:7", ['Write 9 or "009".']),
    ("sexagesimal", GOOD + "seed: 12:30:45\n", "4:7", ["base 60", 'Write "12:30:45" for text']),
    ("repeated key", GOOD + "seed: 1\nseed: 2\n", "5:1", ["'seed' is given twice, first in line 4"]),
    ("repeated key in flow", GOOD + "training: {epochs: 1, epochs: 2}\n", "4:23", ["given twice, first in line 4"]),
    ("alias", GOOD + "x: *a\n", "4:4", ["aliases (*a) are not allowed"]),
    ("glob as alias", BASE + "data: {task: classification, train: *.jsonl}\n", "2:38", ["quote this value"]),
    ("anchor", GOOD + "x: &a 1\n", "4:4", ["anchors (&a) are not allowed"]),
    ("recursion", GOOD + "x: &x [*x]\n", "4:4", ["anchors (&x)"]),
    ("python tag", GOOD + "x: !!python/object/apply:os.system ['x']\n", "4:4", ["tags (!!python/object/apply"]),
    ("set", GOOD + "x: !!set {a}\n", "4:4", ["tags (!!set) are not allowed"]),
    ("own tag", GOOD + "x: !foo a\n", "4:4", ["tags (!foo) are not allowed"]),
    ("tag of a key", GOOD + "!foo x: a\n", "4:1", ["tags (!foo) are not allowed"]),
    ("huge integer", GOOD + f"seed: {'9' * 5000}\n", "4:7", ["number of 5000 characters is too large"]),
    ("deep flow", GOOD + f"x: {'[' * 3000}\n", "4:33", ["nested deeper than 30"]),
    ("deep block", "\n".join(" " * n + "a:" for n in range(100)), "31:31", ["nested deeper than 30"]),
    ("too many keys", "\n".join(f"k{n}: 1" for n in range(30_000)), "10000:8", ["more than 20,000 values"]),
    ("too large", GOOD + "#" * (1 << 20), "1", ["larger than 1,048,576 bytes"]),
    ("tab", GOOD + "training:\n\tepochs: 1\n", "5:1", ["a tab cannot indent", "Use spaces."]),
    ("indent", GOOD + "training:\n  epochs: 1\n batch_size: 2\n", "6:2", ["does not fit the lines above"]),
    ("indent of a key", GOOD + "seed: 1\n name: x\n", "5:6", ["a ':' is not expected here"]),
    ("open list", GOOD + "x: [1, 2\n", "5:1", ["opened with '[' (line 4) is not closed"]),
    ("open mapping", GOOD + "x: {a: 1\ny: 2\n", "5:2", ["opened with '{' (line 4) is not closed"]),
    ("open quote", GOOD + "x: 'abc\n", "5:1", ["a quote is opened and never closed"]),
    ("no colon", GOOD + "seed\n", "5:1", ["a key without ':'"]),
    ("two documents", GOOD + "---\nseed: 1\n", "4:1", ["one document"]),
    ("empty", "", "1:1", ["the recipe is empty"]),
    ("comments only", "# nothing\n\n", "1:1", ["the recipe is empty", "Start with `base:`"]),
    ("list at the top", "- a\n", "1:1", ["a recipe is a mapping of keys, not a list"]),
    ("text at the top", "recipe\n", "1:1", ["a recipe is a mapping of keys, not 'recipe'"]),
    ("NUL", b"seed: 1\nx: \x00\n", "2", ["U+0000 at byte 11, line 2"]),
    ("bell in a comment", b"seed: 1\n# \x07\n", "2", ["U+0007 at byte 10, line 2"]),
    ("line separator", GOOD + "# \u2028seed: 1\n", "4", ["U+2028 LINE SEPARATOR"]),
    ("Latin-1", b"seed: 1\nx: caf\xe9\n", "2", ["not UTF-8 at byte 14, line 2"]),
    ("Latin-1 after a mark", b"\xef\xbb\xbfx: \xe9\n", "1", ["not UTF-8 at byte 6, line 1"]),
    ("UTF-16", "seed: 1\n".encode("utf-16"), "1", ["not UTF-8 at byte 0, line 1", "UTF-16"]),
    ("bidi in a value", GOOD + "name: a\u202eb\n", "4:7", ["U+202E RIGHT-TO-LEFT OVERRIDE"]),
    ("zero width in a key", GOOD + "se\u200bed: 1\n", "4:1", ["U+200B ZERO WIDTH SPACE"]),
    ("escaped bidi", GOOD + 'name: "a\\u202eb"\n', "4:7", ["U+202E"]),
    ("escaped control", GOOD + 'name: "a\\0"\n', "4:7", ["control character U+0000"]),
    ("lone surrogate", GOOD + 'name: "\\ud800"\n', "4:7", ["U+D800"]),
    ("escape beyond Unicode", GOOD + 'name: "\\UFFFFFFFF"\n', "4:10", ["cannot be read"]),
    ("number as key", GOOD + "1: 2\n", "4:1", ["keys must be text, not 1", 'Quote it: "1".']),
    ("null as key", GOOD + "~: 2\n", "4:1", ["keys must be text, not ~"]),
    ("list as key", GOOD + "[a]: 2\n", "4:1", ["keys must be text, not lists or mappings"]),
    ("braces", GOOD + "name: {{ x }}\n", "4:7", ["cannot start with '{{'", "Quote this value."]),
    ("percent", GOOD + "name: %x\n", "4:7", ["cannot start with '%'", "Quote this value."]),
    ("at", GOOD + "name: @x\n", "4:7", ["cannot start with '@'", "Quote this value."]),
    ("backtick", GOOD + "name: `x`\n", "4:7", ["cannot start with '`'", "Quote this value."]),
    ("directive", "%YAML 1.1\n---\n" + GOOD, "1:1", ["a line cannot start with '%'"]),
    ("escape", GOOD + 'name: "\\q"\n', "4:9", ["unknown escape 'q'"]),
    ("secret", GOOD + f"name: hf_{'a1' * 12}\n", "4:7", ["access token", "HF_TOKEN"]),
]

CONTENT = [
    ("newer version", "version: 9\nfrom: the future\n", "1:10", ["needs a newer peftcli", "reads version 1"]),
    ("version as text", "version: '1'\n" + GOOD, "1:10", ["version is '1', but must be 1"]),
    ("version as truth", "version: true\n" + GOOD, "1:10", ["version is true, but must be 1"]),
    ("no base", DATA + METHOD, "1:1", ["base is missing", "Add it: The pretrained model"]),
    ("no task", BASE + METHOD + "data:\n  train: x\n", "3:1", ["data.task is missing"]),
    ("empty section", GOOD + "training:\n", "4:1", ["training is null", "Indent its keys below it"]),
    ("unknown section", GOOD + "trainig: {epochs: 1}\n", "4:1", ["no key 'trainig'", "Did you mean 'training'?"]),
    ("unknown key", GOOD + "training: {epocs: 1}\n", "4:12", ["training has no key 'epocs'", "'epochs'?"]),
    ("key far from all", GOOD + "training: {zzz: 1}\n", "4:12", ["Its keys are: epochs, steps"]),
    ("key of a section", GOOD + "batch_size: 2\n", "4:1", ["It belongs under `training:`."]),
    ("quoted number", GOOD + "training: {learning_rate: '5e-4'}\n", "4:27", ["Remove the quotes: write 5e-4."]),
    ("quoted integer", GOOD + "training: {batch_size: '8'}\n", "4:24", ["Remove the quotes: write 8."]),
    ("underscore", GOOD + "training: {batch_size: 1_000}\n", "4:24", ["is '1_000'", "Write 1000."]),
    ("fraction", GOOD + "training: {batch_size: 8.5}\n", "4:24", ["is 8.5, but must be a whole number"]),
    ("truth for a number", GOOD + "training: {batch_size: true}\n", "4:24", ["is true, but must be a whole number"]),
    ("truth for a fraction", GOOD + "training: {epochs: true}\n", "4:20", ["is true, but must be a number"]),
    ("yes", GOOD + "evaluation: {base: yes}\n", "4:20", ["is 'yes', but must be true or false"]),
    ("one for truth", GOOD + "evaluation: {base: 1}\n", "4:20", ["is 1, but must be true or false"]),
    ("date", GOOD + "training: {epochs: 2024-01-01}\n", "4:20", ["is '2024-01-01', but must be a number"]),
    ("nan", GOOD + "training: {learning_rate: .nan}\n", "4:27", ["is .nan, but must be a finite number"]),
    ("infinity", GOOD + "training: {epochs: -.inf}\n", "4:20", ["is -.inf, but must be a finite number"]),
    ("overflow", GOOD + "training: {epochs: 1e999}\n", "4:20", ["is .inf, but must be a finite number"]),
    ("None for a number", GOOD + "training: {steps: None}\n", "4:19", ["Did you mean null?"]),
    ("None for a text", BASE[:-2] + ", revision: None}\n" + DATA + METHOD, "1:37", ["Did you mean null?"]),
    ("number for a text", "base: {name: 5}\n" + DATA + METHOD, "1:14", ["is 5, but must be text", 'quotes: "5"']),
    ("rate", GOOD + "training: {learning_rate: 30}\n", "4:27", ["is 30, but must be less than 10"]),
    ("epochs", GOOD + "training: {epochs: -1}\n", "4:20", ["is -1, but must be greater than 0"]),
    ("seed", GOOD + "seed: 18446744073709551616\n", "4:7", ["must be less than 4294967296"]),
    ("literal", GOOD + "training: {schedule: liner}\n", "4:22", ["'linear', 'cosine' or", "mean 'linear'?"]),
    ("union, value", GOOD + "evaluation: {every: 0}\n", "4:21", ["evaluation.every is 0, but must be at least 1"]),
    ("union, text", GOOD + "evaluation: {every: epochs}\n", "4:21", ["'epoch' or 'end' or a whole number"]),
    ("union, list", BASE + METHOD + "data: {task: causal-lm, train: [a, 5]}\n", "3:36", ["data.train.1 is 5"]),
    ("union, mapping", BASE + METHOD + "data: {task: causal-lm, train: {a: 5}}\n", "3:32", ["must be text or a list"]),
    ("warm-up", GOOD + "training: {warmup: six}\n", "4:20", ["a share such as 6%"]),
    ("warm-up too long", GOOD + "training: {warmup: 120%}\n", "4:20", ["is '120%', but must be", "less than 100%"]),
    ("name", GOOD + "name: a/b\n", "4:7", ["name is 'a/b', but must be at most 100 letters"]),
    ("text for a list", GOOD + "evaluation: {metrics: f1}\n", "4:23", ["must be a list", "Write [f1]."]),
    (
        "list for a mapping",
        BASE + METHOD + "data: {task: causal-lm, train: a, columns: []}\n",
        "3:44",
        ["be a mapping"],
    ),
    ("no files", BASE + METHOD + "data: {task: causal-lm, train: []}\n", "3:32", ["data.train names no file"]),
    ("line end in a path", BASE + METHOD + 'data: {task: causal-lm, train: "a\\nb"}\n', "3:32", ["a line end"]),
    ("no such home", "base: {name: ~nobody-lives-here/x}\n" + DATA + METHOD, "1:14", ["no home directory"]),
    ("no such variable", GOOD + "seed: ${env:PEFTCLI_NONE}\n", "4:7", ["variable PEFTCLI_NONE, which is not set"]),
    ("variable in text", GOOD + "name: a-${env:HOME}\n", "4:7", ["inside other text"]),
    ("half a variable", "base: {name: './${env:}'}\n" + DATA + METHOD, "1:14", ["is not ${env:NAME}"]),
    ("steps and epochs", GOOD + "training:\n  epochs: 1\n  steps: 2\n", "6:3", ["r.yaml:5:3", "Keep one of them"]),
    ("unknown method", BASE + DATA + "method: {name: lroa}\n", "3:16", ["no method is called 'lroa'", "'lora'?"]),
    ("no method name", BASE + DATA + "method: {rank: 2}\n", "3:9", ["no name", "The methods are: lora, ladder."]),
    ("method as a word", BASE + DATA + "method: lora\n", "3:9", ["not 'lora'", "Write `name: lora` below it."]),
    ("empty stack", BASE + DATA + "method: []\n", "3:9", ["method is an empty list"]),
    ("number as a method", BASE + DATA + "method: {name: 5}\n", "3:16", ["no method is called 5"]),
    ("unknown setting", BASE + DATA + "method: {name: lora, rnak: 2}\n", "3:22", ["no setting 'rnak'", "'rank'?"]),
    ("setting", BASE + DATA + "method: {name: lora, rank: 0}\n", "3:28", ["method.rank is 0, but must be at least 1"]),
    ("in a stack", BASE + DATA + "method:\n- name: lora\n- name: lora\n  rank: 0\n", "6:9", ["method.1.rank is 0"]),
    ("stack, setting", BASE + DATA + "method:\n- {name: lora, x: 1}\n", "4:16", ["method.0 has no setting 'x'"]),
    (
        "nested setting",
        BASE + DATA + "method: {name: ladder, steps: [{widht: 1}]}\n",
        "3:32",
        ["steps.0.width is missing"],
    ),
    (
        "own rule",
        BASE + DATA + "method: {name: lora, rank: 2, note: '{x}'}\n",
        "3:9",
        ["note {x} excludes", "Keep one."],
    ),
    ("budget", BASE + DATA + "method: {name: lora, budget: 0.1 percent}\n", "3:30", ["is no budget", "such as 0.1%"]),
    ("budget of nothing", BASE + DATA + "method: {name: lora, budget: 0.0%}\n", "3:30", ["'0.0%' is no budget"]),
    ("budget below nothing", BASE + DATA + "method: {name: lora, budget: -5}\n", "3:30", ["-5 is no budget"]),
    ("budget in words", BASE + DATA + "method: {name: lora, budget: 3e5}\n", "3:30", ["no budget", "such as 300k"]),
    ("budget as a list", BASE + DATA + "method: {name: lora, budget: [1]}\n", "3:30", ["a list is no budget"]),
    ("budget as a switch", BASE + DATA + "method: {name: lora, budget: true}\n", "3:30", ["true is no budget"]),
    (
        "budget and size",
        BASE + DATA + "method:\n  name: lora\n  rank: 2\n  budget: 1%\n",
        "6:11",
        ["a budget solves rank, and rank is given too", "method.rank=null leaves it out"],
    ),
    (
        "budget and size in a stack",
        BASE + DATA + "method:\n- {name: lora}\n- {name: lora, rank: 2, budget: 1%}\n",
        "5:33",
        ["rank is given too"],
    ),
    (
        "budget without a size",
        BASE + DATA + "method: {name: ladder, steps: [], budget: 1%}\n",
        "3:43",
        ["ladder has no size setting that a budget could solve"],
    ),
    ("misspelt budget", BASE + DATA + "method: {name: lora, bugdet: 1%}\n", "3:22", ["no setting", "'budget'?"]),
    ("no modules", BASE + DATA + "method: {name: lora, target_modules: []}\n", "3:38", ["must be more than nothing"]),
]


def refused(read, recipe, *overrides):
    with pytest.raises(RecipeError) as caught:
        read(recipe, *overrides)
    return caught.value


@pytest.mark.parametrize(("recipe", "where", "fragments"), [case[1:] for case in SYNTAX], ids=[c[0] for c in SYNTAX])
def test_a_mistake_in_the_syntax_is_named_with_its_place(read, recipe, where, fragments):
    error = refused(read, recipe)
    assert len(error.problems) == 1
    assert error.problems[0].where.endswith(f"r.yaml:{where}")
    assert all(fragment in str(error) for fragment in fragments), str(error)
    assert error.exit_code == 2


@pytest.mark.parametrize(("recipe", "where", "fragments"), [case[1:] for case in CONTENT], ids=[c[0] for c in CONTENT])
def test_a_mistake_in_the_content_is_named_with_its_place(read, recipe, where, fragments):
    error = refused(read, recipe)
    first = error.problems[0]
    assert first.where.endswith(f"r.yaml:{where}"), str(error)
    assert all(fragment in str(first) for fragment in fragments), str(error)
    assert error.exit_code == 2


def test_all_mistakes_are_named_at_once_in_the_order_of_the_lines(read):
    error = refused(
        read,
        "training:\n  epocs: 3\n  learning_rate: 30\nseed: -1\nmethod: {name: lora, rank: 0}\n" + BASE,
        "evaluation.every=0",
    )
    found = [(p.where.rpartition("/")[2], p.what.split(" ")[0]) for p in error.problems]
    assert found == [
        ("r.yaml:1:1", "data"),
        ("r.yaml:2:3", "training"),
        ("r.yaml:3:18", "training.learning_rate"),
        ("r.yaml:4:7", "seed"),
        ("r.yaml:5:28", "method.rank"),
        ("command line", "evaluation.every"),
    ]


def test_every_message_is_one_lower_case_sentence_and_a_full_hint(read):
    for _, recipe, _, _ in SYNTAX + CONTENT:
        for problem in refused(read, recipe).problems:
            assert "\n" not in problem.what
            assert not problem.what.endswith(".")
            assert not problem.what[0].isupper() or problem.what.startswith("U+")
            assert problem.hint is None or problem.hint[-1] in ".?", problem.hint
            assert "Input should" not in str(problem)


def test_a_secret_is_never_repeated(read, monkeypatch):
    token = "hf_" + "Ab3" * 10
    monkeypatch.setenv("PEFTCLI_TEST", token)
    assert token not in str(refused(read, GOOD + f"name: {token}\n"))
    assert token not in str(refused(read, GOOD + f"{token}: 1\n"))
    assert token not in str(refused(read, GOOD + "name: ${env:PEFTCLI_TEST}\n"))
    assert token not in str(refused(read, GOOD, token))


def test_a_broken_form_is_not_mended_by_brackets(read):
    error = refused(read, GOOD.replace("lora", "lora, target_modules: all-linaer"))
    assert [p.hint for p in error.problems] == ["Did you mean 'all-linear'?"]
