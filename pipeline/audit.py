"""Whether a fault is known of a package that ``requirements.lock`` pins, by a list of faults that is at hand.

``python -m pipeline.audit FOLDER [--record FILE]`` reads a copy of PyPA's advisory database, or any folder of YAML or JSON files
in the OSV schema (https://ossf.github.io/osv-schema), so that it needs no network; `make audit` without ``ADVISORIES=`` asks the
public list by pip-audit. A version is affected when an advisory lists it, or when it lies in one of its ranges.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

from lolm import LolmError
from lolm.records.identity import sha256_of
from lolm.records.store import write_json
from pipeline.stage import main

LOCK = Path("requirements.lock")


@dataclass(frozen=True)
class Finding:
    """An advisory that names a pinned version."""

    package: str
    version: str
    advisory: str


@dataclass(frozen=True)
class Audit:
    """What a list of faults says of a lock.

    ``lock_sha256`` is of the lock's bytes, ``newest`` the day of the list's youngest change (ISO 8601): of faults that were found
    later it knows nothing.
    """

    lock_sha256: str
    newest: str
    advisories: int
    pins: int
    pins_with_advisories: int
    findings: list[Finding]


def pins(lock: Path) -> dict[NormalizedName, Version]:
    """Versions by canonical name of the lines ``name==version`` of a lock.

    Raises:
        LolmError: no pin is in the file, or one is not exact.
    """
    found: dict[NormalizedName, Version] = {}
    for number, line in enumerate(lock.read_text(encoding="utf-8").splitlines(), start=1):
        if not re.match(r"[A-Za-z0-9]", line):  # hashes and comments
            continue
        try:
            requirement = Requirement(line.removesuffix("\\").strip())
            (pin,) = requirement.specifier
            if pin.operator != "==":
                raise ValueError
            found[canonicalize_name(requirement.name)] = Version(pin.version)
        except (InvalidRequirement, InvalidVersion, ValueError) as error:
            raise LolmError(f"{lock}, line {number}: {line!r} is no exact pin; make the lock again with `make lock`") from error
    if not found:
        raise LolmError(f"{lock} pins no package; make the lock again with `make lock`")
    return found


def affects(affected: Mapping[str, Any], version: Version) -> bool:
    """Whether one ``affected`` entry of the OSV schema names this version, in its list or in one of its ranges."""
    if str(version) in affected.get("versions", []):
        return True
    ranges = [each["events"] for each in affected.get("ranges", []) if each["type"] != "GIT"]  # commits say nothing of versions
    return any(_inside(events, version) for events in ranges)


def _inside(events: list[Mapping[str, str]], version: Version) -> bool:
    """The schema's own rule: in the order of versions, the last event at or before this one decides."""
    inside = False
    for kind, at in sorted(((kind, at) for event in events for kind, at in event.items()), key=lambda event: _place(event[1])):
        place = _place(at)
        if kind == "introduced" and version >= place:
            inside = True
        elif (kind == "fixed" and version >= place) or (kind == "last_affected" and version > place):
            inside = False
    return inside


def _place(version: str) -> Version:
    return Version(version) if version != "0" else Version("0.dev0")  # the schema's word for "from the first one"


def advisories(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every advisory below a folder that was not withdrawn, with its file.

    Raises:
        LolmError: there is none, or a file is not one of the OSV schema.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".yaml", ".yml", ".json"})
    if not files:
        raise LolmError(f"{folder} has no advisory (*.yaml, *.json); get the list from https://github.com/pypa/advisory-database")
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
            advisory = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml.CSafeLoader)
            known = {"id": str, "modified": object, "affected": list}
            if not all(isinstance(advisory[key], kind) for key, kind in known.items()):
                raise TypeError
        except (ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            raise LolmError(f"{path} is no advisory of the OSV schema (id, modified, affected); get the list again") from error
        if not advisory.get("withdrawn"):
            yield path, advisory


def audit(lock: Path, folder: Path) -> Audit:
    """Compare every pin of a lock with a folder of advisories.

    Raises:
        LolmError: the lock or the folder cannot be read as what it should be.
    """
    pinned = pins(lock)
    named: set[str] = set()
    findings, count, newest = [], 0, ""
    for path, advisory in advisories(folder):
        count += 1
        newest = max(newest, _day(advisory["modified"]))
        for affected in advisory["affected"]:
            package = affected.get("package", {})
            name = canonicalize_name(str(package.get("name", "")))
            if package.get("ecosystem") != "PyPI" or name not in pinned:
                continue
            named.add(name)
            try:
                hit = affects(affected, pinned[name])
            except (InvalidVersion, KeyError, AttributeError, TypeError) as error:
                raise LolmError(f"{path}: its ranges cannot be read ({error}); get the list again") from error
            if hit:
                findings.append(Finding(name, str(pinned[name]), advisory["id"]))
    findings = sorted(set(findings), key=lambda finding: (finding.package, finding.advisory))
    return Audit(sha256_of(lock), newest, count, len(pinned), len(named), findings)


def _day(moment: object) -> str:
    return str(moment)[:10]  # a string in JSON, a datetime in YAML; both begin with the day


def say() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a copy of a list of faults in the OSV schema")
    parser.add_argument("--record", type=Path, help="write what was found to this JSON file too")
    args = parser.parse_args()
    found = audit(LOCK, args.folder)
    if args.record:
        write_json(args.record, asdict(found))
    print(
        f"{found.pins} pins, {found.advisories} advisories up to {found.newest}: {found.pins_with_advisories} packages are "
        f"named, {len(found.findings)} times with the pinned version"
    )
    for finding in found.findings:
        print(f"{finding.package} {finding.version}: {finding.advisory}")
    if found.findings:
        raise LolmError("a package above has a known fault; raise it in pyproject.toml and run `make lock`")


if __name__ == "__main__":
    main(say)
