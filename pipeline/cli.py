"""The command `lolm`: write and score text with a trained model, look at this machine, make the pages again."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm import LolmError, __version__
from pipeline import report
from pipeline.stage import main, training_device

RUN = "folder of a run's weights, artifacts/<scale>/runs/<arm>-<seed>"
SOURCE = f"{RUN}; or of an export, such as models/lolm-tiny"
LATENT_TO_SURFACE = (208, 214, 222, 252, 117, 75, 33)  # of the terminal's 256 colours: orange, grey, blue; told apart by all eyes
REACH = 0.1  # of a token's mean gate, from the middle colour to the last


@dataclass(frozen=True)
class Command:
    """A sub-command: what it does in a line, its own arguments, and what runs."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def _model_arguments(parser: argparse.ArgumentParser, source: str = SOURCE) -> None:
    parser.add_argument("model", metavar="RUN", help=source)
    parser.add_argument("--step", type=int, help="take the weights that the run kept of this step (default: its last)")
    parser.add_argument("--annealed", action="store_true", help="with --step: of the copy that was annealed to an end there")


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser)
    parser.add_argument("prompt", help="what the text begins with; it may be empty")
    parser.add_argument("--tokens", type=int, default=128, help="that are written at most (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=50, help="only the k likeliest tokens; 0 for all (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the likeliest with this share (default: %(default)s)")
    parser.add_argument("--repetition", type=float, default=1.0, help="penalty of tokens that were there (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--stop", action="append", default=[], help="text before which writing ends; may be given again")
    parser.add_argument("--gate", action="store_true", help="colour each token by its gate: blue surface, orange latent")
    parser.add_argument("--color", action="store_true", help="also where the output is no terminal")


def generate(args: argparse.Namespace) -> None:
    run, device = _loaded(args)
    colour = _colours(run) if args.gate and (args.color or sys.stdout.isatty()) else None
    pieces = run.generate(
        args.prompt,
        max_tokens=args.tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        repetition_penalty=args.repetition,
        seed=args.seed,
        stop=args.stop,
        stream=True,
    )
    _say_compiling(device)
    print(args.prompt, end="", flush=True)
    for piece in pieces:
        text = piece.text if colour is None or piece.gate is None else f"\033[38;5;{colour(piece.gate)}m{piece.text}\033[0m"
        print(text, end="", flush=True)
    print()


def _loaded(args: argparse.Namespace) -> tuple[Any, str]:
    from lolm.api import load

    device = training_device()
    return load(args.model, device=device, step=args.step, annealed=args.annealed), device


def _say_compiling(device: str) -> None:
    from lolm.ops.backends import choose_backend

    if choose_backend(device) == "cpu":
        from lolm.ops.cpu.compiled import are_compiled

        if not are_compiled():
            print("first use here: compiling kernels for this processor, up to half a minute", file=sys.stderr)


def _colours(run) -> Callable[[float], int]:
    """The colour of a gate, the middle one being this model's mean on held-out text."""
    mean = None if run.records is None else run.records.gate_mean
    middle, last = 0.5 if mean is None else mean, len(LATENT_TO_SURFACE) - 1
    return lambda g: LATENT_TO_SURFACE[round(min(1.0, max(0.0, 0.5 + (g - middle) / (2 * REACH))) * last)]


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser)
    parser.add_argument("file", help="UTF-8 text; - for what comes in")
    parser.add_argument("--intervention", help="also in the model under this intervention, such as gate=1")
    parser.add_argument("--table", action="store_true", help="a line for each token: nats, gate, text; tabs between")


def score(args: argparse.Namespace) -> None:
    try:
        text = (sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise LolmError(f"{args.file}: no UTF-8 text ({error.reason} at byte {error.start})") from None
    run, device = _loaded(args)
    changed = None
    _say_compiling(device)
    if args.intervention is not None:
        found = run.intervene(text, args.intervention)
        scored, changed = found.learned, found.changed
    else:
        scored = run.score(text)
    for token in (changed or scored).table if args.table else ():
        print(f"{token.nats:.4f}", "" if token.gate is None else f"{token.gate:.4f}", repr(token.text)[1:-1], sep="\t")
    print(f"{scored.tokens} tokens, {scored.nats_per_token:.4f} nats a token, {scored.bits_per_byte:.4f} bits a byte")
    if changed is not None:
        print(f"under {args.intervention}: {changed.nats_per_token:.4f} nats a token, {found.effect:+.4f}")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser, RUN)
    parser.add_argument("--to", metavar="FOLDER", help="new, or an earlier export (default: artifacts/<scale>/exports/<run>)")


def export(args: argparse.Namespace) -> None:
    from lolm.export import export as write
    from lolm.external.load import transformers

    transformers().utils.logging.disable_progress_bar()
    print(write(args.model, args.to, step=args.step, annealed=args.annealed))


def doctor(args: argparse.Namespace) -> None:
    """What this project finds on this machine; exit status 1 where something is missing that it needs."""
    import platform

    import torch

    from lolm.ops.backends import OPS, kernel_of
    from lolm.records import FINAL_WEIGHTS, Layout, recorded_scales
    from pipeline.environment import installed

    problems = []
    print(f"lolm {__version__}, Python {platform.python_version()}, {platform.platform()}")
    packages = ("torch", "numba", "numpy", "triton", "sentencepiece", "safetensors", "dvc", "mlflow")
    versions = installed(packages)
    for package in packages:
        print(f"  {package} {versions.get(package, 'is not installed')}")
    device = training_device()
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    print(f"device: {device}, {name}; {torch.get_num_threads()} threads of PyTorch")
    for op in OPS:
        chosen = kernel_of(op, device)[0]
        print(f"  {op}: {chosen}")
        if chosen in ("reference", "torch"):
            problems.append(f"{op} has no kernel here and is slow; install numba on a CPU, Triton on a GPU")
    free = shutil.disk_usage(Path()).free / 2**30
    print(f"disk: {free:.1f} GiB free in this folder")
    if free < 1:
        problems.append("less than 1 GiB of disk is free")
    if not Path("params.yaml").exists():
        problems.append("no params.yaml here; run this in the project's folder")
    for scale in recorded_scales():
        layout = Layout(scale)
        runs = list(layout.recorded_runs())
        there = sum((layout.weights(*key) / FINAL_WEIGHTS).exists() for key in runs)
        missing = "" if there else f"; `make repro SCALE={scale} STUDY=<study>` makes a study's"
        print(f"weights: {scale} has {there} of the {len(runs)} runs with records{missing}")
    for problem in problems:
        print(f"missing: {problem}")
    if problems:
        raise SystemExit(1)


COMMANDS = {
    "generate": Command("continue a prompt, token by token", _generate_arguments, generate),
    "score": Command("how well a model predicts a text", _score_arguments, score),
    "export": Command("write a model for the transformers library, with its tokenizer and a card", _export_arguments, export),
    "doctor": Command("versions, device, kernels, disk and weights of this machine", lambda parser: None, doctor),
    "report": Command("pages of studies again from their records, without training", report.arguments, report.report),
}


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="lolm", description=__doc__)
    whole.add_argument("--version", action="version", version=__version__)
    below = whole.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        own = below.add_parser(name, help=command.help, description=command.help)
        command.arguments(own)
        own.set_defaults(run=command.run)
    return whole


def lolm() -> None:
    """Entry point: exit status 2 and one line on an expected error, as in every stage."""
    args = parser().parse_args()
    main(lambda: args.run(args))


if __name__ == "__main__":
    lolm()
