"""What a piece of `make gpu` leaves beside its records: a note of what made it, which vouches for them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lolm.accounting.resolve import resolve_run
from lolm.config import load_params, scale_of, tuned_arm
from lolm.records import fingerprint_of, read, sha256_of, write
from lolm.records.files import write_bytes
from pipeline.carried import MOST, index_hash
from pipeline.code import accepted_versions, code_of
from pipeline.environment import installed
from pipeline.stage import training_device

STAGES = ("sweep", "train", "evaluate", "ablate")
NOTES = Path("reports/gpu")
MODELLED_ON = {"transformers_llama": "transformer_modern", "transformers_mamba": "mamba"}  # whose sizes a step of theirs has


@dataclass(frozen=True)
class Made:
    """What one piece has left, ``reports/gpu/<piece>.json``.

    Attributes:
        device: its name; "cpu" of a rehearsal.
        software: versions.
        code: of each stage, see :func:`pipeline.code.code_of`.
        data: SHA-256 of the index of the shards; empty where text is no input.
        whole: whether nothing of the piece is left to do.
        files: its records below the project's folder, with the SHA-256 of each.
        values: what it measured besides.
        settings: hash of what params.yaml says of it, see :func:`settings_of`.
    """

    piece: str
    device: str
    software: dict[str, str]
    code: dict[str, str]
    data: str
    whole: bool
    files: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    settings: str = ""


def note_of(root: Path, piece: str) -> Path:
    return root / NOTES / f"{piece}.json"


def write_note(out: Path, piece: str, whole: bool, files: Sequence[Path] = (), **values: Any) -> None:
    """Copy a piece's records, paths below the project's folder, to ``out``, and then the note that vouches for them."""
    import torch

    device = torch.cuda.get_device_name() if training_device() == "cuda" else "cpu"
    for path in files:
        if out.resolve() != Path().resolve():
            write_bytes(out / path, path.read_bytes())
    hashes = {path.as_posix(): sha256_of(path) for path in files}
    code = {stage: code_of(stage) for stage in STAGES}
    made = Made(piece, device, software(), code, index_hash(_text_of(piece)), whole, hashes, values, settings_of(piece))
    write(note_of(out, piece), made)


def settings_of(piece: str) -> str:
    """Hash of the parameters that a piece is made from: the resolved run, with that whose learning rate it takes and what is
    measured of it; or, of a step, the run alone. Empty of a kernel, which has none.

    Raises:
        ConfigError: params.yaml has no such scale or arm.
    """
    kind, scale, name = (*piece.split("/"), "")[:3]
    if kind == "kernel":
        return ""
    params = load_params()
    if kind == "step":
        return fingerprint_of(resolve_run(params, scale, MODELLED_ON.get(name, name), 0))
    preset, (arm, _, seed) = scale_of(params, scale), name.rpartition("-")
    runs = resolve_run(params, scale, arm, int(seed)), resolve_run(params, scale, tuned_arm(params, scale, arm), 0)
    return fingerprint_of(*runs, preset.sweep, preset.evaluation, preset.ablation)


def _text_of(piece: str) -> str:
    """The scale whose text a piece reads; empty where it reads none."""
    return piece.split("/")[1] if piece.startswith("run/") else ""


def software() -> dict[str, str]:
    """Versions of what computes."""
    return {"python": platform.python_version()} | installed(("torch", "triton", "numpy"))


def is_made(piece: str, roots: Sequence[Path]) -> bool:
    """Whether a folder has the whole piece, made from the present text and parameters by code that gives the present results.
    What the CPU made is a rehearsal, and counts for nothing where there is a GPU."""
    notes = [read(note_of(root, piece), Made) for root in roots if note_of(root, piece).exists()]
    whole = [
        note for note in notes if note.whole and (note.device != "cpu" or training_device() == "cpu") and not other_code(note)
    ]
    if not whole:
        return False
    return (index_hash(_text_of(piece)), settings_of(piece)) in {(note.data, note.settings) for note in whole}


def other_code(note: Made) -> list[str]:
    return [stage for stage, code in note.code.items() if code not in (code_of(stage), *accepted_versions(stage))]


def size_of(pieces: Sequence[str], out: Path) -> str:
    """How large the notes and records of pieces are, with a word where that is more than may come back.

    Raises:
        RecordError: a note is damaged.
    """
    notes = [note_of(out, piece) for piece in pieces if note_of(out, piece).exists()]
    files = {out / name for note in notes for name in read(note, Made).files} | set(notes)
    size = sum(path.stat().st_size for path in files)
    return f"{size / 2**20:.1f} MiB" + (f" (more than {MOST / 2**20:.0f})" if size > MOST else "")
