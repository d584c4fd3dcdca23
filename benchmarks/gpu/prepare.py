"""Fill a folder to carry to a bare GPU machine, `make gpu-kit`: packages it lacks, this project, CIFAR-10 as JPEG.

The packages are wheels of the versions in requirements.lock, checked by its hashes, from the index that pip is set up
for. The project travels as it lies here, changes that are not committed included, with its last commit. CIFAR-10 comes
from the data root: JPEG folders or an archive of them (`cifar10-jpeg*`) as they are, else made from the binary layout.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from PIL import Image

from bkdsnn.config import Dataset, paper
from bkdsnn.config.settings import data_root
from bkdsnn.core.errors import UserError
from bkdsnn.data import cifar
from bkdsnn.data.layout import BINARY

ROOT = Path(__file__).resolve().parents[2]
MOST = 60 << 20  # bytes of the whole kit
QUALITY = 75  # of JPEG; chroma at half the resolution
# Those of the project that a machine with torch, torchvision, triton and the usual scientific packages may lack, and
# what these need in turn. Pillow is here because its version decides the pixels of a decoded image.
CARRIED = (
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions"),
    *("spikingjelly", "loguru", "scienceplots", "timm", "safetensors", "pillow", "tabulate"),
    *("pytest", "pluggy", "iniconfig", "packaging", "pygments", "pytest-xdist", "execnet"),
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main(arguments: list[str] | None = None) -> int:
    """Fill the kit and print a line for each part; return 0, or 1 if a part cannot be had or all are too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, default=ROOT / ".gpu", help="folder to fill (default: .gpu)")
    parser.add_argument("--root", type=Path, help="folder with your data (default: $BKDSNN_DATA_ROOT, data.root)")
    parser.add_argument("--python", default="3.12", help="version of the GPU machine's Python (default: 3.12)")
    options = parser.parse_args(arguments)
    try:
        fill(options.kit, options.root, options.python)
    except (UserError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def fill(kit: Path, root: Path | None, python: str) -> None:
    """Make every part anew; results that were put into the kit stay."""
    kit.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(kit / "wheels", ignore_errors=True)
    for old in kit.glob("cifar10-jpeg*"):
        old.unlink()
    shutil.copy(ROOT / "benchmarks" / "gpu" / "first.sh", kit)
    print(f"packages: {packages(kit / 'wheels', python)}", flush=True)
    print(f"project: {project(kit)}", flush=True)
    print(f"CIFAR-10: {images(kit, data_root(root or configured_root()))}", flush=True)
    sizes = {path.name: size(path) for path in kit.iterdir()}
    if (found := sum(sizes.values())) > MOST:
        raise UserError(f"{kit} has {found >> 20} MiB, expected at most {MOST >> 20}: {sizes} bytes; remove some of it")
    print(f"{kit}: {found / 2**20:.1f} MiB; carry it, then there: bash {kit.name}/first.sh", flush=True)


def configured_root() -> Path | None:
    """The user's data root of config/config.yaml, where the environment has none."""
    root = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["data"]["root"]
    return Path(root) if root and not os.environ.get("BKDSNN_DATA_ROOT") else None


def size(path: Path) -> int:
    """Bytes of a file, or of all below a folder."""
    return sum(one.stat().st_size for one in (path, *path.rglob("*")) if one.is_file())


def packages(folder: Path, python: str) -> str:
    """Download the carried packages for that version of Python on x86-64 Linux."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    environment |= {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write("".join(locked((ROOT / "requirements.lock").read_text(), environment)))
        wanted.flush()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
        command += [f"--platform={platform}" for platform in PLATFORMS]
        subprocess.run([*command, "--dest", str(folder), "--requirement", wanted.name], check=True)
    return f"{len(list(folder.iterdir()))} wheels for Python {python}, {size(folder) / 2**20:.1f} MiB"


def locked(lock: str, environment: dict[str, str]) -> Iterator[str]:
    """Yield name, version and hashes of each carried package, as a lock file states them for that environment."""
    missing = set(CARRIED)
    for entry in re.findall(r"^\S.*\\\n(?: +--hash=.*\n)+", lock, flags=re.MULTILINE):
        said, hashes = entry.split("\\\n", 1)
        one = Requirement(said)
        if one.name in CARRIED and (one.marker is None or one.marker.evaluate(environment)):
            missing.discard(one.name)
            yield f"{one.name}{one.specifier} \\\n{hashes}"
    if missing:
        raise UserError(f"requirements.lock: no {', '.join(sorted(missing))}; expected every package of CARRIED in it")


def project(kit: Path) -> str:
    """Pack the last commit's .git and the files as they lie here, without the kit and what git ignores."""
    archive = kit / "project.tar.gz"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    with tempfile.TemporaryDirectory() as temporary, packed(archive) as tar:
        clone = ["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), temporary]
        subprocess.run(clone, check=True)
        tar.add(Path(temporary, ".git"), ".git", filter=_plain)
        for name in sorted(filter(None, names)):
            if (ROOT / name).is_file() and kit.resolve() not in (ROOT / name).parents:
                tar.add(ROOT / name, name, filter=_plain)
    return f"{len(names) - 1} files, {size(archive) / 2**20:.1f} MiB"


def images(kit: Path, root: Path | None) -> str:
    """Carry CIFAR-10 as JPEG, if there is any; say where it comes from, or why there is none."""
    known = paper.Expansion("paper").datasets["cifar10"]
    if root is None:
        return "SKIPPED: no data root; set BKDSNN_DATA_ROOT or data.root. Trainings there will have no images"
    ready = [path for path in sorted([*root.glob("cifar10-jpeg*"), *root.glob("*/cifar10-jpeg*")]) if _jpeg(path)]
    if ready and ready[0].is_file():
        shutil.copyfile(ready[0], kit / ready[0].name)
    elif ready or (root / known.folder).is_dir():
        with packed(kit / "cifar10-jpeg.tar.gz") as tar:
            for name, content in _files(ready[0]) if ready else encoded(known, root / known.folder):
                _add(tar, f"cifar10-jpeg/{name}", content)
    else:
        return f"SKIPPED: neither cifar10-jpeg* nor {known.folder} in {root}. Trainings there will have no images"
    made = f"{ready[0]}, as it is" if ready else f"made from {root / known.folder}, quality {QUALITY}"
    return f"{made}, {sum(map(size, kit.glob('cifar10-jpeg*'))) / 2**20:.1f} MiB"


def _jpeg(path: Path) -> bool:
    return (path / "train").is_dir() or (path.is_file() and path.suffix in (".gz", ".xz", ".zip"))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path.relative_to(folder).as_posix(), path.read_bytes()


def encoded(dataset: Dataset, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and JPEG of every image of CIFAR-10's binary layout, numbered within its class and split."""
    arrays, classes = cifar.read(dataset, folder), (folder / BINARY[dataset.classes].names).read_text().split()
    splits = {"train": (arrays.train_images, arrays.train_labels), "test": (arrays.test_images, arrays.test_labels)}
    for split, (pixels, labels) in splits.items():
        counts = dict.fromkeys(classes, 0)
        for image, label in zip(pixels, labels, strict=True):
            stream, name = io.BytesIO(), classes[label]
            Image.fromarray(image.transpose(1, 2, 0)).save(stream, "JPEG", quality=QUALITY, subsampling="4:2:0")
            yield f"{split}/{name}/{counts[name]:04d}.jpg", stream.getvalue()
            counts[name] += 1


@contextlib.contextmanager
def packed(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a new .tar.gz whose bytes depend on its content alone."""
    with (
        path.open("wb") as stream,
        gzip.GzipFile("", "wb", 9, stream, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        yield tar


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    sys.exit(main())
