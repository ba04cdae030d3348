"""The published comparisons on a GPU that is at hand for minutes: `make gpu`, without DVC and MLflow.

Steps, in the order of what is known least: (a) every kernel against its reference, and its speed; (b) training steps of the
arms at 20M, 149M and 304M; (c) the 20.5M experiment, 20,000 steps an arm, trained, evaluated and ablated by the stages' code;
(d) the 149M pair to step 2,000; (e) the 304M pair for 200 steps. A step is made of pieces, each in a process of its own, and each
leaves its record with a note at once: what is made is not made again, and a piece that was cut short goes on from its checkpoint
where the folder is still there.

`--prepare` packs tokenizer and shards on a machine with the environment; `--import FOLDER` takes over what came back.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from lolm.config import load_params, tuned_arm
from lolm.config.ranges import Count, Seed
from lolm.config.strict import Range
from lolm.ops.backends import OPS
from lolm.records import Layout, RecordError, RunKey, read, sha256_of
from lolm.records.files import write_bytes
from lolm.records.results import load_run
from lolm.records.schema import Sweep
from pipeline.carried import GPUError, prepare, unpack
from pipeline.gpu_notes import NOTES, STAGES, Made, is_made, note_of, other_code, size_of, write_note
from pipeline.headline import write_headline
from pipeline.jobs import Job, TimeIsUp, end_with_parent, side_by_side
from pipeline.runs import THREAD_VARIABLES, available_cores
from pipeline.stage import Stage, main, option, training_device

PAIR = ("ladder_6_full", "transformer_published")
ARMS = (  # of step c; ladder_6_full is v0
    *PAIR, "lolm_published", "lolm", "transformer",
    "transformer_modern", "mamba", "samba", "ladder_1_decoder", "ladder_5_regime",
    "ladder_4_ssm_memory", "ladder_3_ssm", "ladder_2_memory",
)  # fmt: skip
RUNS = {
    "c": ("20m_gpu", ARMS),
    "d": ("149m_gpu", ("lolm_v0", "transformer_published")),
    "e": ("304m_gpu", ("lolm_published", "transformer_published")),
}
REHEARSED = {"c": ("smoke", PAIR), "d": ("smoke", ("lolm_published",)), "e": ("smoke", PAIR)}  # e made by c
TIMED = ("lolm", "transformer_published", "transformer_modern", "mamba", "samba", "transformers_llama", "transformers_mamba")
PART = 5  # runs of step c that fit ten minutes together
MINUTES = 9.5  # of each step or part of b to e: what is lent for ten minutes has to be reached, and left with the records
CARRIED = Path("carried")
Seconds = Annotated[float, Range(least=0, most=10**7)]  # the system's timer has a largest one


def pieces_of(step: str, seeds: Sequence[int], rehearse: bool) -> list[str]:
    """Names of a step's pieces: ``kernel/<op>``, ``step/<scale>/<arm>`` or ``run/<scale>/<arm>-<seed>``; of a part of it alone
    where ``step`` has a number.

    Raises:
        GPUError: there is no such step or part.
    """
    runs, (letter, part) = REHEARSED if rehearse else RUNS, (step[:1], step[1:])
    if letter == "a":
        parts = [[f"kernel/{op}"] for op in OPS]
    elif letter == "b":
        timed = {"c": ("lolm", "transformers_llama")} if rehearse else {"c": ("lolm", "ladder_6_full"), "d": TIMED, "e": TIMED}
        parts = [[f"step/{runs[of][0]}/{arm}" for arm in arms] for of, arms in timed.items()]
    elif letter in runs:
        scale, arms = runs[letter]
        every = [f"run/{scale}/{RunKey(arm, seed)}" for seed in seeds for arm in arms]
        parts = [every[i : i + PART] for i in range(0, len(every), PART)]
    else:
        raise GPUError(f"no step {step!r}; there are a, b, c, d, e, and parts of them such as c1, c2")
    if not part:
        return sum(parts, [])
    if not part.isdecimal() or not 1 <= int(part) <= len(parts):
        raise GPUError(f"step {letter} has parts {letter}1 to {letter}{len(parts)}; got {step!r}")
    return parts[int(part) - 1]


# ---------------------------------------------------------------------------------------------- one piece


def records_steps(scale: str, roots: Sequence[Path]) -> bool:
    """Whether step b found that CUDA graphs work at a scale and take less time."""
    for note in (note_of(root, f"step/{scale}/lolm") for root in roots):
        ways = read(note, Made).values if note.exists() else {}
        graph, eager = (_median(note, ways.get(way, {})) for way in ("graph", "eager"))
        if graph is not None and eager is not None:
            return graph < eager
    return False


def _median(note: Path, way: Any) -> float | None:
    """Seconds of a way to make a step; None where it was skipped."""
    seconds = way.get("seconds", {"median": None}) if isinstance(way, dict) else None
    median = seconds.get("median") if isinstance(seconds, dict) else None
    if seconds != {"median": None} and type(median) not in (int, float):
        raise GPUError(f"{note}: values have no seconds.median of a step; delete the file, and the step is measured again")
    return median


def stage_of(scale: str, out: Path) -> Stage:
    """Of a scale, with CUDA graphs where they pay; step b has not recorded steps of compiled blocks."""
    params = load_params().select(scale)
    preset = params.scales[scale]
    graph = not preset.training.compile and records_steps(scale, (out, Path()))
    training = replace(preset.training, cuda_graph=graph)
    return Stage(replace(params, scales=params.scales | {scale: replace(preset, training=training)}))


def make_run(stage: Stage, key: RunKey, out: Path) -> None:
    """Train, evaluate and ablate a run by the stages' own functions, with a note after each."""
    import torch

    from pipeline import ablate, evaluate, sweep, train

    layout, piece, seconds = stage.layout, f"run/{stage.scale}/{key}", {}
    tuned = tuned_arm(stage.params, stage.scale, key.arm)
    if sweep.why(stage, tuned):
        sweep.sweep(stage, tuned)
    for name, module in {"train": train, "evaluate": evaluate, "ablate": ablate}.items():
        start = time.perf_counter()
        if module.why(stage, key):
            getattr(module, name)(stage, key)
            write_headline(layout, key, stage.params.analysis)
        seconds[name] = round(time.perf_counter() - start, 1)
        paths = (layout.header, layout.series, layout.summary, layout.divergence, layout.evaluation, layout.text_losses)
        every = [path(*key) for path in (*paths, layout.ablation, layout.metrics)]
        every += [layout.corpus_record, layout.shards_record, layout.sweep(tuned)]
        peak = torch.cuda.max_memory_allocated() if training_device() == "cuda" else None
        whole = name == "ablate" or layout.divergence(*key).exists()
        write_note(out, piece, whole, [path for path in every if path.exists()], seconds=seconds, peak_memory_bytes=peak)


# ---------------------------------------------------------------------------------------------- all pieces


def run_steps(steps: Sequence[str], seeds: Sequence[int], out: Path, jobs: int, rehearse: bool, minutes: float = MINUTES) -> None:
    """Make the pieces that are missing, step by step, each step for so many minutes at most; 0 is no limit.

    Raises:
        GPUError: some failed or are left; all others were made.
    """
    failed, left = list[str](), 0
    for step in [part for letter in steps for part in parts_of(letter, seeds, rehearse)]:
        pieces = pieces_of(step, seeds, rehearse)
        missing = [piece for piece in pieces if not is_made(piece, (out, Path()))]
        print(f"step {step}: {len(missing)} of {len(pieces)} pieces to make", flush=True)
        if not missing:
            continue
        at_once = min(jobs, len(missing)) if step.startswith("c") else 1
        threads = dict.fromkeys(THREAD_VARIABLES, str(max(1, available_cores() // at_once)))
        environment = os.environ | threads | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        if step.startswith("a") and training_device() == "cpu":
            environment["TRITON_INTERPRET"] = "1"
        commands = [Job(piece, _command(piece, out, rehearse), _log(piece)) for piece in missing]
        start, unmade = time.monotonic(), list[str]()
        try:
            failures = side_by_side(commands, at_once, environment, seconds=60 * minutes or math.inf)
        except TimeIsUp as over:
            failures, unmade = list(over.failures), [job.name for job in over.left]
        failed += [f"{f.job.name}: {f.reason}" for f in failures]
        left += len(unmade)
        taken = f"{(time.monotonic() - start) / 60:.1f}" + (f" of {minutes:g}" if minutes else "")
        print(f"step {step}: {taken} minutes, {size_of(pieces, out)} to bring back", flush=True)
        if unmade:
            print(f"step {step}: its minutes are used up; left are {', '.join(unmade)}", flush=True)
    what = [f"{n} piece(s) {how}" for n, how in ((len(failed), "failed"), (left, "are left")) if n]
    if what:
        raise GPUError("\nerror: ".join([*failed, f"{' and '.join(what)}; the same command makes what has no note yet"]))


def parts_of(step: str, seeds: Sequence[int], rehearse: bool) -> list[str]:
    """What of a step has minutes of its own: the parts of b and of what is made of runs, and of step a, whose parts take seconds
    to a few minutes, the whole."""
    if len(step) > 1 or step == "a":
        return [step]
    parts: list[str] = []
    pieces = len(pieces_of(step, seeds, rehearse))
    while sum(len(pieces_of(part, seeds, rehearse)) for part in parts) < pieces:
        parts.append(f"{step}{len(parts) + 1}")
    return parts if len(parts) > 1 else [step]


def _command(piece: str, out: Path, rehearse: bool) -> list[str]:
    module = "pipeline.gpu" if piece.startswith("run/") else "benchmarks.gpu"
    return [sys.executable, "-m", module, "--piece", piece, "--out", str(out), *(["--rehearse"] if rehearse else [])]


def _log(piece: str) -> Path:
    return Path(".scratch/logs") / f"gpu-{piece.replace('/', '-')}.log"


def limited(seconds: float) -> None:
    """End this process and those it started after so many seconds, as a signal would."""

    def end(*_: object) -> None:
        raise GPUError(f"{seconds:g} seconds are over; what is made is kept, and the same command goes on")

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)


# ---------------------------------------------------------------------------------------------- what comes back


def import_records(folder: Path, rehearsed: bool) -> list[Path]:
    """Check all that came back, and take it over only if all of it is sound; returns the records.

    Raises:
        GPUError: nothing came back; a file that is missing or changed, or lies outside the reports; other code; a rehearsal; or
            records of two devices, versions or texts in one scale.
        RecordError: a record that does not fit its schema.
    """
    paths = sorted((folder / NOTES).rglob("*.json"))
    notes = [_checked(path, folder) for path in paths]
    if not notes:
        raise GPUError(f"{folder / NOTES}: no notes of `make gpu`; give the folder that --out named")
    for note, path in zip(notes, paths, strict=True):
        if note.device == "cpu" and not rehearsed:
            raise GPUError(f"{path}: of a rehearsal, made on the CPU; --rehearse takes it over nevertheless")
        if other := other_code(note):
            raise GPUError(f"{path}: made by other code of {', '.join(other)}; check out what it was made with, or make it again")
        for name, digest in note.files.items():
            if not _is_record(name, note, folder):
                raise GPUError(f"{path}: {name!r} is no record that came with it")
            if sha256_of(folder / name) != digest:
                raise GPUError(f"{folder / name}: changed since its note was written; fetch it again")
        _check_schema(folder, note)
    _refuse_mixtures(notes)
    names = [*sorted({name for note in notes for name in note.files}), *(str(path.relative_to(folder)) for path in paths)]
    for name in names:  # the notes last: what has one counts as made
        write_bytes(name, (folder / name).read_bytes())
    return list(map(Path, names))


def _checked(path: Path, folder: Path) -> Made:
    """A note that came from elsewhere, whose piece is one and the file's own, made by code of every stage."""
    note = read(path, Made)
    if note_of(folder, note.piece) != path:
        raise GPUError(f"{path}: is the note of {note.piece!r}")
    if note.piece.startswith("run/"):
        run_of_piece(note.piece)
    if lacking := sorted({*STAGES} ^ {*note.code}):
        raise GPUError(f"{path}: code has to name {', '.join(STAGES)}, each; see to {', '.join(lacking)}")
    return note


def _is_record(name: str, note: Made, folder: Path) -> bool:
    """Whether a file's name leads to a record of the note's piece, which lies in the folder and not where a link leads."""
    place = Layout(run_of_piece(note.piece)[0]).reports.parts if note.piece.startswith("run/") else ("reports",)
    path = folder / name
    inside = Path(name).parts[: len(place)] == place and ".." not in Path(name).parts
    return inside and path.is_file() and path.resolve().is_relative_to(folder.resolve())


def run_of_piece(piece: str) -> tuple[str, RunKey]:
    """Scale and run of ``run/<scale>/<arm>-<seed>``.

    Raises:
        GPUError: it is no such piece.
    """
    found = re.fullmatch(r"run/([A-Za-z0-9_-]+)/([A-Za-z0-9_-]+)-([0-9]{1,10})", piece)
    if found is None:
        raise GPUError(f"no piece {piece!r}; those of runs are run/<scale>/<arm>-<seed>")
    return found[1], RunKey(found[2], int(found[3]))


def _check_schema(folder: Path, note: Made) -> None:
    if not note.piece.startswith("run/"):
        return
    scale, key = run_of_piece(note.piece)
    layout = Layout(scale, folder)
    run = load_run(layout, key)
    if run is None and not layout.divergence(*key).exists():
        raise RecordError(f"{layout.train(*key)}: no record of {note.piece}")
    if run is not None and (run.header.run.scale, run.header.run.arm, run.header.run.seed) != (scale, *key):
        raise RecordError(f"{layout.header(*key)}: of {run.header.name}, in the place of {note.piece}")
    if run is not None and run.stale:
        raise RecordError(f"{layout.header(*key)}: not of the model that {', '.join(run.stale)} measured")
    for path in (layout.reports / "sweep").glob("*.json"):
        read(path, Sweep)


def _refuse_mixtures(notes: Sequence[Made]) -> None:
    """Records of one scale are compared: whatever else differed between them would be taken for an effect."""
    new = {note.piece for note in notes}
    old = [note for note in _present() if note.piece not in new]
    for scale in {note.piece.split("/")[1] for note in notes if note.piece.startswith("run/")}:
        made = [note for note in (*notes, *old) if note.piece.startswith(f"run/{scale}/")]
        for what in ("device", "software", "data"):
            found = list(dict.fromkeys(str(getattr(note, what)) for note in made))
            if len(found) > 1:
                raise GPUError(f"{scale}: runs of more than one {what}: {'; '.join(found)}; make all of the scale on one")
        noted = {note.piece for note in made}
        strangers = [key for key in Layout(scale).recorded_runs() if f"run/{scale}/{key}" not in noted]
        if strangers:
            raise GPUError(f"{Layout(scale).train(*strangers[0])}: made elsewhere, not by `make gpu`; move it away first")


def _present() -> Iterator[Made]:
    return (read(path, Made) for path in sorted(NOTES.rglob("*.json")))


# ---------------------------------------------------------------------------------------------- command


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", nargs="+", default=list("abcde"), help="a, b, c, d, e or a part such as c2 (default: all)")
    parser.add_argument("--seeds", nargs="+", type=option(Seed), default=[1], help="of the runs (default: 1)")
    parser.add_argument("--jobs", type=option(Count), default=PART, help=f"runs of step c at a time (default: {PART})")
    parser.add_argument(
        "--seconds", type=option(Seconds), default=0, help="end after so many; the same command goes on (default: no limit)"
    )
    parser.add_argument(
        "--minutes", type=option(Seconds), default=MINUTES,
        help=f"of each step and part: no piece is begun after them, and one under way is ended; 0: no limit (default: {MINUTES})",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path(), help="folder that receives the records (default: the project's)")
    parser.add_argument("--carried", type=Path, default=CARRIED, help=f"folder with the packed shards (default: {CARRIED})")
    parser.add_argument("--rehearse", action="store_true", help="all steps at scale smoke, also without a GPU")
    parser.add_argument("--prepare", action="store_true", help="make and pack the shards, where the text is")
    parser.add_argument("--import", dest="source", type=Path, help="take over the records of a folder that --out named")
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    return parser.parse_args()


def run() -> None:
    args = arguments()
    if args.prepare:
        scales = {scale: None for scale, _ in (REHEARSED if args.rehearse else RUNS).values()}
        prepare(args.carried, list(scales))
    elif args.source:
        taken = import_records(args.source, args.rehearse)
        print(f"{len(taken)} records taken over; `make report` with SCALE= and STUDY= tests the claims on them")
    elif args.piece:
        end_with_parent()
        scale, key = run_of_piece(args.piece)
        make_run(stage_of(scale, args.out), key, args.out)
    else:
        every = [step for step in args.step if pieces_of(step, args.seeds, args.rehearse)]
        if training_device() == "cpu" and not args.rehearse:
            raise GPUError("PyTorch sees no CUDA device here; --rehearse goes through all steps at scale smoke on the CPU")
        if args.seconds:
            limited(args.seconds)
        if any(step[0] in RUNS for step in every):
            unpack(args.carried)
        run_steps(every, list(dict.fromkeys(args.seeds)), args.out, args.jobs, args.rehearse, args.minutes)


if __name__ == "__main__":
    main(run)
