"""Pins against a list of faults: planted advisories of every shape of the OSV schema, hand-made versions, and broken files."""

import json
import re

import pytest
import yaml
from builders import ROOT
from packaging.version import Version

from lolm import LolmError
from pipeline.audit import affects, audit, pins


def _ranges(*events):
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


@pytest.mark.parametrize(
    ("affected", "inside", "outside"),
    [
        ({"versions": ["1.2", "1.3rc1"]}, ["1.2", "1.3rc1"], ["1.2.1", "1.3"]),
        (_ranges({"introduced": "0"}, {"fixed": "2.11.3"}), ["0.0.dev1", "2.9", "2.11.3rc1"], ["2.11.3", "3.0"]),
        (_ranges({"introduced": "1.0"}, {"last_affected": "1.10"}), ["1.0", "1.9", "1.10"], ["0.9", "1.10.1"]),
        (_ranges({"introduced": "1"}, {"fixed": "1.4"}, {"introduced": "2"}, {"fixed": "3"}), ["1.3", "2.1"], ["1.4", "3"]),
        (_ranges({"fixed": "2.2"}, {"introduced": "2"}), ["2.0"], ["1.9", "2.2"]),  # in any order
        (_ranges({"introduced": "3.0"}), ["3.0", "99"], ["2.9"]),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, [], ["1.0"]),  # commits say nothing of a version
    ],
)
def test_a_version_is_named_by_its_list_or_range(affected, inside, outside):
    assert [version for version in inside + outside if affects(affected, Version(version))] == inside


def _advisory(folder, name, package="Some_Package", ecosystem="PyPI", **more):
    affected = [{"package": {"name": package, "ecosystem": ecosystem}, **_ranges({"introduced": "0"}, {"fixed": "2.0"})}]
    advisory = {"id": name, "modified": "2026-02-03T04:05:06Z", "affected": affected, **more}
    (folder / package).mkdir(exist_ok=True)
    text = json.dumps(advisory) if name.startswith("GHSA") else yaml.safe_dump(advisory)
    (folder / package / f"{name}.{'json' if name.startswith('GHSA') else 'yaml'}").write_text(text)


def test_findings_are_those_of_pinned_packages_alone(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("# made by a tool\nother==9\nsome-package==1.5 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n")
    faults = tmp_path / "faults"
    faults.mkdir()
    _advisory(faults, "PYSEC-1")
    _advisory(faults, "GHSA-1")
    _advisory(faults, "PYSEC-2", withdrawn="2026-01-01T00:00:00Z")
    _advisory(faults, "PYSEC-3", package="not-pinned")
    _advisory(faults, "PYSEC-4", package="other")  # fixed long ago
    _advisory(faults, "PYSEC-5", ecosystem="npm")
    found = audit(lock, faults)
    assert [(each.package, each.version, each.advisory) for each in found.findings] == [
        ("some-package", "1.5", "GHSA-1"),
        ("some-package", "1.5", "PYSEC-1"),
    ]
    assert (found.pins, found.pins_with_advisories, found.advisories, found.newest) == (2, 2, 5, "2026-02-03")


def test_every_package_of_the_lock_is_read():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    written = re.findall(r"^[\w.-]+(?:\[.*?\])?==(\S+)", text, re.M)
    found = pins(ROOT / "requirements.lock")
    assert {str(version) for version in found.values()} == set(written)
    assert len(found) == len(written) > 200


@pytest.mark.parametrize("text", ["", "[1", "id: X\nmodified: 2026-01-01", "id: X\nmodified: 1\naffected: none", "\x00"])
def test_a_file_that_is_no_advisory_is_named(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(LolmError, match=r"bad\.yaml is no advisory .* get the list again"):
        audit(ROOT / "requirements.lock", tmp_path)


def test_ranges_that_cannot_be_read_are_named(tmp_path):
    lock = tmp_path / "lock"
    lock.write_text("some-package==1.5\n")
    package = {"name": "some-package", "ecosystem": "PyPI"}
    _advisory(tmp_path, "PYSEC-1", affected=[{"package": package, **_ranges({"introduced": "one"})}])
    with pytest.raises(LolmError, match=r"PYSEC-1\.yaml: its ranges cannot be read .*one.* get the list again"):
        audit(lock, tmp_path)


def test_an_empty_folder_and_a_lock_without_pins_are_told(tmp_path):
    with pytest.raises(LolmError, match="has no advisory"):
        audit(ROOT / "requirements.lock", tmp_path)
    for text, said in (("", "pins no package"), ("torch>=2\n", "line 1: 'torch>=2' is no exact pin")):
        (tmp_path / "lock").write_text(text)
        with pytest.raises(LolmError, match=said):
            audit(tmp_path / "lock", tmp_path)


def test_what_security_says_is_what_was_recorded():
    said = (ROOT / "SECURITY.md").read_text(encoding="utf-8").replace("\n", " ")
    found = json.loads((ROOT / "docs/audit-2026-11-29.json").read_text(encoding="utf-8"))
    named = f"names {found['pins_with_advisories']} of the {found['pins']} pinned packages"
    assert f"{named} and **none of their pinned versions**" in said
    assert (found["findings"], found["newest"]) == ([], "2024-10-10")
    assert "10 October 2024" in said
