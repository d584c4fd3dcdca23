"""The JSON schemas of `config/` for editors: as committed, named by every file, and true."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from bkdsnn import cli
from bkdsnn.config.catalogue import CONFIG
from bkdsnn.config.json_schema import schemas

SCHEMAS = schemas()
FILES = sorted(path for path in CONFIG.rglob("*.yaml"))


def named(path: Path) -> Path:
    """The schema that the first line of a YAML file names."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix), f"{path}: expected the first line {prefix}<schema>"
    return (path.parent / first.removeprefix(prefix)).resolve()


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_committed_schema_is_that_of_the_models(name):
    committed = json.loads((CONFIG / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    assert committed == SCHEMAS[name], "config/ says something new: run `make schema` and commit config/schemas"


def test_there_is_no_other_schema():
    assert {path.stem for path in (CONFIG / "schemas").iterdir()} == SCHEMAS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIG)))
def test_every_file_names_its_schema_and_is_valid(path):
    schema = named(path)
    assert schema.parent == CONFIG / "schemas" and schema.stem in SCHEMAS
    content = json.loads(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8"))))
    jsonschema.validate(content, SCHEMAS[schema.stem])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipes", {"mine": {"epochs": 1, "batch_size": 2, "optimizer": "sgd", "lr": 0.1, "learning": 1}}),
        ("recipes", {"mine": {"epochs": 0, "batch_size": 2, "optimizer": "sgd", "lr": 0.1}}),
        ("networks", {"mine": {"stem_widht": 3}}),
        ("methods", {"mine": {"base": "student"}}),
        ("neurons", {"mine": {"kind": "lif", "surrogate": "step", "alpha": 1.0}}),
    ],
)
def test_a_mistake_is_seen(name, content):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMAS[name])


def test_the_command_writes_what_is_committed(tmp_path):
    assert cli.main(["schema", "--folder", str(tmp_path)]) == 0
    for path in (CONFIG / "schemas").iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
