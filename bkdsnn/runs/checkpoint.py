"""Checkpoints as safetensors: tensors by name, everything else as JSON in the header. No pickle.

A checkpoint holds the student, the criterion (restoration block and adapters), the optimiser, the gradient scaler,
the position (epoch and step within it) and the history so far. Random streams need no state (`bkdsnn.core.streams`).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import field
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bkdsnn.config import RunSpec
from bkdsnn.core import files
from bkdsnn.core.errors import UserError
from bkdsnn.core.progress import log
from bkdsnn.runs.schema import Epoch

FORMAT = 1


class Damaged(UserError):
    """A file is truncated, or its tensors do not match its checksum."""


@dataclass
class Position:
    """How far training got: `step` batches of `epoch` are done; `totals` are the sums of their losses.

    `gradients` were measured in the epoch's first step; None if the run measures none, or in older checkpoints.
    """

    epoch: int = 0
    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    epoch_seconds: float = 0.0
    gradients: dict[str, float] | None = None
    history: list[Epoch] = field(default_factory=list)


def save(path: Path, spec: str, position: Position, parts: dict[str, nn.Module], optimizer: Any, scaler: Any) -> None:
    """Write a checkpoint atomically and keep the previous one; `spec` is the digest of the run spec."""
    tensors = {f"{name}/{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    state = optimizer.state_dict()
    tensors |= {f"optimizer/{i}/{key}": value for i, entry in state["state"].items() for key, value in entry.items()}
    # timm's LAMB counts its steps in the parameter groups, and its bias correction depends on them.
    tensors |= {f"groups/{i}/step": group["step"] for i, group in enumerate(state["param_groups"]) if "step" in group}
    stands = vars(position) | {"history": [epoch.model_dump(exclude_none=True) for epoch in position.history]}
    header = {"format": FORMAT, "spec": spec, "position": stands, "scaler": scaler.state_dict()}
    write_tensors(path, {key: value for key, value in tensors.items() if value is not None}, header, keep=before(path))


def before(path: Path) -> Path:
    """Path of the previous checkpoint, which is kept beside the last one."""
    return path.with_name(f"previous{path.suffix}")


def resume(path: Path, spec: str, parts: dict[str, nn.Module], optimizer: Any, scaler: Any) -> Position:
    """Restore the last checkpoint, or the previous one if the last is damaged; without either, start at the beginning.

    A damaged file is renamed, and a warning says so. Raises `UserError` for a checkpoint of another spec.
    """
    for candidate in (path, before(path)):
        if candidate.exists():
            try:
                return load(candidate, spec, parts, optimizer, scaler)
            except Damaged as error:
                log.warning("%s; moved to %s, going on from what was saved before", error, _move_aside(candidate))
    return Position()


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged")
    try:
        return path.replace(aside)
    except OSError as error:
        raise files.unwritable(aside, error) from error


def load(path: Path, spec: str, parts: dict[str, nn.Module], optimizer: Any, scaler: Any) -> Position:
    """Restore everything in place and return the position. Raises `UserError` for another spec or a damaged file.

    Only float16 training on a GPU has gradient scaler state; if the checkpoint has none, the scaler keeps its defaults.
    """
    tensors, header = read_tensors(path)
    if header.get("format") != FORMAT or header.get("spec") != spec:
        raise UserError(
            f"{path}: checkpoint of spec {str(header.get('spec'))[:10]} (format {header.get('format')}), expected "
            f"{spec[:10]} (format {FORMAT}); it is of another run; move it away to train this run from the beginning"
        )
    for name, part in parts.items():
        load_weights(part, _below(tensors, name), str(path))
    counts = _by_index(_below(tensors, "groups"))
    groups = [group | counts.get(i, {}) for i, group in enumerate(optimizer.state_dict()["param_groups"])]
    optimizer.load_state_dict({"state": _by_index(_below(tensors, "optimizer")), "param_groups": groups})
    if header["scaler"]:
        scaler.load_state_dict(header["scaler"])
    return Position(**header["position"])


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any], keep: Path | None = None) -> None:
    """Write tensors and a JSON header with a checksum, atomically; an existing file is first moved to `keep`."""
    plain = {key: value.detach().contiguous() for key, value in tensors.items()}
    header = {**header, "crc32": _crc32(plain)}
    with files.replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata={"bkdsnn": json.dumps(header)})
        except SafetensorError as error:
            raise OSError(0, str(error)) from error
        if keep and path.exists():
            path.replace(keep)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and header.

    Raises `UserError` if the file is missing or was not written by this project, and `Damaged` if it is corrupted.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as stream:
            header = json.loads((stream.metadata() or {}).get("bkdsnn", "null"))
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError) as error:
        raise Damaged(f"{path}: damaged or not safetensors ({error}); delete it to train this run anew") from error
    if not isinstance(header, dict):
        raise UserError(f"{path}: has no 'bkdsnn' header, so this project has not written it; remove it")
    if header.get("crc32", found := _crc32(tensors)) != found:
        wrong = f"CRC-32 is {found}, expected {header['crc32']}"
        raise Damaged(f"{path}: damaged ({wrong}); delete it to train this run anew")
    return tensors, header


def load_run(network: nn.Module, spec: RunSpec, folder: Path) -> None:
    """Load the weights that a run left in its folder.

    Raises `UserError` if the run is unfinished, or its weights are damaged, of another spec, or do not fit `network`.
    """
    path = folder / "weights.safetensors"
    if not (folder / "metrics.json").is_file():
        raise UserError(f"run {spec.name} is not finished: no {folder / 'metrics.json'}; train it first")
    tensors, header = read_tensors(path)
    if header.get("spec") != spec.digest:
        raise UserError(
            f"{path}: belongs to spec {str(header.get('spec'))[:10]}, expected {spec.digest[:10]}; "
            "delete the folder and run again"
        )
    load_weights(network, tensors, str(path))


def load_weights(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load a state dict strictly; a missing, unknown or misshapen tensor raises `UserError` naming it."""
    expected = module.state_dict()
    for kind, keys in (("lacks", expected.keys() - tensors.keys()), ("has unknown", tensors.keys() - expected.keys())):
        if keys:
            raise UserError(f"{where}: {kind} tensor '{min(keys)}' ({len(keys)} in all) for {type(module).__name__}")
    for key, value in expected.items():
        if value.shape != tensors[key].shape:
            raise UserError(f"{where}: '{key}' has shape {tuple(tensors[key].shape)}, expected {tuple(value.shape)}")
    module.load_state_dict(tensors)


def _crc32(tensors: dict[str, Tensor]) -> int:
    """Checksum of the bytes of all tensors, independent of their order in the dictionary."""
    found = 0
    for key in sorted(tensors):
        found = zlib.crc32(
            tensors[key].reshape(-1).view(torch.uint8).cpu().numpy().data, zlib.crc32(key.encode(), found)
        )
    return found


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def _by_index(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Group the tensors named `<i>/<key>` into one dictionary per number i."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split("/", 1)
        found.setdefault(int(index), {})[key] = value
    return found
