"""JSON schemas of the files in `config/`, generated from the models; editors use them to check and complete YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bkdsnn.config.catalogue import CONFIG
from bkdsnn.config.datasets import Dataset
from bkdsnn.config.declarations import MethodEntry, Scale, Table
from bkdsnn.config.figure_plans import Figure
from bkdsnn.config.networks import Neuron, Quantised
from bkdsnn.config.notation import Notation
from bkdsnn.config.paper import FAMILIES
from bkdsnn.config.recipes import Recipe
from bkdsnn.config.settings import Settings
from bkdsnn.core import files

Schema = dict[str, Any]
Models = dict[str, type[BaseModel]]


def schemas() -> dict[str, Schema]:
    """Return every schema by its file name; the first line of each YAML file in `config/` names its schema."""
    whole: Models = {"config": Settings, "table": Table, "figure": Figure, "scale": Scale, "notation": Notation}
    mappings: Models = {
        "methods": MethodEntry,
        "datasets": Dataset,
        "neurons": Neuron,
        "quantised": Quantised,
        "recipes": Recipe,
    }
    return {
        **{name: _file(model) for name, model in whole.items()},
        **{name: _mapping(_file(model)) for name, model in mappings.items()},
        "networks": _mapping(_networks()),
    }


def write_schemas(folder: Path = CONFIG / "schemas") -> list[Path]:
    """Write every schema as `<folder>/<name>.json`; return the paths."""
    paths = []
    for name, schema in schemas().items():
        paths.append(folder / f"{name}.json")
        files.write_text(paths[-1], json.dumps(schema, indent=1, ensure_ascii=False) + "\n")
    return paths


def _file(model: type[BaseModel]) -> Schema:
    """Return the schema of a model without its field `name`, which is given by the file's name or the entry's key."""
    schema = model.model_json_schema()
    schema["properties"].pop("name", None)
    schema["required"] = [key for key in schema.get("required", []) if key != "name"]
    return schema


def _mapping(entry: Schema) -> Schema:
    """Return the schema of a file with entries by name."""
    return {"type": "object", "$defs": entry.pop("$defs", {}), "additionalProperties": entry}


def _networks() -> Schema:
    """Return the schema of an entry of `networks.yaml`: fields of any family, neurons and quantisation by name."""
    merged: Schema = {"type": "object", "properties": {}, "additionalProperties": False, "$defs": {}}
    for family in FAMILIES.values():
        schema = _file(family)
        merged["properties"] = schema["properties"] | merged["properties"]
        merged["$defs"] |= schema.get("$defs", {})
    by_name = {"type": "string", "description": "an entry of neurons.yaml or quantised.yaml"}
    families = {"enum": [*FAMILIES], "type": "string", "description": "kind of network; decides about the other keys"}
    by_data = {"type": "object", "description": "by dataset of the paper: fields that are others there"}
    merged["properties"] |= {"neuron": by_name, "quantised": by_name, "family": families, "datasets": by_data}
    for field, schema in merged["properties"].items():  # a field that is constant in one family may vary here
        varies = "const" in schema or field == "form"
        kept = {"type": "string", "description": schema["description"]} if varies else schema
        merged["properties"][field] = kept
    return merged
