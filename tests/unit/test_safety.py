"""Nothing that comes from data, checkpoints, archives or configuration is executed."""

import ast
from pathlib import Path

import pytest
import yaml

from bkdsnn import paper
from bkdsnn.errors import UserError

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "bkdsnn").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]
NEVER = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("pickle.load", "pickle.loads", "joblib.load", "torch.hub.load", "shutil.unpack_archive"),
    *("yaml.full_load", "yaml.unsafe_load", "yaml.load_all"),
}
METHODS = {"extractall"}  # of whatever object
ONLY_WITH = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
}
SAFE_LOADERS = ("Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader)",)


def unsafe(call):
    """Why a call may execute what it reads; empty if it does not."""
    name, options = ast.unparse(call.func), {one.arg: one.value for one in call.keywords}
    if name in NEVER or name.rpartition(".")[2] in METHODS:
        return name
    if name in ONLY_WITH:
        key, value = ONLY_WITH[name]
        return "" if key in options and ast.literal_eval(options[key]) is value else f"{name} without {key}={value}"
    if name == "yaml.load" and not {ast.unparse(one) for one in call.keywords} & set(SAFE_LOADERS):
        return name
    return f"{name} through a shell" if "shell" in options else ""


def findings(text):
    return [found for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and (found := unsafe(node))]


def test_no_code_of_ours_executes_what_it_reads():
    assert len(SOURCES) > 100
    assert {str(path.relative_to(ROOT)): found for path in SOURCES if (found := findings(path.read_text()))} == {}


UNSAFE = (
    "torch.load(path)",
    "torch.load(path, weights_only=False)",
    "np.load(path)",
    "np.load(path, allow_pickle=True)",
    "eval(text)",
    "archive.extractall(folder)",
    "yaml.load(text, Loader=yaml.Loader)",
    "run(line, shell=True)",
)


@pytest.mark.parametrize("text", UNSAFE)
def test_the_search_finds_what_it_should(text):
    assert len(findings(text)) == 1


def test_a_configuration_that_names_code_is_refused(tmp_path):
    mark = tmp_path / "executed"
    (tmp_path / "scales").mkdir()
    scale = tmp_path / "scales" / "evil.yaml"
    scale.write_text(f"name: !!python/object/apply:os.mkdir ['{mark}']\n")
    with pytest.raises(UserError, match=r"evil\.yaml"):
        paper.Expansion("evil", config=tmp_path)
    assert not mark.exists()
    yaml.unsafe_load(scale.read_text())  # the trap is real
    assert mark.exists()
