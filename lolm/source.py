"""A model's own source as flat modules of one folder, which import each other as ``from .module import …`` and not this project.

The ``transformers`` library takes along no more than that with a model, packages and absolute names do not reach it; MLflow
takes it as a package.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE, EXPORT = "lolm", "lolm.export."  # modules of that package keep their bare name


@cache
def flat_modules(*entries: str) -> dict[str, str]:
    """Source by file name of modules, and of all of this project that they import where they are imported.

    What a function imports when it is called, kernels of one machine or another, stays behind: there an ImportError is raised.

    Args:
        entries: dotted names.
    """
    found: dict[str, str] = {}
    wanted = list(entries)
    while wanted:
        module = wanted.pop()
        if (name := f"{_flat(module)}.py") not in found:
            found[name], needed = _rewritten(module)
            wanted += needed
    return dict(sorted(found.items()))


def _rewritten(module: str) -> tuple[str, set[str]]:
    """Its source with relative imports, and the modules that it needs."""
    source = _path(module).read_text(encoding="utf-8")
    tree, lines, needed = ast.parse(source), source.splitlines(), set()
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in sorted(nodes, key=lambda node: node.lineno, reverse=True):  # from below, so that line numbers stay
        target = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        if target is None or target.split(".")[0] != PACKAGE:
            continue
        indent = " " * node.col_offset
        if node in tree.body:
            assert isinstance(node, ast.ImportFrom), f"{module}: import {target}"
            origins = [(_origin(target, alias.name), alias) for alias in node.names]
            needed |= {origin for origin, _ in origins}
            new = [f"from .{_flat(origin)} import {ast.unparse(alias)}" for origin, alias in origins]
        else:
            new = [f'{indent}raise ImportError("{target} is not part of an exported model")']
        lines[node.lineno - 1 : node.end_lineno] = new
    return f"# {module} of this project, with its imports made flat.\n" + "\n".join(lines) + "\n", needed


def _origin(module: str, name: str) -> str:
    """The module in which a name is made that a package hands on."""
    path = _path(module)
    if path.name == "__init__.py":
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
                return _origin(node.module, name)
    return module


def _flat(module: str) -> str:
    return module.removeprefix(EXPORT).replace(".", "_")


def _path(module: str) -> Path:
    path = Path(__file__).parent.joinpath(*module.split(".")[1:])  # found without an import, which would load torch
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
