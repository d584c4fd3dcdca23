"""The first files of each folder of a large archive."""

import tarfile
from pathlib import Path


def take(archive: tarfile.TarFile, count: int, folder: Path) -> None:
    """Write the first `count` files of each folder below `folder`."""
    taken: dict[Path, int] = {}
    for member in archive:
        inside = Path(member.name).parent
        if member.isfile() and taken.setdefault(inside, 0) < count:
            taken[inside] += 1
            (folder / inside).mkdir(parents=True, exist_ok=True)
            (folder / member.name).write_bytes(archive.extractfile(member).read())
