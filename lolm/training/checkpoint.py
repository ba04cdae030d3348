"""Checkpoints of unfinished runs, and weights as safetensors.

A checkpoint is a file; of several processes it is a folder beside it, to which each writes its own shards (PyTorch's distributed
checkpoint). Any number of processes reads either. The one before is kept: where the bytes of the newer are not those that were
written, that is removed, so that the next does not put it in the place of the good one, and the run goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lolm import LolmError, one_line
from lolm.config import RunConfig
from lolm.data.stream import TokenStream
from lolm.models.build import build_model
from lolm.models.language_model import LanguageModel
from lolm.objectives import FutureHeads, build_heads
from lolm.records import FINAL_WEIGHTS, Layout, atomic_file, cooldown_path, made_by, read, sha256_of, snapshot_path
from lolm.records.expected import data_recorded
from lolm.records.schema import DataChecksums, RunHeader, Summary
from lolm.training import ranks
from lolm.training.scratch import BRANCHES

HEADS = "objective_heads."
PROGRESS, WHOLE = "progress.json", ".metadata"  # beside the shards of a checkpoint; the second is written last
DIGESTS = "sha256.json"  # of the shards


class CheckpointError(LolmError):
    """A checkpoint or weight file that cannot be used."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; the previous one is kept beside it, see :func:`before`."""
    with _written(path) as temporary:
        with open(temporary, "wb") as file:  # a file, not its name, which would be part of the bytes
            torch.save(state, file)
        if path.exists():
            os.replace(path, before(path))


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    try:
        with atomic_file(path) as temporary:
            yield temporary
    except (RuntimeError, SafetensorError) as error:  # what their writers make of what the disk says
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be written ({reason}); see to the disk, then the same command goes on") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, of a run or of where a cooldown leaves it; raises CheckpointError naming a missing or broken file."""
    _verify(path)
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _broken(path, error) from None


def _verify(path: Path) -> None:
    """Raises CheckpointError where a checkpoint's bytes are not those that were written.

    PyTorch writes a ZIP archive, which has a CRC-32 of each of its parts, but does not compare them when it reads; shards have a
    list of digests.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; {_start_again(path)}")
    try:
        if path.is_dir():
            digests = json.loads((path / DIGESTS).read_text(encoding="utf-8")) if (path / DIGESTS).exists() else {}
            wrong = next((name for name, digest in digests.items() if sha256_of(path / name) != digest), None)
        else:
            with zipfile.ZipFile(path) as archive:
                wrong = archive.testzip()
    except Exception as error:
        raise _broken(path, error) from None
    if wrong is not None:
        raise CheckpointError(f"{path}: the bytes of {wrong} are not those that were written; {_start_again(path)}")


def _start_again(path: Path) -> str:
    folder = path.parent.parent if path.parent.name == BRANCHES else path.parent
    return f"delete the folder {folder} to start the run again"


def _broken(path: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be read as a whole checkpoint ({type(error).__name__}); {_start_again(path)}")


def save(path: Path, model: nn.Module, heads: FutureHeads | None, optimizer: torch.optim.Optimizer, progress: dict) -> None:
    """Write a checkpoint in the form of the processes that are here, and take away one of the other form; all must call."""
    folder, new = _folder(path), path.with_suffix(".new")
    if ranks.count() == 1:
        parts = {"model": model.state_dict(), "heads": heads.state_dict() if heads is not None else {}}
        save_checkpoint(path, parts | {"optimizer": optimizer.state_dict(), "progress": progress})
        for other in (folder, _folder(before(path))):
            _remove(other)
        return
    import torch.distributed.checkpoint as distributed

    if ranks.is_lead():
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        (new / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
    ranks.barrier()
    distributed.save(_tensors(model, heads, optimizer), checkpoint_id=new)
    if ranks.is_lead():
        digests = {shard.name: sha256_of(shard) for shard in sorted(new.glob("*.distcp"))}
        (new / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
        _take(new, path)
        for other in (path, before(path)):
            _remove(other)
    ranks.barrier()


def restore(path: Path, model: nn.Module, heads: FutureHeads | None, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Fill model, heads and optimiser from a checkpoint of either form, and return the progress; all processes must call.

    Raises:
        CheckpointError: it is missing or broken, and so is the one before, or there is none.
    """
    if ranks.is_lead() and (new := path.with_suffix(".new")).joinpath(WHOLE).exists():
        _take(new, path)  # the kill came between the last byte and the new name
    ranks.barrier()
    if (broken := _found_broken(path)) is not None:
        if not ranks.agreed(_newest(before(path)) is not None):
            raise broken
        if ranks.is_lead():
            print(f"warning: {str(broken).partition('; ')[0]}; the checkpoint before it is taken", file=sys.stderr, flush=True)
        newest, path = _newest(path), before(path)
        if (broken := _found_broken(path)) is not None:
            raise broken
        if ranks.is_lead() and newest is not None:
            _remove(newest)
    folder = _folder(path)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if folder.exists():
        import torch.distributed.checkpoint as distributed

        try:
            kept = distributed.FileSystemReader(folder).read_metadata().state_dict_metadata
            optimizer.state.clear()
            for number, p in enumerate(parameters):  # places for what is read; a weight that nothing read has no moments
                if f"moments.{number}.step" in kept:
                    moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                    optimizer.state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device), **moments}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that one process alone is no group
                distributed.load(_tensors(model, heads, optimizer), checkpoint_id=folder)
            return json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        except (Exception, distributed.CheckpointException) as error:
            raise _broken(folder, error) from None
    state = _read(path)
    for module, part in ((model, "model"), (heads, "heads")):
        if module is not None:
            own = module.state_dict()
            module.load_state_dict({name: ranks.sharded_like(t, own[name]) for name, t in state[part].items()})
    for number, kept in state["optimizer"]["state"].items():
        kept |= {name: ranks.sharded_like(t, parameters[number]) for name, t in kept.items() if t.ndim}
    optimizer.load_state_dict(state["optimizer"])
    return state["progress"]


def checkpointed(path: Path) -> Path | None:
    """The newest checkpoint in whichever form it is there; None where there is none."""
    waiting = path.with_suffix(".new") / WHOLE
    return waiting if waiting.exists() else _newest(path) or _newest(before(path))


def remove_checkpoint(path: Path) -> None:
    for form in (path, before(path), _folder(path), _folder(before(path)), path.with_suffix(".new")):
        _remove(form)
    shutil.rmtree(path.with_suffix(".gone"), ignore_errors=True)


def before(path: Path) -> Path:
    """Where the checkpoint before this one is."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def _newest(path: Path) -> Path | None:
    return next((form for form in (_folder(path), path) if form.exists()), None)


def _remove(form: Path) -> None:
    """Remove a checkpoint of either form, if it is there; a folder loses its name first, for half of one may look whole."""
    if form.is_dir():
        gone = form.with_suffix(".gone")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(form, gone)
        shutil.rmtree(gone, ignore_errors=True)
    else:
        form.unlink(missing_ok=True)


def _found_broken(path: Path) -> CheckpointError | None:
    """What is wrong with a checkpoint, the same in all processes; the lead reads it."""
    found = None
    if ranks.is_lead():
        try:
            _verify(_newest(path) or path)
        except CheckpointError as error:
            found = error
    if ranks.agreed(found is not None):
        return found or CheckpointError(f"{path}: the lead found it broken")
    return None


def _folder(path: Path) -> Path:
    return path.with_suffix("")


def _take(new: Path, path: Path) -> None:
    """Give a whole checkpoint of several processes its name; the one that had it is kept as the one before."""
    folder, older = _folder(path), _folder(before(path))
    if folder.exists():
        _remove(older)
        os.replace(folder, older)
    os.replace(new, folder)


def _tensors(model: nn.Module, heads: FutureHeads | None, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All that is sharded, by name; moments by the number of their parameter, whose order is that of the modules."""
    moments = {str(number): state for number, state in optimizer.state_dict()["state"].items()}
    return {"model": model.state_dict(), "heads": heads.state_dict() if heads is not None else {}, "moments": moments}


def save_weights(path: Path, model: nn.Module, heads: FutureHeads | None) -> None:
    """Write a model, and its objective heads under their own prefix, as safetensors, whole or not at all; all processes must
    call, the lead writes."""
    state = model.state_dict() | ({HEADS + name: t for name, t in heads.state_dict().items()} if heads is not None else {})
    tensors = {}
    for name, tensor in state.items():  # one at a time, so that a device never holds all of them whole
        gathered = ranks.whole(tensor)
        if ranks.is_lead():
            tensors[name] = gathered.cpu().contiguous()
    if not ranks.is_lead():
        return
    with _written(path) as temporary:
        save_file(tensors, temporary)


def load_weights(path: Path, model: nn.Module, heads: FutureHeads | None) -> None:
    """Fill a model, and heads when given, from a file of :func:`save_weights`.

    Raises:
        CheckpointError: the file is missing, broken, or does not fit the model.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; run `{made_by(path)}` to train this run")
    try:
        tensors = load_file(path)
        model.load_state_dict({name: t for name, t in tensors.items() if not name.startswith(HEADS)})
        if heads is not None:
            heads.load_state_dict({name[len(HEADS) :]: t for name, t in tensors.items() if name.startswith(HEADS)})
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: does not fit the model of this run ({one_line(error)}); run `{made_by(path)}` to train it again"
        ) from None


@dataclass(frozen=True)
class TrainedRun:
    """A finished run as read back from its records and weights; ``at`` fills model and heads with the weights of a step.

    Attributes:
        weights: folder of its weights.
        digests: of the files there, as the record has them.
    """

    header: RunHeader
    weights: Path
    model: LanguageModel
    heads: FutureHeads | None
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def run(self) -> RunConfig:
        return self.header.run

    @property
    def steps(self) -> list[int]:
        """Steps whose weights were kept, the final one last."""
        return [*self.run.training.snapshot_steps, self.run.training.steps]

    @property
    def schedule_ends(self) -> list[int]:
        """Steps at which a schedule ended, ascending, the run's own end last."""
        return [*self.run.training.cooldown_steps, self.run.training.steps]

    def check_data(self, layout: Layout) -> None:
        """Compare the data of the run with those that lie beside it now, whose tokenizer a text would be given to it by: by the
        shards, or where they are not there by their record. Without either nothing is known.

        Raises:
            CheckpointError: the run was trained on other data.
            DataError, RecordError: shards or their record are broken.
        """
        if (there := layout.shards).is_dir():
            found: DataChecksums | None = DataChecksums(
                *(TokenStream.open(there, split).checksum for split in ("train", "validation"))
            )
        else:
            there, found = layout.shards_record, data_recorded(layout)
        if found not in (None, self.header.data):
            raise CheckpointError(
                f"{self.weights}: was trained on other data than those of {there}; text and tokenizer there were made after it: "
                f"`{made_by(self.weights)}` trains it on them, `dvc checkout` brings back what its project has recorded"
            )

    def kept(self, step: int | None, annealed: bool = False) -> LanguageModel:
        """The model in evaluation mode with weights that the run kept; None for its last.

        Args:
            annealed: of a copy of the run that was annealed to an end at ``step``.

        Raises:
            CheckpointError: none of that step were kept, names those that were; or they are missing or broken.
        """
        if step not in (None, *(self.schedule_ends if annealed else self.steps)):
            steps, ends = (", ".join(map(str, kept)) for kept in (self.steps, self.schedule_ends))
            raise CheckpointError(
                f"{self.weights}: no {'annealed ' * annealed}weights of step {step}; kept are those of {steps}; annealed: {ends}"
            )
        if step is not None:
            (self.at_end if annealed else self.at)(step)
        return self.model

    def at(self, step: int) -> LanguageModel:
        """The model in evaluation mode with the weights of a kept step."""
        return self._filled(snapshot_path(self.weights, step), step)

    def at_end(self, step: int) -> LanguageModel:
        """The model in evaluation mode with the weights at the end of a schedule."""
        return self._filled(cooldown_path(self.weights, step), step)

    def _filled(self, path: Path, step: int) -> LanguageModel:
        path = self.weights / FINAL_WEIGHTS if step == self.run.training.steps else path
        digest = self.digests.get(path.relative_to(self.weights).as_posix())
        if self.digests and path.exists() and sha256_of(path) != digest:
            raise CheckpointError(
                f"{path}: its bytes are not those that were trained; `dvc checkout` or `{made_by(path)}` brings them back"
            )
        load_weights(path, self.model, self.heads)
        return self.model.eval()


def load_run(records: str | Path, weights: str | Path) -> TrainedRun:
    """Open a run by the folders of its records and of its weights, and load its final weights.

    Raises:
        RecordError: ``config.json`` is missing or broken.
        CheckpointError: the weights are missing, are not those that were trained, or do not fit.
    """
    header, summary = read(Path(records) / "config.json", RunHeader), Path(records) / "summary.json"
    digests = read(summary, Summary).weights if summary.exists() else {}
    if not digests:
        print(f"warning: {weights}: not verified, since the run's record is from before checksums were taken", file=sys.stderr)
    run = header.run
    heads = build_heads(run.architecture, run.size, run.training.kernels)
    trained = TrainedRun(header, Path(weights), build_model(run), heads, digests)
    trained.at(run.training.steps)
    return trained
