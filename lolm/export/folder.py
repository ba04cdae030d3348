"""A run as a folder of the ``transformers`` library, and back."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lolm import LolmError, one_line
from lolm.config import RunConfig, load_params, to_mapping
from lolm.config.arguments import argument
from lolm.corpus.tokenizer import EOS, Tokenizer, tokenizer_of
from lolm.export.native import from_native, lacking, to_native
from lolm.export.tokenizer import to_fast
from lolm.external.load import transformers
from lolm.models.build import build_model
from lolm.models.language_model import LanguageModel
from lolm.records import (
    Layout,
    RecordError,
    RunKey,
    atomic_folder,
    fingerprint_of,
    read,
    read_mapping,
    run_of,
    sha256_of,
    write,
    write_text,
)
from lolm.records.results import load_run as load_records
from lolm.records.schema import RunHeader
from lolm.source import flat_modules
from lolm.training.checkpoint import load_run

HEADER, PIECES = "lolm.json", "sentencepiece.model"  # beside the library's files: the run's header, and its tokenizer's own file
DIGESTED = ("*.safetensors", "tokenizer*.json", PIECES)  # weights and tokenizer
WRITTEN = (  # names in an export of this version or an earlier one
    *(HEADER, PIECES, "README.md", "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "lolm.py", "lolm_*.py", "*_lolm.py"),
)
PREFIX = "model."  # of our weights' names in the library's file
OWN = "LolmForCausalLM"


class ExportError(LolmError):
    """A run that cannot be exported, or a folder that is no export; says what to do."""


@dataclass(frozen=True)
class ExportHeader(RunHeader):
    """``lolm.json``: the run's header, and what the folder is held against when it is opened.

    Attributes:
        sha256: of each file of weights and tokenizer; empty in exports from before they were taken.
        settings: fingerprint of ``run``; empty as ``sha256``.
        step: whose weights these are; None: the run's last.
        annealed: whether they are of a copy of the run that was annealed to an end at ``step``.
    """

    sha256: dict[str, str] = field(default_factory=dict)
    settings: str = ""
    step: int | None = None
    annealed: bool = False


def export(run: str | Path, to: str | Path | None = None, *, step: int | None = None, annealed: bool = False) -> Path:
    """Write a trained run as a folder that ``from_pretrained`` of the library's Auto classes reads, whole or not at all.

    It is a class of the library where one has the same arithmetic (:mod:`lolm.export.native`), else ``LolmForCausalLM`` with its
    code in the folder, which needs ``trust_remote_code=True`` and not this project. With it come the tokenizer and a model card.

    Args:
        run: folder of its weights, ``artifacts/<scale>/runs/<arm>-<seed>``; its records are found from there.
        to: a new or empty folder, or an earlier export and nothing else; default ``artifacts/<scale>/exports/<arm>-<seed>``,
            with ``-step-<step>`` or ``-annealed-<step>`` behind it for others than the run's last weights.
        step, annealed: whose weights, as in :func:`lolm.load`; by default the run's last.

    Returns:
        The folder.

    Raises:
        ExportError: ``run`` is no folder of weights or no path, or ``to`` has something else in it, or is the current folder or
            one around it.
        RecordError, CheckpointError, DataError: records, weights or tokenizer are missing or broken, no weights of that step
            were kept, or text and tokenizer are others than the run was trained with.
        ConfigError: the project's ``params.yaml`` is, whose ``analysis`` says how the interval on the card is made.
        ExternalError: the library is not installed.
    """
    argument(ExportError, "run", run, str, os.PathLike)
    argument(ExportError, "to", to, str, os.PathLike, type(None))
    step = argument(ExportError, "step", step, int, type(None))
    argument(ExportError, "annealed", annealed, bool)
    place = run_of(run)
    if place is None or not Path(run).is_dir():
        raise ExportError(f"{run}: no folder of a run's weights; these are artifacts/<scale>/runs/<arm>-<seed>")
    layout, key = place
    trained = load_run(layout.train(*key), layout.weights(*key))
    trained.check_data(layout)
    trained.kept(step, annealed)
    if step in (None, trained.run.training.steps):
        step, annealed = None, False
    name = str(key) if step is None else f"{key}-{'annealed' if annealed else 'step'}-{step}"
    folder = layout.artifacts / "exports" / name if to is None else Path(to)
    _refuse_to_replace(folder)
    tokenizer = tokenizer_of(layout, trained.run.vocab_size)
    with atomic_folder(folder) as new:
        write_model(new, trained.model, trained.run)
        to_fast(tokenizer).save_pretrained(new)
        (new / PIECES).write_bytes((layout.tokenizer / "tokenizer.model").read_bytes())
        write_header(new, trained.header, step, annealed)
        write_text(new / "README.md", card_of(new, layout.root))
    return folder


def _refuse_to_replace(folder: Path) -> None:
    """Raise ExportError where what would be replaced is no earlier export, holds more than one, or is where the command runs."""
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ExportError(f"{folder}: is the current folder or one around it, which an export would replace; give another folder")
    if not folder.exists():
        return
    if not is_export(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder}: is there and is no export; give another folder, or delete it")
    if others := [p.name for p in sorted(folder.iterdir()) if not any(fnmatchcase(p.name, name) for name in WRITTEN)]:
        raise ExportError(
            f"{folder}: beside an export there is {', '.join(others)}, which would be deleted; move it, or give another folder"
        )


def card_of(folder: Path, root: Path = Path()) -> str:
    """The card of an export by the records and verdicts that its project has by now.

    Raises:
        ExportError: the project has no such run.
        RecordError: a record is broken.
    """
    from lolm.report.card import model_card  # which brings libraries for figures and tables that reading an export does without

    header = read(folder / HEADER, ExportHeader)
    layout, params = Layout(header.run.scale, root), load_params(root / "params.yaml")
    records = load_records(layout, RunKey(header.run.arm, header.run.seed))
    if records is None or records.fingerprint != header.fingerprint:
        raise ExportError(f"{folder}: is of run {header.fingerprint}, {header.name}, of which {layout.reports} has no records")
    kind = read_mapping(folder / "config.json", architectures=[str])["architectures"][0]
    differs = ""
    if kind == OWN:
        with torch.device("meta"):
            kind, differs = "", lacking(build_model(header.run))
    return model_card(records, layout, kind, differs, params.analysis, header.step, header.annealed)


def write_header(folder: Path, header: RunHeader, step: int | None = None, annealed: bool = False) -> None:
    """Write ``lolm.json`` beside whole weights and tokenizer."""
    digests = {path.name: sha256_of(path) for pattern in DIGESTED for path in folder.glob(pattern)}
    run_header = {spec.name: getattr(header, spec.name) for spec in fields(RunHeader)}
    settings = fingerprint_of(header.run)
    write(folder / HEADER, ExportHeader(**run_header, sha256=digests, settings=settings, step=step, annealed=annealed))


def write_model(folder: Path, model: LanguageModel, run: RunConfig) -> None:
    """Weights, configuration and, where no class of the library computes the model, code."""
    own = lacking(model)
    exported = _own(model, run) if own else to_native(model)
    if own:
        for name, source in flat_modules("lolm.export.modeling_lolm").items():
            write_text(folder / name, source)
    exported.generation_config = transformers().GenerationConfig(bos_token_id=EOS, eos_token_id=EOS, pad_token_id=EOS)
    exported.save_pretrained(folder)


def _own(model: LanguageModel, run: RunConfig) -> Any:
    transformers()
    from lolm.export.configuration_lolm import LolmConfig
    from lolm.export.modeling_lolm import LolmForCausalLM

    what = (to_mapping(run.architecture), to_mapping(run.size), run.vocab_size, run.training.seq_len)
    config = LolmConfig(*what, bos_token_id=EOS, eos_token_id=EOS)
    config.auto_map = {
        "AutoConfig": "configuration_lolm.LolmConfig",
        "AutoModelForCausalLM": f"modeling_lolm.{OWN}",
    }
    with torch.random.fork_rng(devices=[]):  # what is drawn for initial values is lost
        exported = LolmForCausalLM(config).eval()
    exported.model.load_state_dict(model.state_dict())
    return exported


def is_export(folder: str | Path) -> bool:
    """Whether :func:`export` wrote a folder."""
    return (Path(folder) / HEADER).is_file()


def from_hub(name: str) -> Path:
    """The local copy of an export on the Hugging Face hub, ``owner/name``, downloaded where there is none yet.

    Raises:
        ExportError: the hub or the local cache does not give it.
    """
    from huggingface_hub import constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if not constants.HF_HUB_OFFLINE:
            hf_hub_download(name, HEADER)  # gigabytes of a model that is no export are left where they are
        return Path(snapshot_download(name))
    except (OSError, EntryNotFoundError, HfHubHTTPError, HFValidationError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            why = f"the model of that name on the hub has no {HEADER}: it is no export of ours"
            raise ExportError(f"{name}: no such folder, and {why}") from None
        said = one_line(error)
        raise ExportError(f"{name}: no such folder, and no such model on the hub or in its local cache ({said})") from None


def open_export(folder: str | Path) -> tuple[LanguageModel, Tokenizer, ExportHeader]:
    """The model in evaluation mode, its tokenizer and its run's header, from an exported folder.

    Weights are those of the run bit for bit, but to one unit in the last place what Jamba's inner norms read.

    Raises:
        ExportError: it is no export, its weights do not fit, or its bytes are not those that were written.
        RecordError: its header is broken.
    """
    folder = Path(folder)
    if not is_export(folder):
        raise ExportError(f"{folder}: has no {HEADER}, so it is no export of this project; make one with `lolm export`")
    header = read(folder / HEADER, ExportHeader)
    try:
        changed = [name for name, digest in header.sha256.items() if sha256_of(folder / name) != digest]
        if header.settings and header.settings != fingerprint_of(header.run):
            changed.append(HEADER)
        if changed:
            raise ValueError(f"not the bytes that were written: {', '.join(changed)}")
        tensors = load_file(folder / "model.safetensors")
        tokenizer = Tokenizer((folder / PIECES).read_bytes())
        if tokenizer.vocab_size != header.run.vocab_size:  # an empty file is one without pieces
            raise ValueError(f"{PIECES} has {tokenizer.vocab_size} pieces, the model {header.run.vocab_size}")
        with torch.random.fork_rng(devices=[]):  # what is drawn for initial values is lost
            model = build_model(header.run)
        if read_mapping(folder / "config.json", model_type=str)["model_type"] == "lolm":
            model.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()})
        else:
            from_native(model, tensors)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError, RecordError) as error:
        raise ExportError(
            f"{folder}: cannot be read as a whole export ({one_line(error)}); export the run again, or copy the folder anew"
        ) from None
    return model.eval(), tokenizer, header
