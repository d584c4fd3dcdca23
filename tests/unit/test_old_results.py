"""Results that older code made are refused by name, wherever they are used, with what has changed since."""

import json
import logging
import re

import pytest

from bkdsnn.cli.main import main
from bkdsnn.config import paper
from bkdsnn.config.run_spec import CHANGES
from bkdsnn.core.errors import UserError
from bkdsnn.runs.artefacts import expect_spec, find_run
from bkdsnn.training.importing import import_runs

RUN = paper.plan("table2a", "smoke").cell("bkdsnn", "resnet20-cifar10").runs[0]
OLD = f"{RUN.name[:-10]}0123456789"
TOLD = f"it is of version 1, expected {RUN.version} (version 2: {CHANGES[2]}"


def before_roles(described):
    """The description as version 1 of the code wrote it."""
    earlier = {key: value for key, value in described.items() if key != "role"} | {"versions": {}}
    return {key: before_roles(one) if key in ("teacher", "source") and one else one for key, one in earlier.items()}


@pytest.fixture
def results(tmp_path):
    """Results of the smoke scale with one run of version 1."""
    folder = tmp_path / "smoke" / "runs" / OLD
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(before_roles(json.loads(RUN.canonical()))))
    (folder / "metrics.json").write_text("{}")
    return tmp_path / "smoke"


@pytest.mark.parametrize("command", ["train", "show", "activity"])
def test_commands_refuse_a_run_of_an_older_version(results, command, capsys):
    assert main([command, OLD, "--scale", "smoke", "--results", str(results.parent)]) == 1
    (message,) = [line for line in capsys.readouterr().err.splitlines() if TOLD in line]
    assert OLD in message and "again" in message


def test_an_import_refuses_a_run_of_an_older_version(results, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(UserError, match=r"1 of 1 runs refused"):
        import_runs(results / "runs", "smoke", tmp_path / "here" / "smoke")
    (message,) = [line for line in caplog.messages if line.startswith(f"refused {OLD}: ")]
    assert TOLD in message and not (tmp_path / "here" / "smoke" / "runs").exists()


def test_whatever_reads_a_run_refuses_an_older_version(results):
    with pytest.raises(UserError, match=re.escape(TOLD)):
        expect_spec(results / "runs" / OLD, RUN)


def test_a_run_that_is_merely_unknown_is_still_said_to_be(tmp_path):
    with pytest.raises(UserError, match=rf"unknown run '{OLD}' in scale 'smoke' \(did you mean"):
        find_run(OLD, "smoke", tmp_path)
    assert find_run(RUN.name, "smoke", tmp_path) == RUN
