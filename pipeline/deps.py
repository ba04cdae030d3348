"""Which source files each stage's result rests on, and whether dvc.yaml says so: `python -m pipeline.deps [--fix]`.

With exactly these in its ``deps``, an edit of the library makes DVC rerun the stages that use the edited code, and no others.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import yaml

from pipeline import stage
from pipeline.code import PACKAGES, closure, source_of

WIDTH = 130


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
