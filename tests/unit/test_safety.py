"""No code from data, configuration or checkpoints is executed: what could do so is found in our own sources."""

import ast
from pathlib import Path

import pytest
import yaml

from bkdsnn.config.catalogue import UniqueKeys

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "bkdsnn").rglob("*.py"))

# Modules that unpickle, unpack or run something, by the file that may import them.
MODULES = {
    "pickle": {
        "data/pickles.py": "its reader admits no global",
        "data/published.py": "only the exception of torch.load",
    },
    "tarfile": {"core/archives.py": "the one place that unpacks"},
    "zipfile": {
        "core/archives.py": "the one place that unpacks",
        "runs/records.py": "reads one array of an .npz after its size",
    },
    "subprocess": {
        "runs/provenance.py": "git, with fixed arguments",
        "machine/launch.py": "this program again, with the arguments of its user",
        "machine/fork_server.py": "this program again, with no argument of anyone's",
        "models/firing/native.py": "the C compiler, on our own source, with arguments from closed lists",
    },
    "ctypes": {
        "machine/devices.py": "a function of the C library",
        "machine/fork_server.py": "a function of the C library",
        "models/firing/native.py": "what it has compiled itself, in a folder that it has just made",
    },
    **{name: {} for name in ("marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "pty", "code")},
}
# Calls that execute or unpickle unless an argument forbids it, with the arguments that do.
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), None),
    **dict.fromkeys(("os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle"), None),
    **dict.fromkeys(("pickle.load", "pickle.loads", "shutil.unpack_archive", "torch.hub.load", "torch.jit.load"), None),
    "torch.load": {"weights_only": "True"},
    "np.load": {"allow_pickle": "False"},
    "np.lib.format.read_array": {"allow_pickle": "False"},
    "yaml.load": {"Loader": "UniqueKeys"},  # of config/catalogue.py, which extends yaml's safe loader
}
METHODS = {"extractall", "extract"}
# Where a module is imported whose name is not written out and not below `bkdsnn`.
IMPORTS = {"config/own.py": "Python of a folder that its user has named, by 'own' or BKDSNN_OWN, and of no other"}


def imported(tree):
    """Names of the modules that a source imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]


def dangers(tree):
    """Calls of a source that may execute what they read."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {str(keyword.arg): ast.unparse(keyword.value) for keyword in node.keywords}
        safe = CALLS.get(name, {})
        if safe is None or not safe.items() <= given.items() or given.get("shell", "False") != "False":
            yield f"{name} in line {node.lineno}"
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield f"{node.func.attr} in line {node.lineno}"


def foreign_imports(tree):
    """Imports of modules by a name that the source does not hold, unless it begins with `bkdsnn.`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0]
            first = name.values[0] if isinstance(name, ast.JoinedStr) else name
            if not (isinstance(first, ast.Constant) and (first is name or str(first.value).startswith("bkdsnn."))):
                yield f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_executes_nothing_that_it_reads(path):
    tree = ast.parse(path.read_text())
    place = str(path.relative_to(ROOT / "bkdsnn"))
    assert [name for name in imported(tree) if place not in MODULES.get(name, {place})] == []
    assert list(dangers(tree)) == []
    assert bool(list(foreign_imports(tree))) == (place in IMPORTS)


def test_every_exception_is_needed():
    for module, places in MODULES.items():
        for place in places:
            assert module in imported(ast.parse((ROOT / "bkdsnn" / place).read_text())), (module, place)


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text)",
        "pickle.loads(content)",
        "subprocess.run(line, shell=True)",
        "archive.extractall(folder)",
        "tarfile.open(path).extractall(folder)",
    ],
)
def test_the_scan_finds_what_it_is_for(source):
    assert list(dangers(ast.parse(source)))


@pytest.mark.parametrize("source", ["importlib.import_module(name)", "import_module(f'{name}.x')"])
def test_the_scan_finds_imports_of_what_others_name(source):
    assert list(foreign_imports(ast.parse(source)))


@pytest.mark.parametrize("source", ["net.eval()", "re.compile(x)", "np.load(x, allow_pickle=False)", "json.loads(x)"])
def test_the_scan_passes_what_is_harmless(source):
    assert not list(dangers(ast.parse(source)))


def test_the_loader_of_yaml_is_a_safe_one():
    assert issubclass(UniqueKeys, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/object/apply:os.getcwd []", Loader=UniqueKeys)
