"""The two commands of the README."""

import shutil
import subprocess

import pytest
from calls import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("table2c", ".venv/bin/snakemake --cores all table2c"),
        ("all", ".venv/bin/snakemake --cores all all"),
        ("test", ".venv/bin/pytest"),
        ("gpu-kit", 'benchmarks/gpu/prepare.py --kit ".gpu"'),
    ],
)
def test_targets_set_up_and_then_do_what_they_are_named_for(target, last, tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    made = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert made.index("--require-hashes -r requirements.lock") < made.index(last)
