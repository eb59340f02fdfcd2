"""The house rules, held to by reading the source."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "peftcli"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 300
LONGEST_FUNCTION = 60
# Longer files, each with the reason why two would be worse.
LONG_FILES: dict[str, str] = {}
PRINTS = {"print", "sys.stdout.write", "sys.stderr.write", "typer.echo", "typer.secho"}
WRITES = (".write_text", ".write_bytes", "json.dump", "save_file", "np.save")
RUNS_CODE = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "pickle.load", "pickle.loads"}
GRAB_BAGS = {"util", "utils", "helper", "helpers", "common", "misc", "tools", "stuff", "functions", "shared"}
HEAVY = {"torch", "transformers", "datasets", "accelerate", "evaluate", "numpy", "pandas", "matplotlib", "safetensors"}
# What a recipe's typo, `peft methods` and a count in closed form import: no library that takes a second.
LIGHT = (
    *("cli/*.py", "recipe/*.py", "methods/*.py", "report/*.py", "files.py", "locks.py", "manifest.py", "errors.py"),
    *("delta/method.py", "delta/registry.py", "delta/budget.py", "delta/count.py"),
    *("base/sites.py", "base/anatomy.py", "base/source.py", "base/architectures/*.py", "base/architectures.py"),
    *("data/rows.py", "data/datasets.py", "data/tables.py", "data/tasks/*.py"),
    *("pipeline/reading.py", "pipeline/counting.py", "pipeline/checking.py", "pipeline/progress.py"),
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Yield every imported module; those under TYPE_CHECKING, which nothing imports at run time, are left out."""
    pending: list[ast.AST] = [tree(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
        else:
            pending += ast.iter_child_nodes(node)


def calls(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def floors() -> dict[str, int]:
    contract = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    return {part.strip(): floor for floor, layer in enumerate(contract["layers"]) for part in layer.split("|")}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_imports_run_down_and_never_sideways():
    floor = floors()
    for path in SOURCES:
        own = name_of(path).split(".")[1:2]
        for imported in imports(path):
            parts = imported.split(".")
            if parts[0] == "peftcli" and own and parts[1] != own[0]:
                assert floor[parts[1]] > floor[own[0]], f"{relative(path)} imports {imported}"


def test_every_part_of_the_package_has_its_floor():
    assert {name_of(path).split(".")[1] for path in SOURCES if name_of(path) != "peftcli"} <= set(floors())


def test_contributing_shows_the_floors_that_are_checked():
    picture = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[3]
    drawn = [re.split(r"\s{2,}", line)[0] for line in picture.strip().splitlines()]
    parts = {part.strip(): floor for floor, line in enumerate(drawn, 1) for part in line.split("|")}
    assert parts == {part: floor for part, floor in floors().items() if part != "__main__"}


def test_what_must_answer_at_once_imports_nothing_heavy():
    for path in {path for pattern in LIGHT for path in PACKAGE.glob(pattern)}:
        found = HEAVY & {imported.split(".")[0] for imported in imports(path, top_level_only=True)}
        assert not found, f"{relative(path)} imports {found}"


def test_no_file_is_long_without_a_reason():
    lengths = {relative(path): path.read_text(encoding="utf-8").count("\n") for path in SOURCES}
    assert {name for name, lines in lengths.items() if lines > LONGEST_FILE} == set(LONG_FILES)


def test_no_function_is_long():
    for path in SOURCES:
        for function in functions(path):
            lines = (function.end_lineno or 0) - function.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{relative(path)}: {function.name} has {lines} lines"


def test_no_name_is_a_grab_bag():
    for path in SOURCES:
        assert not GRAB_BAGS & set(name_of(path).split(".")), relative(path)


def test_nothing_but_the_console_prints():
    printing = {relative(path) for path in SOURCES for _, call in calls(path) if call in PRINTS}
    assert printing == {"cli/console.py"}


def test_nothing_but_files_writes():
    """Any other write could be halved by a crash."""
    for path in SOURCES:
        for line, call in calls(path):
            assert relative(path) == "files.py" or call.startswith("files.") or not call.endswith(WRITES), (
                f"{relative(path)}:{line} calls {call}"
            )
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "open":
                modes = {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
                assert not modes & {"w", "wb", "a", "ab", "x", "xb", "r+", "r+b"}, f"{relative(path)}:{node.lineno}"


def test_nothing_that_is_read_can_run_code():
    for path in SOURCES:
        for line, call in calls(path):
            assert call not in RUNS_CODE, f"{relative(path)}:{line} calls {call}"
        found = {imported.split(".")[0] for imported in imports(path)}
        assert not found & {"pickle", "dill", "marshal", "shelve"}, relative(path)
        for node in ast.walk(tree(path)):  # torch's own files hold pickles; its reader of tensors alone runs nothing
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in map(ast.unparse, node.keywords), f"{relative(path)}:{node.lineno}"


def test_nobody_imports_click_which_typer_brings_itself():
    for path in SOURCES:
        assert "click" not in {imported.split(".")[0] for imported in imports(path)}, relative(path)


def test_nothing_outside_a_methods_file_decides_by_its_name():
    methods = {path.stem for path in (PACKAGE / "methods").glob("*.py")} - {"__init__"}
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Compare) and re.search(r"\b(method|name|peft_type)\b", ast.unparse(node.left)):
                words = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
                assert not (words & methods) - {path.stem}, f"{relative(path)}:{node.lineno}: {ast.unparse(node)}"
