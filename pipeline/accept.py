"""Accept that the present code gives the results that exist: `make accept WHY="moved the scan"`.

Runs the goldens. If they hold, the present code of each stage joins those that are taken to give the same results
(``reports/accepted.json``), and ``dvc.lock`` records the present code for the results it knows, so that a comment, a rename or a
move makes nothing again. Parameters and data stay as they are recorded: what an edit of those touches is still made again. So is
what older code has made, where a golden number has changed since: of that ``dvc.lock`` records the code of plan and pages alone.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lolm import LolmError
from lolm.config import load_params
from lolm.records import Layout, read, recorded_scales, write
from lolm.records.schema import RunHeader
from pipeline.code import (
    ACCEPTED,
    PACKAGES,
    Accepted,
    AcceptedCode,
    accepted_versions,
    code_hash,
    code_of,
    golden_hashes,
    still_hold,
)
from pipeline.dvc import override
from pipeline.dvc_state import LOCK, write_beside
from pipeline.run import child_environment
from pipeline.runs import THREAD_VARIABLES
from pipeline.stage import main

STAGES = ("sweep", "train", "evaluate", "ablate", "layers", "recall", "downstream")
RESTS_ON_NONE = ("plan", "report", "front")  # stages that no result rests on


class AcceptError(LolmError):
    """A golden does not hold, or DVC did not record the code."""


def accept() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--why", help="what was changed (default: the subject of the last commit)")
    parser.add_argument("--scale", help="with --study: only let dvc.lock record the code of the stages at this scale and study")
    parser.add_argument("--study", help="with --scale")
    parser.add_argument("--pages", action="store_true", help="with --scale: only of plan and pages, which no result rests on")
    args = parser.parse_args()
    if (args.scale is None) != (args.study is None):
        parser.error("--scale and --study go together")
    write_beside()
    if args.scale or args.study:
        override({"scale": args.scale, "study": args.study})
        of_older = args.pages or has_older_runs(args.scale, args.study)
        again = "; what older code has made, `dvc repro` makes again" if of_older else ""
        print(f"{args.scale}, {args.study}: code recorded of {record_code(pages_alone=of_older)} stages{again}")
        return
    hold_goldens()
    old, golden = read(ACCEPTED, AcceptedCode) if ACCEPTED.exists() else None, golden_hashes()
    changed = old is not None and not still_hold(old.golden, golden)
    if changed:
        print("golden numbers have changed: what was accepted before counts no more, and older results will be made again")
    present = {stage: code_hash(f"pipeline.{stage}") for stage in STAGES}
    commit, subject = _git("rev-parse", "--short", "HEAD"), _git("log", "-1", "--format=%s")
    write(ACCEPTED, accepted(old, golden, present, codes_of_records(), commit, args.why or subject))
    for scale, study in studies_in(LOCK):
        words = [sys.executable, "-m", "pipeline.accept", "--scale", scale, "--study", study, *(["--pages"] if changed else [])]
        if subprocess.run(words, check=False).returncode:
            raise AcceptError(f"dvc.lock: the code of scale {scale}, study {study} was not recorded; the reason stands above")


def hold_goldens() -> None:
    """Raises AcceptError when the present code computes something else."""
    environment = child_environment() | dict.fromkeys(THREAD_VARIABLES, "1")
    done = subprocess.run([sys.executable, "-m", "pytest", "tests/golden"], env=environment, check=False)
    if done.returncode:
        raise AcceptError(f"the goldens do not hold (pytest: status {done.returncode}): this code does not give the same results")


def accepted(
    old: AcceptedCode | None,
    golden: dict[str, str],
    present: Mapping[str, str],
    made_by: Iterable[str],
    commit: str,
    why: str,
) -> AcceptedCode:
    """The list with the present code at its end.

    Args:
        old: the list so far. Where a golden entry that it knows has changed, nothing of it counts.
        golden: hash of each entry of the golden file.
        present: hash of the present code by stage.
        made_by: hashes of the code that trained the runs there are: where there was no list, they begin it.
    """
    versions: dict[str, tuple[Accepted, ...]] = {}
    if old is None:
        versions["train"] = tuple(Accepted(code, "", "trained the first runs") for code in sorted(set(made_by)))
    elif still_hold(old.golden, golden):
        versions.update(old.stages)
    for stage, code in present.items():
        known = versions.get(stage, ())
        if code not in {version.code for version in known}:
            versions[stage] = (*known, Accepted(code, commit, why))
    return AcceptedCode(golden, versions)


def codes_of_records() -> Iterator[str]:
    """Code of every recorded run."""
    for scale in recorded_scales():
        layout = Layout(scale)
        for key in layout.recorded_runs():
            if layout.header(*key).exists():
                yield read(layout.header(*key), RunHeader).code


def studies_in(lock: Path) -> list[tuple[str, str]]:
    """(scale, study) of everything that a ``dvc.lock`` knows results of."""
    if not lock.exists():
        return []
    found = re.findall(r"^    cmd: .*--scale ([\w-]+) --study ([\w-]+)$", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return sorted(set(found))


def has_older_runs(scale: str, study: str) -> bool:
    """Whether a run of a study was trained by code that is not accepted: its stages are to be run again, which tell what of
    theirs is made. No run is of a scale or study that params.yaml has no more."""
    params = load_params()
    if scale not in params.scales or study not in params.studies:
        return False
    chosen, layout = params.studies[study], Layout(scale)
    same = {code_of("train"), *accepted_versions("train")}
    headers = (layout.header(arm, seed) for arm in chosen.arms for seed in chosen.seeds)
    return any(path.exists() and read(path, RunHeader).code not in same for path in headers)


def record_code(pages_alone: bool = False) -> int:
    """Let ``dvc.lock`` hold the present code for the stages it knows, or for those of them that no result rests on; returns how
    many."""
    from dvc.repo import Repo

    with Repo() as repo, repo.lock:
        known = set(re.findall(r"^  (\S+):$", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
        stages = [stage for stage in repo.index.stages if stage.name in known]
        if pages_alone:
            stages = [stage for stage in stages if stage.name.partition("@")[0] in RESTS_ON_NONE]
        for stage in stages:
            for dep in stage.deps:
                if dep.exists and (dep.def_path.split("/")[0] in PACKAGES or not dep.hash_info):  # the latter: new in dvc.yaml
                    dep.save()
            stage.dump(update_pipeline=False)
        return len(stages)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main(accept)
