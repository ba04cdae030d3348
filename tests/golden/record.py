"""What the code computes, in a few numbers: `python tests/golden/record.py --reason "why they changed"` writes them anew.

Losses and gradient norms of a few training steps of each family, what is measured on one trained model of each kind, and what the
other stages make: corpus, tokenizer and shards, a learning rate, recall, removals by layer. Numbers are kept exactly; on the kind
of machine that made them they must come out to the bit.
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
from minicorpus import make_texts, write_jsonl
from runs import fit

from lolm.config import CorpusConfig, LayersConfig, RecallConfig, RunConfig, ShardsConfig, TokenizerConfig
from lolm.corpus.build import build_corpus
from lolm.corpus.documents import SPLITS, iterate_split
from lolm.corpus.shards import write_shards
from lolm.corpus.tokenizer import Tokenizer, build_tokenizer
from lolm.data.batches import BatchSampler, EvaluationSet
from lolm.data.stream import TokenStream
from lolm.data.synthetic import SyntheticSampler, build_task
from lolm.evaluation.held_out import score_model, set_losses, validation_metrics
from lolm.evaluation.lengths import score_lengths
from lolm.evaluation.ngram import reference_losses
from lolm.evaluation.position import describe_positions
from lolm.evaluation.recall import recall_batches, score_recall
from lolm.evaluation.streams import describe_streams
from lolm.interventions import EMPTY, Context, Intervention, force_gate, full_set, fusion_of, measure, replace_branch
from lolm.laboratory.contributions import contributions
from lolm.laboratory.layers import measure_layers, recall_by_type
from lolm.laboratory.readouts import Effort, refit_readouts
from lolm.laboratory.scoring import score_interventions
from lolm.records import fingerprint_of, read_series, sha256_of
from lolm.training.checkpoint import load_run
from lolm.training.loop import Trainer
from lolm.training.sweep import search

FAMILIES = (
    "lolm", "lolm_published", "lolm_v0", "lolm_parallel", "transformer", "transformer_published", "transformer_modern",
    "mamba", "mamba2", "hawk", "griffin", "samba", "jamba", "jamba_moe", "hymba",
)  # fmt: skip
MEASURED = ("lolm", "transformer", "samba")
LAYERED = "samba"  # has layers of two types, and the same results of the other stages as any
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


def shards(folder: Path) -> dict[str, Any]:
    """Documents of each split, the tokenizer and the tokens of made-up texts, one of which stands twice."""
    data = Path(tempfile.mkdtemp(dir=folder))
    texts = make_texts()
    path = write_jsonl(data / "texts.jsonl", texts | {"set/again": texts["set/000"]})
    build_corpus(CorpusConfig("local", str(path), validation_fraction=0.2, test_fraction=0.2), data / "corpus")
    for name in ("tokenizer", "shards"):
        (data / name).mkdir()
    build_tokenizer(TokenizerConfig(vocab_size=400), data / "corpus", data / "tokenizer")
    write_shards(ShardsConfig(1000), data / "corpus", Tokenizer.load(data / "tokenizer"), data / "shards")
    streams = {split: TokenStream.open(data / "shards", split) for split in SPLITS}
    return {
        "documents": {split: fingerprint_of(*(vars(text) for text in iterate_split(data / "corpus", split))) for split in SPLITS},
        "tokenizer": sha256_of(data / "tokenizer" / "tokenizer.model"),
        "tokens": {split: [len(stream), stream.checksum] for split, stream in streams.items()},
    }


def recall(folder: Path) -> dict[str, Any]:
    """A batch of each task, and what a model that was trained on other tokens makes of it, whole and without a type of layer."""
    torch.set_num_threads(1)
    model, config = load_run(folder / "run", folder / "weights").model, RecallConfig(seq_len=LENGTH, vocab_size=VOCAB)
    found = {}
    for name in ("mqar", "induction"):
        task = build_task(name, config)
        test, others = (list(recall_batches(task, 16, SEED, split)) for split in ("test", "validation"))
        found[name] = {
            "batch": fingerprint_of(*(part.tolist() for part in SyntheticSampler(task, 4, SEED).batch(3))),
            "score": score_recall(model, test),
            "removed": recall_by_type(model, test, [x_BT for x_BT, _ in others], SEED),
        }
    return found


def layers(folder: Path) -> Any:
    """Removals by layer and by type."""
    torch.set_num_threads(1)
    model = load_run(folder / "run", folder / "weights").model
    config = LayersConfig(tokens=480, batch_size=4, draws=1, labellings=3)
    return measure_layers(model, held_out(2), held_out(1), config, seed=SEED, step=STEPS, last=True)


def sweep(folder: Path) -> dict[str, Any]:
    """What is chosen from a table of losses whose best rate is beside the grid."""
    table = {0.25: 3.5, 0.5: 3.0, 1.0: 2.51, 2.0: 2.5, 4.0: 2.49, 8.0: 2.75}
    return {str(tie): search([0.25, 0.5, 1.0], table.__getitem__, extensions=4, tie=tie) for tie in (0.0, 0.03)}


STAGES = {"shards": shards, "recall": recall, "layers": layers, "sweep": sweep}  # of the folder of a trained arm


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
    found: dict[str, Any] = {"losses": {}, "measures": {}, "stages": {}}
    with tempfile.TemporaryDirectory() as folder:
        for arm in FAMILIES:
            made = trained(arm, Path(folder) / arm)
            found["losses"][arm] = numbers(losses(made))
            if arm in MEASURED:
                found["measures"][arm] = numbers(measures(made))
        for name, make in STAGES.items():
            found["stages"][name] = numbers(make(Path(folder) / LAYERED))
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
