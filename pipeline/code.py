"""The code a module's results rest on: every module of ours that it imports, directly or through others, also in functions.

A hash of it is part of a run's identity. `make accept` records that hashes give the same results (``reports/accepted.json``), so
that a comment, a rename or a move makes nothing again.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lolm import LolmError, one_line
from lolm.records import fingerprint_of, parse_json, read

PACKAGES = ("lolm", "pipeline")
# Fill MLflow, open models for users, start processes, tell runs apart: no result rests on them.
NOT_AN_INPUT = (
    "lolm.tracking",
    "lolm.api",
    *(
        f"pipeline.{name}"
        for name in ("code", "environment", "estimate", "headline", "identity", "jobs", "progress", "runs", "torchrun")
    ),
)
ACCEPTED = Path("reports/accepted.json")
GOLDEN = Path("tests/golden/golden.json")


@dataclass(frozen=True)
class Accepted:
    """One version of a stage's code that gives the results of the first in its list.

    Attributes:
        code: its hash, see :func:`code_hash`.
        commit: what was checked out when it was accepted.
        why: what had changed.
    """

    code: str
    commit: str
    why: str


@dataclass(frozen=True)
class AcceptedCode:
    """``reports/accepted.json``: by stage the versions that give the same results, while each golden entry has this hash."""

    golden: dict[str, str]
    stages: dict[str, tuple[Accepted, ...]]


def code_of(stage: str, root: Path = Path()) -> str:
    """Identity of the present code of a stage: its hash, or the first of the versions that it is accepted to equal."""
    code = code_hash(f"pipeline.{stage}", root)
    versions = accepted_versions(stage, root)
    return versions[0] if code in versions else code


def accepted_versions(stage: str, root: Path = Path()) -> tuple[str, ...]:
    """Hashes of a stage's code that give the same results; none if a golden entry has changed since. One that is new changes
    nothing."""
    if not (root / ACCEPTED).exists():
        return ()
    accepted = read(root / ACCEPTED, AcceptedCode)
    if not still_hold(accepted.golden, golden_hashes(root)):
        return ()
    return tuple(version.code for version in accepted.stages.get(stage, ()))


def golden_hashes(root: Path = Path()) -> dict[str, str]:
    """Hash of each entry of the golden file, such as ``losses/lolm``; none in a copy of the project without tests.

    Raises:
        LolmError: the file is broken.
    """
    path = root / GOLDEN
    try:
        parts = parse_json(path.read_text(encoding="utf-8")).items()
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise LolmError(f"{path}: broken ({one_line(error)}); bring it back with `git checkout {path}`") from None
    entries = {part: values for part, values in parts if isinstance(values, dict)}  # beside them stand machine and history
    return {f"{part}/{name}": fingerprint_of(value) for part, values in entries.items() for name, value in values.items()}


def still_hold(known: Mapping[str, str], golden: Mapping[str, str]) -> bool:
    """Whether all golden entries that were known are what they were."""
    return known.items() <= golden.items()


def code_hash(module: str, root: Path = Path()) -> str:
    """Hash of the source of a module and of everything of ours behind it."""
    digest = hashlib.sha256()
    for name in sorted(closure(module, root)):
        digest.update(name.encode() + b"\0" + (root / name).read_bytes() + b"\0")
    return digest.hexdigest()


def closure(module: str, root: Path = Path()) -> set[str]:
    """Files (relative to ``root``) of a module and of all of ours that it imports, with the packages they lie in."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or any(name == left_out or name.startswith(f"{left_out}.") for left_out in NOT_AN_INPUT):
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
    """Dotted names of ours that a file may import; of ``from a import b`` both ``a`` and ``a.b``, as b may be a module, and every
    string of a file that imports modules by name."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    text = path.read_text(encoding="utf-8")
    by_name = "import_module" in text
    for node in _executed(ast.parse(text), by_name):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and by_name:
            names.append(node.value)  # of a table of modules, such as that of kernels; what names no module is left out later
    return tuple(name for name in names if name.split(".")[0] in PACKAGES)


def _executed(tree: ast.AST, expressions: bool) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING:``; expressions, most of a file and never an import, only if asked for."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        yield node
        waiting += (child for child in ast.iter_child_nodes(node) if expressions or not isinstance(child, ast.expr))
