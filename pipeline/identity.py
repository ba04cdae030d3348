"""Whether a record was made from the present inputs.

A run is told by its resolved configuration, its data, its code, device and kernels, all of which its header holds. A measurement
holds one hash of what it was made from: settings, data, weights and code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from lolm import LolmError
from lolm.config import RunConfig, to_mapping
from lolm.data.stream import TokenStream
from lolm.ops.backends import choose_backend
from lolm.records import (
    FINAL_WEIGHTS,
    Layout,
    RecordError,
    RunKey,
    cooldown_path,
    essence,
    fingerprint_of,
    made_by,
    read,
    read_mapping,
    sha256_of,
    snapshot_path,
)
from lolm.records.schema import DataChecksums, Divergence, Identity, RunHeader, Summary
from pipeline.code import accepted_versions, code_of
from pipeline.environment import DEVICE, RECORDED, said
from pipeline.stage import training_device


def data_of(layout: Layout) -> DataChecksums:
    """Checksums of the splits that a run reads."""
    return DataChecksums(*(_checksum(layout.shards, split) for split in ("train", "validation")))


def fingerprint_of_run(run: RunConfig, data: DataChecksums) -> str:
    """Short hash of all that decides the bits of a run made now, here."""
    device = training_device()
    return fingerprint_of(run, asdict(data), code_of("train"), device, choose_backend(device, run.training.kernels))


def why_train(layout: Layout, key: RunKey, run: RunConfig, measurements: Iterable[Path] = ()) -> str | None:
    """Why a run is to be trained; None where its records and weights are there and of the present inputs.

    Args:
        measurements: records that must be there too where records alone suffice, as for :data:`RECORDED`.
    """
    data = data_of(layout)
    try:
        if layout.divergence(*key).exists():
            same = read(layout.divergence(*key), Divergence).fingerprint == fingerprint_of_run(run, data)
            return None if same else "it diverged, under other parameters or code"
        if not all(path(*key).exists() for path in (layout.header, layout.series, layout.summary)):
            return "no record"
        header, summary = read(layout.header(*key), RunHeader), read(layout.summary(*key), Summary)
    except RecordError:
        return "its record cannot be read"
    device = training_device()
    changed = differences(to_mapping(header.run), to_mapping(run))
    if essence(header.run) != essence(run):
        return f"other parameters: {', '.join(changed[:3])}{', …' if len(changed) > 3 else ''}"
    if header.data != data:
        return "other data"
    if header.code not in (code_of("train"), *accepted_versions("train")):
        return "other code (`make accept` tells what changes no result)"
    # Which kernels work on another machine is known there.
    kernels = header.kernels if said(DEVICE) else choose_backend(device, run.training.kernels)
    if (header.device, header.kernels) != (device, kernels):
        return f"made on {header.device} with {header.kernels} kernels"
    if weights := _weights(layout, key):
        return None if _are_trained(weights, header, summary) else "weights are not those that were trained"
    if not said(RECORDED):
        return "no weights"
    left = [path.as_posix() for path in measurements if not _is_of(header, path)]
    return f"no weights to make {left[0]} with" if left else None


def _weights(layout: Layout, key: RunKey) -> dict[str, Path]:
    """Files of a run's weights, by their names in its record."""
    folder = layout.weights(*key)
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.safetensors"))}


def _are_trained(weights: dict[str, Path], header: RunHeader, summary: Summary) -> bool:
    """Whether all weights of a run are there, with the bytes that were trained; of a record without digests, whether they are
    there."""
    if summary.weights:
        return all(name in weights and _file_hash(weights[name]) == digest for name, digest in summary.weights.items())
    training = header.run.training
    inside = [snapshot_path(Path(), step) for step in training.snapshot_steps]
    ends = [cooldown_path(Path(), step) for step in training.cooldown_steps]
    return all(path.as_posix() in weights for path in (Path(FINAL_WEIGHTS), *inside, *ends))


def _is_of(header: RunHeader, path: Path) -> bool:
    """Whether a measurement is there and of this run."""
    return path.exists() and read_mapping(path, fingerprint=str)["fingerprint"] == header.fingerprint


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The settings in which two mappings differ, as ``a.b: 1 → 2``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))]
    return [] if old == new else [f"{where}: {old} → {new}"]


def inputs_of(stage: str, settings: Any, *hashes: str) -> str:
    """What a record of a stage is made from, as one hash.

    Args:
        settings: the configuration it rests on, see :func:`lolm.records.essence`.
        hashes: of data and weights.
    """
    return fingerprint_of(settings, hashes, code_of(stage), training_device())


def measured_from(layout: Layout, key: RunKey, path: Path, kind: type[Identity], inputs: str) -> str | None:
    """Why a measurement of a run is to be made; None where its record is there, of this run and of these inputs, or where there
    is nothing to measure, as the run diverged."""
    if layout.divergence(*key).exists():
        return None
    if not path.exists():
        return "no record"
    record = read(path, kind)
    if record.fingerprint != read(layout.header(*key), RunHeader).fingerprint:
        return "of another run"
    if said(RECORDED) and not _weights(layout, key):
        return None
    return None if record.inputs == inputs else "other settings, weights, data or code"


def text_hashes(layout: Layout) -> tuple[str, ...]:
    """Hashes of tokenizer and splits that a measurement on text reads."""
    splits = (_checksum(layout.shards, split) for split in ("train", "validation", "test"))
    return (_file_hash(layout.tokenizer / "tokenizer.model"), *splits)


def weights_hash(layout: Layout, key: RunKey) -> str:
    """Hash of all weights of a run, and of the run they are of."""
    return fingerprint_of([(name, _file_hash(path)) for name, path in _weights(layout, key).items()])


@cache
def _checksum(folder: Path, split: str) -> str:
    return TokenStream.open(folder, split).checksum


@cache
def _file_hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except FileNotFoundError:
        raise LolmError(f"{path}: is not there; run `{made_by(path)}` to make it") from None
