"""Which source files each stage's result rests on, and whether dvc.yaml says so: `python -m pipeline.deps [--fix] [--prune]`.

With exactly these in its ``deps``, an edit of the library makes DVC rerun the stages that use the edited code, and no others.
A folder whose every file is used stands for its files: dvc.lock, which DVC reads at each start, stays short.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import yaml

from lolm import LolmError
from lolm.config import Params, load_params
from lolm.records import write_text
from pipeline import stage
from pipeline.code import PACKAGES, closure, source_of
from pipeline.estimate import timed_stages

WIDTH = 128
NEVER_HASHED = ("__pycache__", "*.py[cod]", "*~", ".*.sw?")  # stands in .dvcignore too: caches and editors' files are no input


class DependencyError(LolmError):
    """dvc.yaml or dvc.lock cannot be checked."""


def stages_of(dvc_yaml: Path) -> dict[str, list[str]]:
    """Declared dependencies of each stage."""
    return {name: entry.get("deps", []) for name, entry in yaml.safe_load(dvc_yaml.read_text(encoding="utf-8"))["stages"].items()}


def files_in(folder: Path) -> list[Path]:
    """All files that DVC hashes with a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [f for f in files if not any(fnmatch(part, p) for part in f.relative_to(folder).parts for p in NEVER_HASHED)]


def folded(files: Iterable[str], root: Path = Path()) -> list[str]:
    """The files, with a folder in the place of its files where they are all that it holds; sorted."""
    files = set(files)

    def whole(folder: Path) -> bool:
        return all(path.relative_to(root).as_posix() in files for path in files_in(root / folder))

    # The topmost: parents are listed from the nearest up, the last of them is `.`.
    places = ([folder for folder in list(Path(file).parents)[:-1] if whole(folder)] or [Path(file)] for file in files)
    return sorted({place[-1].as_posix() for place in places})


def code_of(name: str, root: Path = Path()) -> list[str]:
    """What a stage must declare of our code: its own module, then all that it imports, whole folders as such."""
    own = f"pipeline/{name}.py"
    return [own, *folded(closure(f"pipeline.{name}", root) - {own}, root)]


def is_code(dep: str, root: Path = Path()) -> bool:
    """Whether a dependency is source of ours; a folder is if it holds any (one of templates, say, holds none)."""
    return dep.split("/")[0] in PACKAGES and (dep.endswith(".py") or any((root / dep).rglob("*.py")))


def fixed(text: str, name: str, deps: list[str], root: Path = Path()) -> str:
    """``dvc.yaml`` with the code a stage depends on brought up to date; other dependencies stay, in their order."""
    others = [dep for dep in deps if not is_code(dep, root)]
    items = [f'"{item}"' if "$" in item else item for item in [*code_of(name, root), *others]]
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


# ---------------------------------------------------------------------------------------------- dvc.lock


def stages_behind(reports: Iterable[str], params: Params) -> set[str]:
    """Names of the stages behind reports.

    Args:
        reports: paths of files under ``reports/``; each ``reports/<scale>/<study>/claims.json`` stands for a study at a scale.
        params: what each of its studies holds.
    """
    names: set[str] = set()
    for study in params.studies.values():
        alone = replace(params, study=study.name)
        for scale in {path.split("/")[1] for path in reports if fnmatch(path, f"reports/*/{study.name}/claims.json")}:
            names |= {f"{kind}@{scale}" for kind in ("corpus", "tokenizer", "shards")} | timed_stages(alone, scale)
            names |= {f"{kind}@{scale}-{study.name}" for kind in ("plan", "report")}
    return names


def locked_stages(text: str) -> list[str]:
    """Names of the stages in a ``dvc.lock``."""
    return re.findall(r"^  (\S+):$", text, re.MULTILINE)


def pruned(text: str, kept: set[str]) -> str:
    """A ``dvc.lock`` with the stages of these names alone; what stays is the same byte for byte."""
    entry = re.compile(r"^  (\S+):\n(?:    .*\n)*", re.MULTILINE)
    return entry.sub(lambda found: found[0] if found[1] in kept else "", text)


def committed(*arguments: str) -> str:
    """Output of a git command in this folder; raises DependencyError where git does not know it."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DependencyError(f"`git {' '.join(arguments)}` failed: {done.stderr.strip()}; run it in a clone of the project")
    return done.stdout


# ---------------------------------------------------------------------------------------------- the command


def deps() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fix", action="store_true", help="rewrite the lists in dvc.yaml")
    parser.add_argument(
        "--prune", action="store_true", help="take out of dvc.lock the stages behind no report that git holds (smoke, trials)"
    )
    args = parser.parse_args()
    path, wrong = Path("dvc.yaml"), False
    for name, declared in stages_of(path).items():
        if not source_of(f"pipeline.{name}", Path()):
            print(f"{name}: pipeline/{name}.py does not exist")
            wrong = True
            continue
        used, said = set(code_of(name)), {dep for dep in declared if is_code(dep)}
        if used == said:
            continue
        wrong = True
        for sign, files in (("missing", used - said), ("superfluous", said - used)):
            for file in sorted(files):
                print(f"{name}: {sign} {file}")
        if args.fix:
            write_text(path, fixed(path.read_text(encoding="utf-8"), name, declared))
    if args.prune:
        lock = Path("dvc.lock")
        kept = stages_behind(committed("ls-files", "reports").splitlines(), load_params(Path("params.yaml")))
        text = lock.read_text(encoding="utf-8")
        write_text(lock, pruned(text, kept))
        print(f"dvc.lock: {len(set(locked_stages(text)) - kept)} stages taken out")
    if wrong and not args.fix:
        sys.exit(1)


if __name__ == "__main__":
    stage.main(deps)
