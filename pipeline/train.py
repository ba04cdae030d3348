"""Train every run of the study that is not trained, or with --arm and --seed one of them, each from its last checkpoint.

Checkpoints lie in ``.scratch/<fingerprint>``, a folder named by configuration, data, code and device.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial

import torch

from lolm.accounting.count import account
from lolm.config import RunConfig
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.stream import TokenStream
from lolm.evaluation.held_out import validation_metrics
from lolm.ops.backends import choose_backend
from lolm.records import Layout, RunKey, atomic_folder, write
from lolm.records.schema import DataChecksums, Divergence, RunHeader
from lolm.tracking import try_sync
from lolm.training import ranks
from lolm.training.loop import Trainer
from lolm.training.progress import DivergenceError
from lolm.training.scratch import FINISHED, SCRATCH, clear_finished, remove
from pipeline.code import code_of
from pipeline.configured import run_of
from pipeline.environment import ALONE, FORCE, said
from pipeline.estimate import arms_of
from pipeline.identity import data_of, fingerprint_of_run, inputs_of, why_train
from pipeline.runs import Piece, command, per_run
from pipeline.stage import Stage, main, training_device
from pipeline.torchrun import launch

KEPT_SECONDS = 600.0  # a finished run's scratch outlives DVC's recording of it, see Trainer.fit


def train(stage: Stage, key: RunKey) -> bool:
    """Train a run here, or start the processes that do; whether this is the one process that writes."""
    run, device = run_of(stage, key), training_device()
    if run.training.processes == 1:
        return _train(stage.layout, key, run, device)
    if not torch.distributed.is_torchelastic_launched():
        launch(run.name, command("train", stage, Piece(*key)), run.training.devices, run.training.nodes)
        return False
    with ranks.joined(device):
        return _train(stage.layout, key, run, device)


def _train(layout: Layout, key: RunKey, run: RunConfig, device: str) -> bool:
    if run.training.threads:
        torch.set_num_threads(run.training.threads)
    stream = TokenStream.open(layout.shards, "train")
    held_out = EvaluationSet(TokenStream.open(layout.shards, "validation"), run.training.eval_tokens, run.training.seq_len)
    if ranks.is_lead():
        for text in (stream, held_out.stream):
            text.verify()
    data = DataChecksums(stream.checksum, held_out.stream.checksum)
    fingerprint = fingerprint_of_run(run, data)
    sampler = BatchSampler(stream, run.training.batch_size, run.training.seq_len, run.seed)
    evaluate = partial(validation_metrics, held_out=held_out, batch_size=run.training.eval_batch_size)
    trainer = Trainer(run, sampler, evaluate, on_checkpoint=try_sync, device=device, alone=bool(said(ALONE)))
    costs = account(trainer.model, trainer.heads, run.training.seq_len, run.training.precision, run.training.batch_size)
    header = RunHeader(
        name=run.name,
        label=run.architecture.label,
        fingerprint=fingerprint,
        run=run,
        parameters=costs.parameters,
        flops_per_token=costs.flops_per_token,
        state_elements=costs.state_elements,
        state_bytes=costs.state_bytes,
        device=device,
        kernels=choose_backend(device, run.training.kernels),
        data=data,
        code=code_of("train"),
    )
    tokens = run.training.steps * run.training.tokens_per_step
    lead = ranks.is_lead()
    if lead:
        cost = f"{header.parameters.total:,} parameters, {header.flops_per_token.training:,.0f} training FLOPs per token"
        print(f"{run.name}: {cost}, {tokens:,} tokens", file=sys.stderr)
        clear_finished(SCRATCH, KEPT_SECONDS)
    scratch = SCRATCH / fingerprint
    if lead and said(FORCE) and (scratch / FINISHED).exists():  # which the trainer would only publish again
        remove(scratch)
    try:
        trainer.fit(header, scratch, layout.train(*key), layout.weights(*key))
    except DivergenceError as error:  # which every process sees alike
        if lead:
            print(f"diverged: {error}", file=sys.stderr)
            record_divergence(layout, key, header, error.step, str(error))
            remove(scratch)
    if lead:
        try_sync(layout.train(*key))
    return lead


def record_divergence(layout: Layout, key: RunKey, header: RunHeader, step: int, reason: str) -> None:
    """Put the divergence in the place of all records and weights of the run, of which no older one may be taken for its own; what
    was trained on recall tasks is none of them."""
    measured = (layout.evaluation, layout.text_losses, layout.ablation, layout.layers, layout.downstream, layout.metrics)
    for path in measured:
        path(*key).unlink(missing_ok=True)
    shutil.rmtree(layout.weights(*key), ignore_errors=True)
    record = Divergence(key.arm, key.seed, header.name, header.fingerprint, step=step, reason=reason, header=header)
    with atomic_folder(layout.train(*key)) as folder:
        write(folder / layout.divergence(*key).name, record)


def why(stage: Stage, key: RunKey) -> str | None:
    layout = stage.layout
    records = {"evaluate": layout.evaluation, "ablate": layout.ablation, "layers": layout.layers}
    measurements = [path(*key) for name, path in records.items() if key.arm in arms_of(stage.params, name)]
    return why_train(layout, key, run_of(stage, key), measurements)


def inputs(stage: Stage, key: RunKey) -> str:
    data = data_of(stage.layout)
    return inputs_of("train", run_of(stage, key), data.train, data.validation)


if __name__ == "__main__":
    main(lambda: per_run("train", __doc__, train, why, inputs))
