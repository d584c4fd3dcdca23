"""The parts of `bkdsnn` and the direction of imports between them, as docs/architecture.md states them."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "bkdsnn"
# From the ground up; what stands on one floor does not import each other.
FLOORS = [
    {"core"},
    {"config"},
    {"runs", "machine"},
    {"data", "models"},
    {"distill"},
    {"training"},
    {"analysis", "budget"},
    {"report"},
    {"cli"},
]
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """Modules of the package that one module imports: at its head, inside a function, or for types alone."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            places = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {place if place in MODULES else str(node.module) for place in places}
    return found - {PACKAGE.name, module}


def part(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", [name for name in MODULES if name.count(".") > 1])
def test_imports_go_down(module):
    upward = [
        other for other in imports(module) if part(other) != part(module) and FLOOR[part(other)] >= FLOOR[part(module)]
    ]
    assert upward == []


def test_every_module_stands_in_a_part():
    at_the_root = {name for name in MODULES if name.count(".") < 2 and MODULES[name].name != "__init__.py"}
    assert at_the_root == {"bkdsnn.__main__"}
    assert {part(name) for name in MODULES if name != PACKAGE.name} - {"__main__"} == set(FLOOR)


def test_no_modules_import_each_other():
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()  # raises CycleError


def test_file_names_say_what_is_inside_without_their_folder():
    names = [path.name for path in MODULES.values() if path.name != "__init__.py"]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_no_two_classes_share_a_name():
    """But for a network and its options, and the parts of networks."""
    places = [
        node.name
        for module, path in MODULES.items()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and module.count(".") > 1 and part(module) != "models"
    ]
    public = [name for name in places if not name.startswith("_")]
    assert sorted(name for name in set(public) if public.count(name) > 1) == []
