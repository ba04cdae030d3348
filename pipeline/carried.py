"""Tokenizer and shards in one file, for a machine without a network: packed where the text is, unpacked where runs are made."""

from __future__ import annotations

import lzma
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm import LolmError, one_line
from lolm.config import load_params
from lolm.config.ranges import Name
from lolm.records import Layout, atomic_folder, essence, read, sha256_of, write
from lolm.records.files import write_bytes
from pipeline.jobs import foreground

HUB = ("name", "subset", "split", "id_field", "max_bytes")  # settings of a corpus that say nothing of the text that is carried
ARCHIVE, DIGESTS = "shards.tar.xz", "carried.json"
MOST = 60 * 2**20  # bytes carried
# Two bytes a token: the coder's contexts follow the parity of the position.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 3, "lp": 1, "pb": 1}]


@dataclass(frozen=True)
class Carried:
    """What lies beside the archive: the scales it is of, its SHA-256, and that of the shards' index."""

    scales: tuple[Name, ...]
    archive: str
    index: str


class GPUError(LolmError):
    """A step that cannot be made here, was not made whole, or whose records are refused."""


def index_hash(scale: str) -> str:
    return sha256_of(Layout(scale).shards / "index.json") if scale else ""


def prepare(folder: Path, scales: Sequence[str]) -> None:
    """Make corpus, tokenizer and shards of the first scale, and pack what a run reads of them for all.

    Raises:
        GPUError: the scales read other text, a stage failed, or the archive is too large to carry.
    """
    params = load_params()
    same = {scale: [read_of(params.scales[scale].corpus), *map(essence, _rest(params.scales[scale]))] for scale in scales}
    other = [scale for scale in scales if same[scale] != same[scales[0]]]
    if other:
        raise GPUError(f"scales.{other[0]}: corpus, tokenizer and shards must be those of {scales[0]}, which are carried for it")
    for name in ("corpus", "tokenizer", "shards"):
        if foreground([sys.executable, "-m", f"pipeline.{name}", "--scale", scales[0]], os.environ):
            raise GPUError(f"{name} of {scales[0]} failed; the reason stands above")
    layout = Layout(scales[0])
    with atomic_folder(folder) as made:
        with lzma.open(made / ARCHIVE, "wb", filters=FILTERS) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
            for path in (layout.tokenizer, layout.shards, layout.corpus_record, layout.shards_record):
                archive.add(path, path.name)
        size = (made / ARCHIVE).stat().st_size
        if size > MOST:
            raise GPUError(
                f"{size / 2**20:.0f} MiB to carry, {MOST / 2**20:.0f} are allowed; take less text into "
                f"scales.{scales[0]}.corpus.path, or set its max_bytes"
            )
        index = sha256_of(layout.shards / "index.json")
        write(made / DIGESTS, Carried(tuple(scales), sha256_of(made / ARCHIVE), index))
    print(f"{folder / ARCHIVE}: {size / 2**20:.1f} MiB, SHA-256 {sha256_of(folder / ARCHIVE)}")


def read_of(corpus: Any) -> dict[str, Any]:
    return {key: value for key, value in essence(corpus).items() if key not in HUB}


def _rest(preset: Any) -> tuple[Any, Any]:
    return preset.tokenizer, preset.shards


def unpack(folder: Path) -> None:
    """Lay tokenizer and shards where the runs look for them.

    Raises:
        GPUError: nothing was carried, it has another digest, or a scale has other shards already.
        RecordError: what is told of it is broken.
    """
    if not (folder / DIGESTS).exists():
        raise GPUError(f"{folder / DIGESTS}: no such file; `make gpu-shards` makes the folder where the text is")
    told, place = read(folder / DIGESTS, Carried), Path(".scratch/carried")
    layouts = [Layout(scale) for scale in told.scales]
    there = {layout.scale: index_hash(layout.scale) for layout in layouts if (layout.shards / "index.json").exists()}
    for scale, index in there.items():
        if index != told.index:
            raise GPUError(f"{Layout(scale).shards}: other shards than those that were carried; remove the folder to take these")
    if len(there) == len(layouts):
        return
    if sha256_of(folder / ARCHIVE) != told.archive:
        raise GPUError(f"{folder / ARCHIVE}: not the file that {DIGESTS} was written for; carry both again")
    try:
        with atomic_folder(place) as made, tarfile.open(folder / ARCHIVE, "r:xz") as archive:
            archive.extractall(made, filter="data")
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise GPUError(f"{folder / ARCHIVE}: cannot be unpacked ({one_line(error)}); `make gpu-shards` makes it again") from None
    for layout in (layout for layout in layouts if layout.scale not in there):
        for target in (layout.corpus_record, layout.shards_record):
            write_bytes(target, (place / target.name).read_bytes())
        for target in (layout.tokenizer, layout.shards):  # the shards last: with them the scale counts as unpacked
            with atomic_folder(target) as made:
                shutil.copytree(place / target.name, made, dirs_exist_ok=True)
    shutil.rmtree(place)
