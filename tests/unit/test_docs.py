"""What README and docs name exists: files, subcommands, options. README is short, and the example of layers real."""

import argparse
import re
from pathlib import Path

import pytest

from bkdsnn.cli.main import main, parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")])
PATH = re.compile(r"(?<![\w./~-])(?:bkdsnn|config|tests|docs|workflow|profiles|benchmarks)/[\w./*{},-]*\w/?")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
COMMAND = re.compile(r"python -m bkdsnn (\w+)([^`|#\n]*)")
SUBCOMMANDS = next(one for one in parser()._actions if isinstance(one, argparse._SubParsersAction)).choices


def exists(path: str) -> bool:
    braces = re.fullmatch(r"(.*)\{(.+)\}(.*)", path)
    options = [f"{braces[1]}{one}{braces[3]}" for one in braces[2].split(",")] if braces else [path]
    return all(any(ROOT.glob(one)) for one in options)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page):
    assert [path for path in PATH.findall(page.read_text()) if not exists(path)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    dead = []
    for target, anchor in LINK.findall(page.read_text()):
        place = (page.parent / target).resolve() if target else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            dead.append(f"{target}#{anchor}")
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_subcommand_and_option_that_a_page_names_exists(page):
    used = COMMAND.findall(page.read_text())
    assert [name for name, _ in used if name not in SUBCOMMANDS] == []
    options = [(name, option) for name, rest in used for option in re.findall(r"(?<!\S)--[a-z-]+", rest)]
    assert [(name, option) for name, option in options if option not in SUBCOMMANDS[name].format_help()] == []


def test_the_readme_is_short_and_leads_to_every_page():
    readme = (ROOT / "README.md").read_text()
    assert readme.count("\n") < 150
    assert [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name}" not in readme] == []


def test_the_example_of_which_setting_wins_is_what_show_prints(tmp_path, capsys):
    section = (ROOT / "docs/architecture.md").read_text().split("## Which setting wins")[1]
    command, shown = re.findall(r"```(?:sh)?\n(.*?)```", section, re.DOTALL)[:2]
    results = ["--results", str(tmp_path)]
    assert main([*re.findall(r"bkdsnn (plan .*)\)", command)[0].split(), *results]) == 0
    name = capsys.readouterr().out.strip()
    assert main(["show", name, "--why", *results]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in shown.splitlines() if line not in printed] == []
