import re
from pathlib import Path

import pytest

from peftcli.cli.program import app, run
from peftcli.delta.registry import all_methods
from peftcli.errors import PeftcliError

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_readme_has_two_commands_to_set_up():
    first = README.split("```sh\n")[1].split("```")[0].strip().splitlines()
    assert [line.split()[0] for line in first] == ["scripts/quickstart", "scripts/test"]
    assert all((REPOSITORY / line.split()[0]).stat().st_mode & 0o111 for line in first)


def test_the_readme_names_every_method_and_what_merges():
    rows = re.findall(r"^\| `(\w+)` \|.*?\|.*?\| (yes|no) \|", section("Methods"), re.MULTILINE)
    assert dict(rows) == {name: "yes" if m.card.mergeable else "no" for name, m in all_methods().items()}


def test_the_readme_names_every_exit_code():
    codes = {int(code) for code in re.findall(r"(?<=\| )\d+(?= |,)|(?<=, )\d+(?= \|)", section("Exit codes"))}
    assert codes == {0, 1, 130, 143, *(kind.exit_code for kind in PeftcliError.__subclasses__())}


def test_every_command_of_the_readme_exists():
    known = {command.name for command in app.registered_commands}
    assert set(re.findall(r"(?:^|`)peft ([a-z]+)", README, re.MULTILINE)) <= known


@pytest.mark.parametrize("recipe", re.findall(r"```yaml\n(.+?)```", README, re.DOTALL))
def test_the_readmes_recipe_has_no_mistake(recipe, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert run(["check", "recipe.yaml"]) == 0


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "peftcli/methods/README.md"])
def test_every_link_to_a_file_leads_somewhere(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert all((REPOSITORY / page).parent.joinpath(link).exists() for link in links)
