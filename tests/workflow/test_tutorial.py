"""docs/tutorial.md, walked at smoke scale: its files, its commands, and what it says comes out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from calls import ROOT, environment

pytestmark = pytest.mark.workflow

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
WALK = TUTORIAL[TUTORIAL.index("## 2. ") : TUTORIAL.index("## 6. ")]  # behind the setup
FILES = dict(re.findall(r"\*\*`~/(\S+)`\*\*\n\n```\w+\n(.*?)```", WALK, flags=re.DOTALL))
COMMANDS = re.findall(r"```sh\n(.*?)```", WALK, flags=re.DOTALL)
SHOWN = re.findall(r"^> (\|.*\|)$", WALK, flags=re.MULTILINE)


def in_a_shell(home, commands):
    """Run commands of the tutorial as its reader does, at smoke scale, with results below the home folder."""
    commands = re.sub(r"^(python -m bkdsnn .*)$", r"\1 --scale smoke", commands, flags=re.MULTILINE)
    smoke = rf"\1 --config scale=smoke --directory {home} --snakefile {ROOT / 'Snakefile'}"
    commands = re.sub(r"^(snakemake .*)$", smoke, commands, flags=re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    surroundings = {**environment(), "HOME": str(home), "PATH": path}
    ended = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=home, env=surroundings, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def labels(lines):
    """Labels of the rows, their groups and the columns, without sizes."""
    header, _, *rows = [cells(line) for line in lines]
    return [re.sub(r"P: [\d.]+[KM](, )?", "", text) for text in header], [row[:2] for row in rows]


def test_the_tutorial_leads_from_a_folder_to_a_table_with_one_more_row(tmp_path):
    make, plan, train = COMMANDS
    in_a_shell(tmp_path, make)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)  # into the folders of the first command
    own = next(line for line in make.splitlines() if "BKDSNN_OWN" in line) + "\n"
    planned = in_a_shell(tmp_path, own + plan).splitlines()
    assert len(planned) == 5 and all("to do" in line for line in planned)
    assert "-sew-resnet18-cosine-t4-s0-" in planned[-1]
    in_a_shell(tmp_path, own + train)
    table = (tmp_path / "results" / "smoke" / "tables" / "table_cosine.md").read_text()
    made = [line for line in table.splitlines() if line.startswith("|")]
    assert labels(made) == labels(SHOWN)
    assert re.match(r"(\*\*)?\d+\.\d\d", cells(made[-1])[2])
    assert "Not of the paper: Cosine; the other rows are of its table 2c, reproduced." in table
    assert (tmp_path / "figures" / "smoke" / "fig_cosine.png").read_bytes().startswith(b"\x89PNG")
    assert all("finished" in line for line in in_a_shell(tmp_path, own + plan).splitlines())


def test_an_edited_loss_is_to_do_again(tmp_path):
    in_a_shell(tmp_path, COMMANDS[0])
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    own = next(line for line in COMMANDS[0].splitlines() if "BKDSNN_OWN" in line) + "\n"
    before = in_a_shell(tmp_path, own + COMMANDS[1]).splitlines()
    (tmp_path / "mine" / "losses" / "cosine.py").write_text(FILES["mine/losses/cosine.py"] + "# edited\n")
    after = in_a_shell(tmp_path, own + COMMANDS[1]).splitlines()
    assert before[:-1] == after[:-1] and before[-1] != after[-1]
