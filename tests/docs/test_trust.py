"""What others need in order to trust and to install it: the lock with hashes, the containers, the metadata of the corpus."""

import hashlib
import json
import lzma
import re
import tomllib

import pytest
from builders import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EMBEDDED = ROOT / "lolm/corpus/embedded"


def locked() -> dict[str, tuple[str, int]]:
    """Of each package of the lock its version and how many hashes it has."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    found = {}
    for block in blocks:
        if pinned := re.match(r"([\w.-]+)(?:\[[^]]*\])?==([\w.!+-]+)", block):
            found[canonicalize_name(pinned[1])] = (pinned[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)))
    return found


def test_every_package_of_the_lock_has_hashes_and_the_version_of_the_constraints():
    lock = locked()
    assert lock
    assert [name for name, (_, hashes) in lock.items() if not hashes] == []
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(line.partition("==")[0]): re.split(r"[;#]", line.partition("==")[2])[0].strip() for line in lines}
    assert {name: version for name, (version, _) in lock.items() if pins.get(name, version) != version} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["test"]):
        asked = Requirement(text)
        assert asked.specifier.contains(lock[canonicalize_name(asked.name)][0]), f"{text}: run `make lock`"


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_containers_build_from_the_lock(name):
    """Nothing builds them here: what they copy is there, and they install no package that the lock has not."""
    text = (ROOT / "containers" / f"{name}.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    assert "pip install --require-hashes -r requirements.lock" in text
    for line in re.findall(r"^COPY (.*) \S+$", text, flags=re.M):
        assert all((ROOT / file).exists() for file in line.split())
    assert "setuptools" in locked(), "the project itself is built without the network"


def test_metadata_of_the_corpus_is_of_the_corpus():
    metadata = json.loads((EMBEDDED / "croissant.json").read_text(encoding="utf-8"))
    (file,), (records,) = metadata["distribution"], metadata["recordSet"]
    raw = (EMBEDDED / file["contentUrl"]).read_bytes()
    assert file["sha256"] == hashlib.sha256(raw).hexdigest()
    assert file["contentSize"] == f"{len(raw)} B"
    rows = [json.loads(line) for line in lzma.decompress(raw).decode().splitlines()]
    size = sum(len(row["text"].encode()) for row in rows)
    assert f"{len(rows)} English documents, {size:,} bytes of text" in metadata["description"]
    assert {field["name"] for field in records["field"]} == set(rows[0])
    assert len({row["id"] for row in rows}) == len(rows)


def test_the_data_card_has_the_splits_of_the_records():
    card = (EMBEDDED / "README.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "reports/tiny/corpus.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| (train|validation|test) \| (\d+) \| ([\d,]+) \| (\d+) books.*?(\d+) messages \|$", card, flags=re.M)
    found = {split: {"documents": int(count), "bytes": int(size.replace(",", ""))} for split, count, size, _, _ in rows}
    assert found == record["splits"]
    sources = record["sources"]
    for split, _, _, books, messages in rows:
        counts = {name: part.get(f"{split}_documents", 0) for name, part in sources.items()}
        assert (counts["books"] + counts["books_austen"], counts["sotu"]) == (int(books), int(messages))
    assert f"{record['documents']} English documents, {record['bytes']:,} bytes" in card


def test_metadata_of_the_corpus_is_croissant(monkeypatch):
    mlcroissant = pytest.importorskip("mlcroissant", reason="pip install mlcroissant")
    monkeypatch.chdir(EMBEDDED)
    dataset = mlcroissant.Dataset("croissant.json")
    assert not dataset.metadata.ctx.issues.errors
