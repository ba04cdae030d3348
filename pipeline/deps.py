"""Which source files each stage's result rests on, and whether dvc.yaml says so: `python -m pipeline.deps [--fix]`.

A stage depends on every module of ours that its own imports, directly or through others, also inside functions. With exactly
these in its ``deps``, an edit of the library makes DVC rerun the stages that use the edited code, and no others.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from pipeline import stage

PACKAGES = ("lolm", "pipeline")
NOT_AN_INPUT = {"lolm.tracking", "lolm.points"}  # fill MLflow; no result rests on them
WIDTH = 130


def closure(module: str, root: Path = Path()) -> set[str]:
    """Files (relative to ``root``) of a module and of all of ours that it imports, with the packages they lie in."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name in NOT_AN_INPUT:
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        if path := source_of(name, root):
            waiting += imports_of(path, name)
    return {path.relative_to(root).as_posix() for name in seen if (path := source_of(name, root))}


def source_of(module: str, root: Path) -> Path | None:
    """File of a module of ours; None for a folder without ``__init__.py`` and for what is no module."""
    path = root.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_name(path.name + ".py"))
    return next((found for found in candidates if found.is_file()), None)


@cache
def imports_of(path: Path, module: str) -> tuple[str, ...]:
    """Dotted names of ours that a file may import; of ``from a import b`` both ``a`` and ``a.b``, as b may be a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in _executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            names += [str(node.args[0].value)] if isinstance(node.args[0], ast.Constant) else []
    return tuple(name for name in names if name.split(".")[0] in PACKAGES)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING:``."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children: list[ast.AST] = list(node.orelse)
    else:
        yield node
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _executed(child)


def stages_of(dvc_yaml: Path) -> dict[str, list[str]]:
    """Declared dependencies of each stage."""
    return {name: entry.get("deps", []) for name, entry in yaml.safe_load(dvc_yaml.read_text(encoding="utf-8"))["stages"].items()}


def declared_code(deps: list[str], root: Path = Path()) -> set[str]:
    """Python files of ours among the dependencies; a folder stands for all the files in it."""
    ours = [root / dep for dep in deps if dep.split("/")[0] in PACKAGES]
    files = [file for path in ours for file in (path.rglob("*.py") if path.is_dir() else [path])]
    return {file.relative_to(root).as_posix() for file in files if file.suffix == ".py"}


def fixed(text: str, name: str, deps: list[str], root: Path = Path()) -> str:
    """``dvc.yaml`` with the code a stage depends on brought up to date; other dependencies stay, in their order."""
    own = f"pipeline/{name}.py"
    code = sorted(closure(f"pipeline.{name}", root) - {own})
    others = [dep for dep in deps if dep.split("/")[0] not in PACKAGES or not (dep.endswith(".py") or (root / dep).is_dir())]
    folders = [dep for dep in deps if (root / dep).is_dir() and dep.split("/")[0] in PACKAGES]
    others += [dep for dep in folders if not any((root / dep).rglob("*.py"))]  # templates and the like
    items = [f'"{item}"' if "$" in item else item for item in [own, *code, *others]]
    lines, line = [], "    deps: ["
    for position, item in enumerate(items):
        piece = item + ("," if position < len(items) - 1 else "]")
        if len(line) + len(piece) > WIDTH:
            lines.append(line.rstrip())
            line = " " * 11
        line += piece + " "
    lines.append(line.rstrip())
    pattern = re.compile(rf"^(  {re.escape(name)}:\n(?:    .*\n|\n)*?)    deps: \[[^\]]*\]$", re.MULTILINE)
    return pattern.sub(lambda found: found[1] + "\n".join(lines), text, count=1)


def deps() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fix", action="store_true", help="rewrite the lists in dvc.yaml")
    args = parser.parse_args()
    path, wrong = Path("dvc.yaml"), False
    for name, declared in stages_of(path).items():
        if not source_of(f"pipeline.{name}", Path()):
            print(f"{name}: pipeline/{name}.py does not exist")
            wrong = True
            continue
        used, said = closure(f"pipeline.{name}"), declared_code(declared)
        if used == said:
            continue
        wrong = True
        for sign, files in (("missing", used - said), ("superfluous", said - used)):
            for file in sorted(files):
                print(f"{name}: {sign} {file}")
        if args.fix:
            path.write_text(fixed(path.read_text(encoding="utf-8"), name, declared), encoding="utf-8")
    if wrong and not args.fix:
        sys.exit(1)


if __name__ == "__main__":
    stage.main(deps)
