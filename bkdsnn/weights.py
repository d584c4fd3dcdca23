"""Published weights: found or downloaded, checked against their checksum, and stored as safetensors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from bkdsnn import files
from bkdsnn.errors import UserError
from bkdsnn.spec import Pretrained

if TYPE_CHECKING:
    from torch import Tensor


def stored(folder: Path, pretrained: Pretrained) -> Path:
    """Where `fetch` puts these weights."""
    return folder / f"{pretrained.stem}.safetensors"


def fetch(pretrained: Pretrained, target: Path, local: Path | None) -> None:
    """Write the weights to `target`, from the folder `local` if given, else from their publisher.

    Raises `UserError` if the file is missing or has another checksum. The publisher's format is read with torch's
    restricted unpickler (tensors only), and only after the checksum has been verified.
    """
    from bkdsnn.checkpoint import write_tensors

    url = _address(pretrained)
    source = local / Path(url).name if local else _download(url, target.with_suffix(".download"))
    try:
        tensors = read_published(source, pretrained)
        write_tensors(target, tensors, {"sha256": files.sha256(source), "name": pretrained.name})
    finally:
        if local is None:
            source.unlink(missing_ok=True)


def read_published(source: Path, pretrained: Pretrained) -> dict[str, Tensor]:
    """Return the tensors of a published file after checking its checksum; `UserError` if it holds anything else."""
    import torch

    if not source.is_file():
        raise UserError(f"{source}: no such file; expected the weights '{pretrained.name}' (key 'weights.root')")
    found = files.sha256(source)
    if not found.startswith(pretrained.sha256):
        raise UserError(f"{source}: SHA-256 begins {found[:8]}, expected {pretrained.sha256} for '{pretrained.name}'")
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, KeyError, RuntimeError) as error:
        raise UserError(f"{source}: damaged, or holds more than tensors; expected a state dict") from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{source}: expected a state dict, a tensor by name; found other content")
    return content


def _address(pretrained: Pretrained) -> str:
    publisher, _, name = pretrained.name.partition("/")
    if publisher != "torchvision":
        raise UserError(f"weights '{pretrained.name}': unknown publisher '{publisher}', expected torchvision")
    from torchvision.models import get_weight

    try:
        return get_weight(name).url
    except (ValueError, AttributeError, KeyError) as error:
        raise UserError(f"weights '{pretrained.name}': torchvision has no such weights") from error


def _download(url: str, target: Path) -> Path:
    import torch.hub

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target))
    except OSError as error:
        raise UserError(f"cannot download {url}: {error}; download it yourself and set 'weights.root'") from error
    return target
