"""Arrows between packages point one way, modules form no circle, files stay short, and what reads records needs no torch."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Lowest first. A module may import from its own rank and those before it.
ORDER = (
    ("lolm",),
    ("lolm.config",),
    ("lolm.source",),
    ("lolm.records",),
    ("lolm.ops",),
    ("lolm.data", "lolm.corpus"),
    ("lolm.mixers",),
    ("lolm.models", "lolm.objectives"),
    ("lolm.generation",),
    ("lolm.accounting",),
    ("lolm.training",),
    ("lolm.external",),
    ("lolm.interventions",),
    ("lolm.evaluation",),
    ("lolm.laboratory",),
    ("lolm.downstream",),
    ("lolm.analysis",),
    ("lolm.claims",),
    ("lolm.report", "lolm.tracking"),
    ("lolm.export",),
    ("lolm.api",),
    ("pipeline",),
)
WITHOUT_TORCH = ("lolm.config", "lolm.records", "lolm.analysis", "lolm.claims", "lolm.report", "lolm.tracking")
LONGEST = 400  # lines of a file of the library


def modules() -> dict[str, Path]:
    """Every module of the library and the pipeline by its dotted name."""
    found = {}
    for folder in ("lolm", "pipeline"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path, of_types: bool = True) -> frozenset[str]:
    """Modules that a file imports, wherever in it; names of a package that are modules count as these.

    Args:
        of_types: also what stands under ``if TYPE_CHECKING``, which is no import when the code runs.
    """
    tree, hidden = parsed(path), set()
    if not of_types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                hidden |= {id(inner) for inner in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= inside or {str(node.module)}
    return frozenset(found)


def rank(module: str) -> int:
    ranks = [
        i
        for i, names in enumerate(ORDER)
        for name in names
        if module == name or (name != "lolm" and module.startswith(f"{name}."))
    ]
    assert ranks, f"{module}: of no package in ORDER; give it a place"
    return max(ranks)


@pytest.mark.parametrize("module", MODULES)
def test_arrows_never_point_upwards(module):
    ours = {name for name in imports(MODULES[module]) if name.split(".")[0] in ("lolm", "pipeline", "benchmarks")}
    assert [name for name in sorted(ours) if name.startswith("benchmarks") or rank(name) > rank(module)] == []


def test_modules_form_no_circle():
    """Imports inside functions count: one that is there to break a circle is a circle."""
    try:
        list(TopologicalSorter({name: (imports(path) & set(MODULES)) - {name} for name, path in MODULES.items()}).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' → '.join(error.args[1])}")


def test_files_of_the_library_are_short():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST and name.startswith("lolm")} == {}


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_what_reads_records_needs_no_torch(package):
    """Neither it nor anything that it imports, also inside functions."""
    wanted = [name for name in MODULES if name == package or name.startswith(f"{package}.")]
    assert wanted
    seen: dict[str, str] = {}
    while wanted:
        name = wanted.pop()
        for inner in imports(MODULES[name], of_types=False):
            assert inner.split(".")[0] != "torch", (
                f"{name} imports torch, and {package} comes to it through {seen.get(name, name)}"
            )
            parents = {".".join(inner.split(".")[:i]) for i in range(1, inner.count(".") + 2)}
            for module in parents & set(MODULES) - set(seen):
                seen[module] = name
                wanted.append(module)
