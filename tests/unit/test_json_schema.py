"""The JSON schemas of `config/` for editors: as committed, named by every file, and true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bkdsnn import cli
from bkdsnn.config.catalogue import CONFIG
from bkdsnn.config.json_schema import schemas
from bkdsnn.config.strict import Strict

SCHEMAS = schemas()
FILES = sorted(path for path in CONFIG.rglob("*.yaml"))


def named(path: Path) -> Path:
    """The schema that the first line of a YAML file names."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix), f"{path}: expected the first line {prefix}<schema>"
    return (path.parent / first.removeprefix(prefix)).resolve()


def keys(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key that a schema explains, with its place."""
    for name, inner in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if name == "properties":
            yield from ((f"{place}/{key}", content) for key, content in inner.items())
        if isinstance(inner, dict | list):
            yield from keys(inner, f"{place}/{name}")


def models(base: type[Strict] = Strict) -> Iterator[type[Strict]]:
    """Every model of `config/` and of a run's description."""
    for model in base.__subclasses__():
        if model.__module__.startswith("bkdsnn.config"):
            yield model
            yield from models(model)


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
        ("methods", {"mine": {"label": "Mine", "distill": {"bkd": {"blur": 0.2}}}}),
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


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_of_every_schema_is_described(name):
    assert [place for place, key in keys(SCHEMAS[name]) if not key.get("description")] == []


def test_every_field_of_every_model_is_described():
    silent = [
        f"{model.__name__}.{name}"
        for model in models()
        for name, key in model.model_fields.items()
        if not key.description
    ]
    assert silent == []
