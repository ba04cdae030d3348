"""Random parameter files, and random damage to the files of each reader: a LolmError or a sound value, never a traceback."""

from __future__ import annotations

import copy
import gzip
import json
import lzma
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minicorpus import make_texts
from study import cureless, parameters, sized

from lolm import LolmError
from lolm.config import CorpusConfig, load_params
from lolm.corpus.sources import read_documents

MESS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 2, 10**9, 10**4000, -0.0, 1e-300, 1e300, math.inf, -math.inf, math.nan, True, False, None]),
    st.floats(),
    st.sampled_from([end + more for end in (1024, 65_535, 2**20, 2**31 - 1, 2**53) for more in (0, 1)]),  # upper ends
    st.text(max_size=8),
    st.sampled_from(
        ["", "lolm", "010", "1:30", "yes", "1e5", "a;touch INJ", "$(touch INJ)", "../../x", "a b", "é", "\x00", "{{x}}"]
    ),
    st.lists(st.integers(-3, 3), max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers(-3, 3), max_size=3),
)
# Keys that take what is below zero; all other numbers of a file that is accepted are finite and not negative.
SIGNED = ("regime_entropy_weight", "bias", "logit", "offset", "gate_values", "calibration", "init")
SPLICES = [
    b"\x00",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 2000,
    b"9" * 5000,
    b"NaN",
    b"-Infinity",
    b"\\ud800",
    b'"',
    b"}",
    b"\n",
    b",",
    b"5",
    b"null",
]


def tried(sample: int, whole: int):
    """Run a property on so many examples, the same ones each time."""
    common = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
    return lambda count: settings(
        max_examples={"sample": sample, "all": int(os.environ.get("LOLM_FUZZ", whole))}[count], **common
    )


def leaves(tree: Any, where: tuple = ()) -> list[tuple]:
    """Paths of all mappings, lists and scalars below a value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path for key, value in items for path in ((*where, key), *leaves(value, (*where, key)))]


def at(tree: Any, path: tuple) -> Any:
    for key in path:
        tree = tree[key]
    return tree


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
BASE = parameters()
PATHS = leaves(BASE)


@st.composite
def files(draw) -> tuple[str, list[tuple]]:
    """A parameter file with some values, keys or bytes changed, and where."""
    tree, changed = copy.deepcopy(BASE), []
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PATHS))
        try:
            parent = at(tree, path[:-1])
            what = draw(st.sampled_from(["value", "value", "value", "gone", "key"]))
            if what == "value":
                parent[path[-1]] = draw(MESS)
                changed.append(path)
            elif what == "gone":
                del parent[path[-1]]
            elif isinstance(parent, dict):
                parent[draw(st.text(max_size=6))] = parent.pop(path[-1])
        except (KeyError, IndexError, TypeError):  # changed away before
            continue
    text = yaml.dump(tree, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.text(max_size=5)) + text[place + draw(st.integers(0, 3)) :]
    return text, changed


def implausible(params: Any) -> list[str]:
    """Numbers in accepted parameters that no key may have."""
    from dataclasses import asdict

    tree = asdict(params)
    numbers = ((path, at(tree, path)) for path in leaves(tree))
    return [
        f"{'.'.join(map(str, path))}: {value}"
        for path, value in numbers
        if isinstance(value, float | int) and (not math.isfinite(value) or value < 0 and not any(s in str(path) for s in SIGNED))
    ]


@pytest.mark.parametrize("count", sized(["sample"], ["all"]))
def test_parameter_files(tmp_path, table, count):
    path = tmp_path / "params.yaml"

    @tried(100, 5000)(count)
    @given(files())
    def holds(drawn: tuple[str, list[tuple]]) -> None:
        path.write_text(drawn[0], encoding="utf-8", errors="surrogatepass")
        said = ""
        try:
            params = load_params(path)
        except LolmError as error:
            said = f"error: {error}".partition("\n")[0]
        else:
            assert not implausible(params)
        table.add("random parameters", "params.yaml", said)

    holds()


def rows(texts: dict[str, str]) -> bytes:
    return "".join(json.dumps({"id": key, "text": text, "more": [1, {"a": 2.5}]}) + "\n" for key, text in texts.items()).encode()


def documents(path: Path) -> int:
    return sum(
        len(document.text.encode(errors="surrogatepass"))
        for document in read_documents(CorpusConfig(source="local", path=str(path)))
    )


def _records(name: str) -> Callable[[Path], Any]:
    from lolm.records import read, schema

    return lambda path: read(path, getattr(schema, name))


def _series(path: Path) -> Any:
    from lolm.records import read_series

    return read_series(path)


def _tokenizer(path: Path) -> Any:
    from lolm.corpus.tokenizer import Tokenizer

    return Tokenizer.load(path.parent).encode("a text")


def _shards(path: Path) -> Any:
    from lolm.data.stream import TokenStream

    folder = path.parent if path.parent.name == "shards" else path.parents[1]
    stream = TokenStream.open(folder, "validation")
    stream.verify()
    return stream.window(0, len(stream)), stream.document_ids()


def _checkpoint(path: Path) -> Any:
    from lolm.training.checkpoint import load_checkpoint

    return load_checkpoint(path)


def _accepted(path: Path) -> Any:
    from pipeline.code import accepted_versions

    return accepted_versions("train", path.parents[1])


MADE = Path(__file__).parents[2] / "reports"
COMMITTED = {
    "sweep": ("tiny/sweep/lolm.json", _records("Sweep")),
    "config": ("tiny/train/lolm-1/config.json", _records("RunHeader")),
    "summary": ("tiny/train/lolm-1/summary.json", _records("Summary")),
    "accepted": ("accepted.json", _accepted),
}
READERS = [
    *("a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.txt", "a.parquet", *COMMITTED, "series", "series.xz", "checkpoint.pt"),
    *("tokenizer.json", "tokenizer.model", "index.json", "documents.npy", "documents.json", "00000.bin", "token_bytes.npy"),
]
SAMPLED = ["a.jsonl", "a.jsonl.gz", "sweep", "index.json"]


@pytest.fixture
def readable(tmp_path, data) -> Callable[[str], tuple[Path, bytes, Callable[[Path], Any]]]:
    """A sound file of a kind, and its reader."""
    import shutil

    def make(kind: str) -> tuple[Path, bytes, Callable[[Path], Any]]:
        texts = make_texts(6)
        if kind.startswith("a."):
            path = tmp_path / "corpus" / kind
            path.parent.mkdir()
            if kind == "a.parquet":
                import pyarrow as pa
                import pyarrow.parquet as pq

                pq.write_table(pa.table({"id": list(texts), "text": list(texts.values()), "n": [1] * 6}), path)
                return path, path.read_bytes(), documents
            pack = {".gz": gzip.compress, ".xz": lzma.compress, ".txt": lambda raw: raw}.get(path.suffix, lambda raw: raw)
            return path, pack(rows(texts) if kind != "a.txt" else texts["set/000"].encode()), documents
        if kind in COMMITTED:
            name, reader = COMMITTED[kind]
            (tmp_path / "reports").mkdir()
            return tmp_path / "reports" / Path(name).name, (MADE / name).read_bytes(), reader
        if kind.startswith("series"):
            raw = b"".join(
                json.dumps({"step": i, "tokens": i, "flops": i, "seconds": 0.5, "val/nats": 2.5}).encode() + b"\n"
                for i in range(9)
            )
            path = tmp_path / ("metrics.jsonl" + kind.removeprefix("series"))
            return path, lzma.compress(raw) if path.suffix == ".xz" else raw, _series
        if kind == "checkpoint.pt":
            import torch

            from lolm.training.checkpoint import save_checkpoint

            save_checkpoint(tmp_path / kind, {"model": {"w": torch.arange(300.0)}, "progress": {"step": 3}})
            return tmp_path / kind, (tmp_path / kind).read_bytes(), _checkpoint
        for name in ("tokenizer", "shards"):
            shutil.copytree(data / name, tmp_path / name)
        place = {"index.json": "shards", "token_bytes.npy": "shards"}.get(kind, "shards/validation")
        path = tmp_path / ("tokenizer" if kind.startswith("tokenizer") else place) / kind
        return path, path.read_bytes(), _tokenizer if kind.startswith("tokenizer") else _shards

    return make


@st.composite
def damages(draw) -> list[tuple]:
    one = st.tuples(
        st.sampled_from(["flip", "cut", "splice", "drop", "repeat"]), st.floats(0, 1, exclude_max=True), st.integers(0, 255)
    )
    return draw(st.lists(one, min_size=1, max_size=3))


def applied(raw: bytes, changes: list[tuple]) -> bytes:
    for what, share, number in changes:
        place = int(share * len(raw))
        if what == "flip" and raw:
            raw = raw[:place] + bytes([raw[place] ^ (number or 1)]) + raw[place + 1 :]
        elif what == "cut":
            raw = raw[:place]
        elif what == "splice":
            raw = raw[:place] + SPLICES[number % len(SPLICES)] + raw[place:]
        elif what == "drop":
            raw = raw[:place] + raw[place + 1 + number :]
        else:
            raw = raw[:place] + raw[place : place + number] * 2 + raw[place + number :]
    return raw


@pytest.mark.parametrize(("kind", "count"), sized([(kind, "sample") for kind in SAMPLED], [(kind, "all") for kind in READERS]))
def test_readers(readable, table, kind, count):
    path, raw, reader = readable(kind)

    @tried(100, 2000)(count)
    @given(damages())
    def holds(changes: list[tuple]) -> None:
        path.write_bytes(applied(raw, changes))
        said = ""
        try:
            reader(path)
        except LolmError as error:
            said = f"error: {error}"
            assert "\n" not in said, said
            assert any(part in said for part in (path.name, path.parent.name)), said
            assert not cureless(said), said
        table.add("random damage", kind, said.replace(str(path.parent), "…"))

    path.write_bytes(raw)
    reader(path)
    holds()
