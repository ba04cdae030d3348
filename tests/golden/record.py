"""What the code computes, in a few numbers: `python tests/golden/record.py --reason "why they changed"` writes them anew.

Losses and gradient norms of a few training steps of each family, and what is measured on one trained model of each kind. Numbers
are kept exactly; on the kind of machine that made them they must come out to the bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from builders import PARAMS, VOCAB, ArrayStream, make_run
from runs import fit

from lolm.config import RunConfig
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.evaluation.held_out import score_model, set_losses, validation_metrics
from lolm.evaluation.lengths import score_lengths
from lolm.evaluation.ngram import reference_losses
from lolm.evaluation.position import describe_positions
from lolm.evaluation.streams import describe_streams
from lolm.interventions import EMPTY, Context, Intervention, force_gate, full_set, fusion_of, measure, replace_branch
from lolm.laboratory.contributions import contributions
from lolm.laboratory.readouts import Effort, refit_readouts
from lolm.laboratory.scoring import score_interventions
from lolm.records import read_series
from lolm.training.checkpoint import load_run
from lolm.training.loop import Trainer

FAMILIES = (
    "lolm", "lolm_published", "lolm_v0", "lolm_parallel", "transformer", "transformer_published", "transformer_modern",
    "mamba", "mamba2", "hawk", "griffin", "samba", "jamba", "jamba_moe", "hymba",
)  # fmt: skip
MEASURED = ("lolm", "transformer", "samba")
STEPS, LENGTH, SEED = 8, 48, 1
FILE = Path(__file__).with_name("golden.json")


def machine_kind() -> str:
    """What decides the order of sums: the vector units that PyTorch and Numba use, and their versions."""
    import llvmlite.binding as llvm
    import numba

    vectors = f"{numba.config.CPU_NAME or llvm.get_host_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{vectors}, torch {torch.__version__}, numba {numba.__version__}"


def short_run(arm: str) -> RunConfig:
    training = {
        "steps": STEPS, "seq_len": LENGTH, "batch_size": 2, "warmup_steps": 2, "log_every": 1, "eval_every": STEPS,
        "checkpoint_every": STEPS, "snapshots": (), "schedule": "wsd", "cooldowns": (0.5,),
    }  # fmt: skip
    return make_run(arm, training=training, seed=SEED)


def held_out(seed: int) -> EvaluationSet:
    return EvaluationSet(ArrayStream(1500, VOCAB, seed), 480, LENGTH)


def trained(arm: str, folder: Path) -> Path:
    """Train the short run of an arm; returns the folder that holds those of its records and weights."""
    torch.set_num_threads(1)
    run, stream = short_run(arm), ArrayStream()
    validation = held_out(1)

    def evaluate(model: Any) -> dict[str, float]:
        return validation_metrics(model, validation, 4)

    sampler = BatchSampler(stream, run.training.batch_size, run.training.seq_len, run.seed)
    trainer = Trainer(run, sampler, evaluate)
    fit(trainer, folder)
    return folder


def losses(folder: Path) -> dict[str, Any]:
    """Training losses and gradient norms step by step, held-out losses at both ends, and a hash of the final weights.

    The hash does not know the names of parameters, so that a rename leaves it alone.
    """
    rows = read_series(folder / "run" / "metrics.jsonl.xz")
    steps = [row for row in rows if "train/loss" in row]
    run = load_run(folder / "run", folder / "weights")
    tensors = [*run.model.state_dict().values(), *(run.heads.state_dict().values() if run.heads is not None else ())]
    digests = sorted(hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest() for t in tensors)
    return {
        "loss": [row["train/loss"] for row in steps],
        "total": [row["train/total"] for row in steps],
        "grad_norm": [row["train/grad_norm"] for row in steps],
        "held_out": [row["annealed/nats"] for row in rows if "annealed/nats" in row],
        "weights": hashlib.sha256("".join(digests).encode()).hexdigest()[:16],
    }


def measures(folder: Path) -> dict[str, Any]:
    """Everything that evaluation and the laboratory compute from weights."""
    torch.set_num_threads(1)
    run = load_run(folder / "run", folder / "weights")
    model, test, validation = run.model, held_out(2), held_out(1)
    sampler = BatchSampler(ArrayStream(), 2, LENGTH, SEED)
    context = EMPTY
    if fusion_of(model) is not None:
        context = Context(measure(model, (x for x, _ in validation.batches(4))), seed=SEED)
    record: dict[str, Any] = {
        "score": score_model(model, test, 4)[0].nats,
        "references": reference_losses(sampler, STEPS, {"test": test})["test"],
        "streams": describe_streams(model, run.heads, run.run.architecture.objectives, test, 4, SEED),
        "positions": describe_positions(*set_losses(model, test, 4), test.target_bytes()),
        "lengths": score_lengths(model, test.stream, 480, LENGTH, (1, 2), 4),
        "conditions": {
            f"{row.intervention} {row.value}": [row.nats, row.kl_to_full, row.temperature, row.nats_fitted]
            for row in score_interventions(
                model, full_set(model, context, draws=1, splits=2), test, 4, context, validation
            )
        },
    }  # fmt: skip
    if fusion_of(model) is not None:
        record["contributions"] = contributions(model, test, 4)
        train = [sampler.batch(STEPS + i) for i in range(3)]
        chosen = [Intervention("none"), replace_branch("latent", "mean"), force_gate(1.0)]
        record["readouts"] = refit_readouts(model, chosen, train, validation, test, 4, Effort(3, 1e-2, 2, 1e-3), context)
    return record


def numbers(value: Any, path: str = "") -> dict[str, float | str | None]:
    """Every leaf of a nested record by its path, steps apart: they are of the weights, and no measure."""
    if dataclasses.is_dataclass(value):
        return numbers({key: part for key, part in vars(value).items() if key != "step"}, path)
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in numbers(part, f"{path}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, part in enumerate(value) for k, v in numbers(part, f"{path}/{i}").items()}
    return {path: value}


def present() -> dict[str, Any]:
    """The golden record as the present code makes it."""
    found: dict[str, Any] = {"losses": {}, "measures": {}}
    with tempfile.TemporaryDirectory() as folder:
        for arm in FAMILIES:
            made = trained(arm, Path(folder) / arm)
            found["losses"][arm] = numbers(losses(made))
            if arm in MEASURED:
                found["measures"][arm] = numbers(measures(made))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reason", required=True, help="why the numbers change; kept beside them")
    reason = parser.parse_args().reason
    history = json.loads(FILE.read_text(encoding="utf-8"))["history"] if FILE.exists() else []
    record = {"machine": machine_kind(), "history": [*history, f"{date.today()}: {reason}"], **present()}
    FILE.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{FILE}: written; commit it with that reason")


if __name__ == "__main__":
    assert PARAMS  # of the project's own params.yaml
    main()
