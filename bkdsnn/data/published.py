"""Published weights: read from a local folder or downloaded, verified by checksum, and stored as safetensors."""

from __future__ import annotations

import pickle
import re
import shutil
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

from bkdsnn.config import Pretrained
from bkdsnn.core import files
from bkdsnn.core.errors import UserError, unknown
from bkdsnn.core.progress import log

if TYPE_CHECKING:
    from torch import Tensor


HUB_FILE = "model.safetensors"
SILENCE = 60  # seconds without a byte after which a download has failed


class Url(NamedTuple):
    """A file that its publisher offers at one address."""

    url: str

    @property
    def file(self) -> str:
        """The file's name, also in the folder 'weights.root'."""
        return Path(self.url).name

    @property
    def origin(self) -> str:
        """Where a person can download the file."""
        return self.url

    def download(self, folder: Path) -> tuple[Path, None]:
        """Return the file, now in `folder`; an address states no checksum. Raises an OSError if that fails."""
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / self.file
        log.info("downloading %s", self.url)
        try:
            with urlopen(self.url, timeout=SILENCE) as response, target.open("wb") as stream:
                shutil.copyfileobj(response, stream)
        except HTTPError as error:
            with error:  # closes the connection that the error holds
                raise OSError(str(error)) from error
        except HTTPException as error:
            raise OSError(repr(error)) from error
        return target, None


class Repository(NamedTuple):
    """A repository of the Hugging Face hub, whose weights lie in `HUB_FILE`."""

    name: str

    @property
    def file(self) -> str:
        """The file's name in the folder 'weights.root', made from the repository's: on the hub all have one name."""
        return f"{self.name.rpartition('/')[2]}.safetensors"

    @property
    def origin(self) -> str:
        """Where a person can download the file."""
        return f"{HUB_FILE} of '{self.name}' on the Hugging Face hub"

    def download(self, folder: Path) -> tuple[Path, str]:
        """Return the file, now in `folder`, and the SHA-256 that the hub states for it.

        Raises:
            OSError: the download fails.
            UserError: the hub states no SHA-256.
        """
        import huggingface_hub as hub
        from huggingface_hub.errors import HTTPError

        try:
            stated = hub.get_hf_file_metadata(hub.hf_hub_url(self.name, HUB_FILE))
            if not re.fullmatch("[0-9a-f]{64}", stated.etag or ""):
                raise UserError(f"{self.origin}: expected a SHA-256 from the hub, found '{stated.etag}'")
            target = hub.hf_hub_download(self.name, HUB_FILE, revision=stated.commit_hash, local_dir=folder)
        except (HTTPError, RuntimeError) as error:  # callers expect OSError, but the hub's client raises others too
            raise OSError(str(error)) from error
        return Path(target), str(stated.etag)


def stored(folder: Path, pretrained: Pretrained) -> Path:
    """Return the path in `folder` at which `fetch` stores these weights."""
    return folder / f"{pretrained.stem}.safetensors"


def fetch(pretrained: Pretrained, target: Path, local: Path | None) -> None:
    """Write the weights to `target`, from the folder `local` if given, else from their publisher.

    The file is read only after its checksum has been verified, and a pickle only by torch's restricted unpickler, which
    allows nothing but tensors. Raises `UserError` if the file is missing or has another checksum.
    """
    from bkdsnn.runs.checkpoint import write_tensors

    place = published_at(pretrained.name)
    scratch = target.with_suffix(".download")
    try:
        source, stated = _found(place, local, pretrained) if local else _downloaded(place, scratch, pretrained)
        digest = verify(source, pretrained, stated)
        write_tensors(target, read_published(source), {"sha256": digest, "name": pretrained.name})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def published_at(name: str) -> Url | Repository:
    """Return where the weights `name` are published; `UserError` if there are no published weights of that name."""
    publisher, _, rest = name.partition("/")
    if publisher not in _PUBLISHERS:
        raise unknown("publisher", publisher, _PUBLISHERS, f"weights '{name}'")
    place = _PUBLISHERS[publisher](rest)
    if place is None:
        raise UserError(f"weights '{name}': {publisher} has no such weights; expected a full name, such as {_EXAMPLES}")
    return place


def verify(source: Path, pretrained: Pretrained, stated: str | None) -> str:
    """Return the SHA-256 of a file; `UserError` if it differs from the configured one or the publisher's (`stated`).

    If neither is known, the user's file is accepted with a warning that says how to configure its checksum.
    """
    found = files.sha256(source)
    for expected in filter(None, (pretrained.sha256, stated)):
        if not found.startswith(expected):
            raise UserError(f"{source}: SHA-256 begins {found[:8]}, expected {expected} for '{pretrained.name}'")
    if stated:
        log.info("weights '%s': SHA-256 %s, as the publisher states", pretrained.name, found)
    elif pretrained.sha256 is None:
        advice = f"add it as 'sha256' where config/paper/ names '{pretrained.name}'"
        log.warning("%s: its checksum is in no file of config/; its SHA-256 is %s: %s", source, found, advice)
    return found


def read_published(source: Path) -> dict[str, Tensor]:
    """Return the tensors of a file in safetensors or torch's format; `UserError` if it has any other content."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if source.suffix == ".safetensors":
            return load_file(source)
        content = torch.load(source, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{source}: damaged, or not safetensors ({error})") from error
    except (pickle.UnpicklingError, EOFError, KeyError, RuntimeError) as error:
        raise UserError(f"{source}: damaged, or holds more than tensors; expected a state dict") from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{source}: expected a state dict, a tensor by name; found other content")
    return content


def _found(place: Url | Repository, folder: Path, pretrained: Pretrained) -> tuple[Path, None]:
    source = folder / place.file
    if not source.is_file():
        raise UserError(
            f"{source}: no such file; expected the weights '{pretrained.name}' (key 'weights.root'): {place.origin}"
        )
    return source, None


def _downloaded(place: Url | Repository, folder: Path, pretrained: Pretrained) -> tuple[Path, str | None]:
    """Download the file; UserError if its checksum is not known, since a truncated or forged one would go unnoticed."""
    if isinstance(place, Url) and pretrained.sha256 is None:
        where = f"config/paper/ names '{pretrained.name}'"
        raise UserError(f"{place.origin}: its checksum is not known; add it as 'sha256' where {where}, then rerun")
    try:
        return place.download(folder)
    except OSError as error:
        advice = f"download it yourself, as {place.file}, and set 'weights.root'"
        raise UserError(f"cannot download {place.origin}: {error}; {advice}") from error


def _torchvision(name: str) -> Url | None:
    from torchvision.models import get_weight

    try:
        return Url(get_weight(name).url)
    except (ValueError, AttributeError, KeyError):
        return None


def _timm(name: str) -> Url | Repository | None:
    """Return where timm publishes weights. A name needs a tag, because timm's default tag may change.

    Only torch's own files are loaded from their addresses; others, such as JAX's, come from the hub in safetensors.
    """
    from timm.models import get_pretrained_cfg

    try:
        found = get_pretrained_cfg(name, allow_unregistered=False) if "." in name else None
    except RuntimeError:
        return None
    if found and isinstance(found.url, str) and found.url.endswith(".pth"):
        return Url(found.url)
    return Repository(found.hf_hub_id) if found and found.hf_hub_id else None


_PUBLISHERS = {"torchvision": _torchvision, "timm": _timm}
_EXAMPLES = "torchvision/ResNet18_Weights.IMAGENET1K_V1 or timm/vit_base_patch16_224.orig_in21k_ft_in1k"
