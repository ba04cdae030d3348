"""Train one arm with one seed, from its last checkpoint if it was killed.

Checkpoints lie in ``.scratch/<fingerprint>``, a folder named by configuration, data, code and device.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

from lolm.accounting.count import account
from lolm.config import load_params, to_mapping
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.stream import TokenStream
from lolm.evaluation.held_out import score_model
from lolm.models.language_model import LanguageModel
from lolm.ops.backends import choose_backend
from lolm.records import fingerprint_of, write_json
from lolm.tracking import try_sync
from lolm.training.loop import Trainer
from lolm.training.scratch import clear_finished
from pipeline.code import code_hash
from pipeline.stage import Paths, arguments, main, resolved, training_device

SCRATCH = Path(".scratch")
KEPT_SECONDS = 600.0  # a finished run's scratch outlives DVC's recording of it, see Trainer.fit


def train() -> None:
    args = arguments(__doc__, run=True)
    paths = Paths(args.scale)
    run = resolved(load_params(), args.scale, args.arm, args.seed)
    if run.training.threads:
        torch.set_num_threads(run.training.threads)
    device = training_device()
    stream = TokenStream.open(paths.shards, "train")
    held_out = EvaluationSet(TokenStream.open(paths.shards, "validation"), run.training.eval_tokens, run.training.seq_len)

    def evaluate(model: LanguageModel) -> dict[str, float]:
        score, gate = score_model(model, held_out, run.training.eval_batch_size)
        values = {f"val/{name}": value for name, value in dataclasses.asdict(score).items()}
        return values | ({"val/gate_mean": gate} if gate is not None else {})

    sampler = BatchSampler(stream, run.training.batch_size, run.training.seq_len, run.seed)
    output = paths.run(run.arm, run.seed)
    trainer = Trainer(run, sampler, evaluate, output=output, on_checkpoint=try_sync, device=device)
    costs = account(trainer.model, trainer.heads, run.training.seq_len, run.training.precision, run.training.batch_size)
    data = {"train": stream.checksum, "validation": held_out.stream.checksum}
    kernels = choose_backend(device, run.training.kernels)
    fingerprint = fingerprint_of(to_mapping(run), data, code_hash("pipeline.train"), device, kernels)
    header = {
        "fingerprint": fingerprint,
        "name": run.name,
        "label": run.architecture.label,
        "run": to_mapping(run),
        "parameters": dataclasses.asdict(costs.parameters),
        "flops_per_token": dataclasses.asdict(costs.flops_per_token),
        "state_elements": costs.state_elements,
        "state_bytes": costs.state_bytes,
        "device": device,
        "kernels": kernels,
        "data": data,
    }
    size, cost = costs.parameters.total, costs.flops_per_token.training
    tokens = run.training.steps * run.training.tokens_per_step
    print(f"{run.name}: {size:,} parameters, {cost:,.0f} training FLOPs per token, {tokens:,} tokens", file=sys.stderr)
    clear_finished(SCRATCH, KEPT_SECONDS)
    summary = trainer.fit(header, cost, SCRATCH / fingerprint)
    write_json(paths.metrics(run.arm, run.seed, "train"), summary)
    try_sync(output)


if __name__ == "__main__":
    main(train)
