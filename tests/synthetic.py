"""A results folder as the pipeline leaves it, with known answers, for tests of everything that reads results.

Losses follow ``E + A * (step + offset)^-alpha``; LOLM follows the same law ``speed`` times faster, so that its multiplier
in steps at any common loss is ``speed`` exactly, apart from the jitter that each pair of seeds is given. Ends of schedule lie on
that law; inside the run the loss lies ``bump`` above it until the last fifth, as under a schedule that decays at its end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from lolm.accounting.resolve import resolve_run
from lolm.config import Params, RunConfig, SizeRule, StudyConfig, load_params, to_mapping
from lolm.records import Layout, RunKey, fingerprint_of, store, write, write_json, write_rows, write_text
from lolm.records.results import RunRecord, ScaleResults, model_of
from lolm.records.schema import (
    Ablation,
    Addend,
    Beyond,
    Boundary,
    Condition,
    ContrastiveSummary,
    Contribution,
    DataChecksums,
    Divergence,
    Diversity,
    Evaluation,
    Example,
    Flops,
    GateSummary,
    Histogram,
    LayerRemovals,
    Layers,
    Lengths,
    LengthScore,
    MatchedSet,
    Parameters,
    PositionBin,
    PositionChange,
    Positions,
    PositionScore,
    Rate,
    Readout,
    Recall,
    RecallTask,
    References,
    RegimeSummary,
    Removal,
    RunHeader,
    Samples,
    ScheduleEnd,
    Score,
    Summary,
    Sweep,
    TextLosses,
    TokenClass,
    TrainingStream,
    Trial,
    TypeRecall,
    WriteSite,
    WrittenNorm,
)

BRANCHES = (("attention", "attention", "attention"), ("ssm", "mamba1", "recurrent"))  # of Hymba: name, kind, type
REPLACEMENTS = ("zero", "mean", "resample", "gaussian")
PROJECT = Path(__file__).resolve().parents[1]
FastDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the first needs libyaml
FLOOR, HEIGHT, EXPONENT, OFFSET = 2.0, 8.0, 0.3, 4.0
UNIFORM, UNIGRAM, BIGRAM = 6.238, 5.4, 4.4
TOKENS_PER_STEP = 1024
STAGES = (
    "sweep",
    "evaluate",
    "ablate",
    "layers",
    "recall",
)  # those whose records may be left out; training comes before all of them


@dataclass
class Truth:
    """What the synthetic runs are made to show."""

    speed: float = 1.5  # LOLM reaches any loss in 1/speed of the steps
    parameters: int = 100_000
    flops_ratio: float = 1.25  # FLOPs a token, LOLM over baseline
    jitter: float = 0.01  # sd over seeds of ln(speed)
    gate_path: tuple[float, float, float] = (0.36, 0.17, 0.83)  # start, dip, end
    gate_target_gap: float = 0.0
    share: float = 0.95  # surface branch's share of the power ...
    shares: dict[str, float] = field(default_factory=dict)  # ... and of single arms
    latents: dict[str, float] = field(default_factory=dict)  # of single arms, in place of ``latent_mean``
    indirect: dict[str, float] = field(default_factory=lambda: {"latent": 0.1, "surface": 2.0})  # damage beside the direct one
    gate_one: float = 9.0  # nats at g = 1 ...
    gate_zero: float = 5.0  # ... and at g = 0
    skip_damage: float = 5.5
    alive_eval: int = 3
    alive: dict[str, int] = field(default_factory=dict)  # of single arms
    codes: int = 8
    cpc: float = 3.0
    candidates: int = 56
    memory_mean: float = 0.0
    regime_mean: float = 0.05
    bigram: float = BIGRAM
    steps: int = 400
    log_every: int = 4
    eval_every: int = 20
    cooldowns: tuple[float, ...] = (0.25, 0.35, 0.5, 0.7)  # shares of the run at which a copy was annealed
    bump: float = 0.0  # nats above the law before the decay
    speeds: dict[str, float] = field(default_factory=dict)  # of single arms, in place of ``speed`` (LOLM) or 1
    recall: bool = True
    swept: bool = True
    laboratory: bool = True  # the ablation record has what the dependency laboratory measures
    latent_mean: float = 1.2  # damage of mean ablation at the end, nats ...
    surface_mean: float = 0.6
    split: float = 0.1  # largest S of random halves, nats
    recovered: float = 0.8  # share of the damage that a refitted head wins back
    function_gate: float = 0.1  # gate at function words minus gate at content words
    discourse_gate: float = 0.0  # gate at starts of words minus gate at starts of sentences
    offsets: dict[str, float] = field(default_factory=dict)  # nats that single arms lie above the law
    text_sd: float = 0.03  # nats between pieces of text, the same for all runs; each run's own is a hundredth of it
    # Damage at the end without all layers of a type, nats, shared out over them; the same in every plain stack but these arms.
    types: dict[str, float] = field(default_factory=lambda: {"recurrent": 1.0, "attention": 0.2, "mlp": 0.8})
    types_of: dict[str, dict[str, float]] = field(default_factory=dict)
    recurrent_share: float = 0.4  # of the norm that both types of mixer write
    late: float = 0.5  # damage of the last layer over that of the first
    recall_lost: tuple[float, float] = (0.05, 0.5)  # accuracy lost without the recurrent mixers, and without attention
    solved: float | None = None  # accuracy in associative recall, of every arm; None: by the arm's place


CORPUS = {"documents": 12, "bytes": 1500, "dropped": {"empty": 1}, "splits": {"train": {"documents": 8, "bytes": 1000}}}
CORPUS |= {"sources": {"set": {"documents": 12}}, "overlap": {"ngram_words": 8}}
CORPUS |= {key: [] for key in ("duplicates", "empty", "held_out", "licences")}


def law(step: float, speed: float = 1.0) -> float:
    """Held-out loss after a number of steps, nats."""
    return FLOOR + HEIGHT * (speed * step + OFFSET) ** -EXPONENT


def write_results(
    root: Path,
    arms: tuple[str, ...] = ("lolm", "transformer"),
    seeds: tuple[int, ...] = (1, 2, 3),
    truth: Truth | None = None,
    scale: str = "smoke",
    mismatch: float = 0.001,
    *,
    studies: Mapping[str, Mapping[str, Any]] | None = None,
    not_run: Collection[str] = (),
    diverged: Collection[str] = (),
    left_out: Collection[str] = (),
) -> Path:
    """Write ``params.yaml`` and ``reports/<scale>`` below ``root``; returns ``root``.

    An arm that the project's ``params.yaml`` does not know becomes a copy of ``transformer_modern`` under its own name.

    Args:
        arms, seeds: of the study ``main``, which is the selected one: subject ``lolm`` (without it the first arm), baseline
            ``transformer`` (without it none).
        studies: more studies by name, as changes to ``main``'s mapping; their runs are made too.
        not_run: arms (``lolm_sum``) and runs (``lolm-2``) that leave no record.
        diverged: arms and runs whose loss was not finite.
        left_out: stages (of STAGES), or stages of one run (``ablate/lolm-2``), that leave no record.
    """
    unknown = {name for name in left_out if name.partition("/")[0] not in STAGES}
    assert not unknown, f"no such stages: {unknown}"
    params = _parameters(arms, seeds, (scale,), studies or {})
    _write_params(root, params)
    _write_scale(root, params, truth or Truth(), mismatch, not_run, diverged, left_out)
    return root


SIZE_HEIGHT, SIZE_EXPONENT = 40.0, 0.35  # what a size adds to the law: A N^-alpha


def write_scales(root: Path, count: int, seeds: tuple[int, ...] = (1, 2), not_run: Collection[str] = ()) -> Path:
    """The study over sizes and budgets at scales ``s0``, ``s1``, … of the same text and budgets, each twice the size of the one
    before: L = FLOOR + SIZE_HEIGHT N^-SIZE_EXPONENT + HEIGHT steps^-EXPONENT, and LOLM ``Truth.speed`` times as fast in steps."""
    scales = tuple(f"s{i}" for i in range(count))
    params = replace(_parameters(("lolm", "transformer"), seeds, ("smoke", *scales), {}), budgets=dict.fromkeys(scales, "main"))
    _write_params(root, params)
    for i, scale in enumerate(scales):
        size = 100_000 * 2**i
        offset = SIZE_HEIGHT * size**-SIZE_EXPONENT
        levels = {"flops_ratio": 1.0, "jitter": 0.0, "offsets": {"lolm": offset, "transformer": offset}}
        ends = {"steps": 6400, "log_every": 128, "eval_every": 640, "cooldowns": (1 / 16, 1 / 8, 1 / 4, 1 / 2)}
        truth = Truth(parameters=size, **levels, **ends)
        gone = [run.partition("/")[2] for run in not_run if run.startswith(f"{scale}/")]
        _write_scale(root, params.select(scale), truth, 0.001, gone)
    return root


@cache
def _project() -> Params:
    return load_params(PROJECT / "params.yaml")


def _parameters(
    arms: tuple[str, ...], seeds: tuple[int, ...], scales: tuple[str, ...], studies: Mapping[str, Mapping[str, Any]]
) -> Params:
    """The project's parameters with these studies, of these scales and arms alone; scales it lacks are copies of ``smoke``."""
    main = {"arms": arms, "seeds": seeds}
    chosen = {name: _study(main | dict(changes)) for name, changes in ({"main": {}} | dict(studies)).items()}
    wanted = dict.fromkeys(arm for study in chosen.values() for arm in study.arms)
    project = _project()
    spare = project.architectures["transformer_modern"]
    new = {arm: SizeRule(like="transformer_modern") for arm in wanted if arm not in project.architectures}
    rules = project.sizes | new
    for arm in list(wanted):
        while arm in rules and (arm := rules[arm].like) is not None:
            wanted[arm] = None
    architectures = {
        arm: project.architectures.get(arm) or replace(spare, label=arm.replace("_", " ").capitalize()) for arm in wanted
    }
    rules = {arm: rule for arm, rule in rules.items() if arm in wanted}
    presets = {}
    for name in scales:
        preset = project.scales.get(name) or project.scales["smoke"]
        presets[name] = replace(preset, sizes={arm: rule for arm, rule in preset.sizes.items() if arm in wanted})
    analysis = replace(project.analysis, published_window=20)
    changes = {"studies": chosen, "study": "main", "scales": presets, "architectures": architectures, "analysis": analysis}
    changes |= {"sizes": rules, "budgets": {}}
    return replace(project, scale=scales[0], **changes)


def _study(fields: dict[str, Any]) -> StudyConfig:
    """LOLM against the Transformer where the study has them, else its first arm without a declared baseline."""
    arms = fields["arms"]
    subject, baseline = "lolm" if "lolm" in arms else arms[0], "transformer" if "transformer" in arms else ""
    return StudyConfig(**({"subject": subject, "baseline": baseline} | fields))


def _write_params(root: Path, params: Params) -> None:
    write_text(root / "params.yaml", yaml.dump(_plain(to_mapping(params)), Dumper=FastDumper, sort_keys=False))


def _plain(value: Any) -> Any:
    """Tuples as lists, as YAML has them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


@patch.object(store, "INDENT", None)  # to compress well, and to indent, would take most of the time
@patch.object(store, "PRESET", 0)
def _write_scale(
    root: Path,
    params: Params,
    truth: Truth,
    mismatch: float,
    not_run: Collection[str] = (),
    diverged: Collection[str] = (),
    left_out: Collection[str] = (),
) -> None:
    layout = Layout(params.scale, root)
    write_json(layout.corpus_record, CORPUS)
    keys = dict.fromkeys(RunKey(arm, seed) for study in params.studies.values() for arm in study.arms for seed in study.seeds)
    indices = {arm: index for index, arm in enumerate(dict.fromkeys(key.arm for key in keys))}
    for arm in indices if truth.swept and "sweep" not in left_out else ():
        if arm not in not_run and f"sweep/{arm}" not in left_out:
            write(layout.sweep(arm), _sweep(params, arm))
    for key in keys:
        if key.arm in not_run or str(key) in not_run:
            continue
        run = _Run(layout, resolve_run(params, params.scale, *key), truth, indices[key.arm], mismatch)
        if key.arm in diverged or str(key) in diverged:
            step = truth.steps // 3
            failed = Divergence(**run.identity, step=step, reason=f"loss is nan at step {step}", header=run.header())
            write(layout.divergence(*key), failed)
            continue
        kept = {stage for stage in STAGES if stage not in left_out and f"{stage}/{key}" not in left_out}
        run.write(kept if truth.recall else kept - {"recall"})


def _identity(run: RunConfig) -> dict[str, Any]:
    return {"arm": run.arm, "seed": run.seed, "name": run.name, "fingerprint": fingerprint_of(run.arm, run.seed)}


def _sweep(params: Params, arm: str) -> Sweep:
    """Five rates around the one that was trained with; of ``transformer_modern`` the best lies at the edge of the grid."""
    chosen = resolve_run(params, params.scale, arm, 0).size.learning_rate
    inside = arm != "transformer_modern"
    factors = (0.25, 0.5, 1.0, 2.0, 4.0) if inside else (0.125, 0.25, 0.5, 1.0)
    trials = tuple(
        Trial(chosen * factor, seed, 4.0 + 0.1 * math.log2(factor) ** 2 + 0.01 * seed) for factor in factors for seed in (1, 2)
    )
    rates = [Rate(chosen * factor, 4.015 + 0.1 * math.log2(factor) ** 2) for factor in factors]
    if inside:
        rates[-1] = replace(rates[-1], nats=None)  # diverged
    return Sweep(arm, chosen, inside, 40, (1, 2), trials, tuple(rates))


def _gate(share: float, truth: Truth, noise: random.Random | None) -> float:
    start, dip, end = truth.gate_path
    path = start + (dip - start) * share / 0.1 if share < 0.1 else dip + (end - dip) * min(1.0, (share - 0.1) / 0.3)
    return path + (noise.gauss(0, 0.004) if noise else 0.0)


def _score(nats: float) -> Score:
    return Score(nats, nats / 3, 0.3)


@dataclass
class _Run:
    """One run that shows the truth. The order of its random draws decides the numbers: add new ones at the end."""

    layout: Layout
    run: RunConfig
    truth: Truth
    index: int  # of its arm among those of all studies
    mismatch: float

    def __post_init__(self) -> None:
        run, truth = self.run, self.truth
        self.lolm = run.architecture.family == "lolm"
        self.flops_per_token = 6.0 * truth.parameters * (truth.flops_ratio if self.lolm else 1.0)
        self.parameters = truth.parameters + (0 if self.lolm else round(truth.parameters * self.mismatch))
        self.shift = random.Random(f"data-{run.seed}").gauss(0, 0.02)  # what a seed's data order does to both arms
        self.own = random.Random(f"{run.arm}-{run.seed}")
        self.share = truth.shares.get(run.arm, truth.share) + (0.001 * (run.seed - 2) if 0 < truth.share < 1 else 0)
        self.speed = truth.speeds.get(run.arm, truth.speed if self.lolm else 1.0)
        if self.lolm or run.arm in truth.speeds:
            self.speed *= math.exp(self.own.gauss(0, truth.jitter))
        self.identity = _identity(run)
        self.references = References(UNIFORM, UNIGRAM, truth.bigram, truth.bigram - 0.2)

    def write(self, kept: Iterable[str]) -> None:
        key = (self.run.arm, self.run.seed)
        write(self.layout.header(*key), self.header())
        write_rows(self.layout.series(*key), self.rows())
        write(self.layout.summary(*key), self.summary())
        makers: dict[str, tuple[Path, Callable[[], Any]]] = {
            "evaluate": (self.layout.evaluation(*key), self.evaluation),
            "ablate": (self.layout.ablation(*key), self.ablation),
            "recall": (self.layout.recall(*key), self.recall),
        }
        if not self.lolm:
            makers["layers"] = (self.layout.layers(*key), self.layers)
        for stage, (path, make) in makers.items():
            record = make()  # also where it is left out, so that the others have the same numbers
            if stage in kept:
                write(path, record)
                if isinstance(record, Evaluation):
                    write(self.layout.text_losses(*key), self.text_losses(record))

    # training

    def ended(self, step: float) -> float:
        """Loss where a schedule ended, nats."""
        return law(step, self.speed) + self.shift + self.truth.offsets.get(self.run.arm, 0.0)

    def loss(self, step: float) -> float:
        return self.ended(step) + self.truth.bump * min(1.0, max(0.0, 5 * (1 - step / self.truth.steps)))

    def axes(self, step: int) -> dict[str, Any]:
        tokens = step * TOKENS_PER_STEP
        seconds = step * (0.02 if self.lolm else 0.01)
        return {"step": step, "tokens": tokens, "flops": tokens * self.flops_per_token, "seconds": seconds}

    def ends(self) -> list[int]:
        """Steps of the run's own end of schedule, then of its annealed copies."""
        return [self.truth.steps, *(round(share * self.truth.steps) for share in self.truth.cooldowns)]

    def header(self) -> RunHeader:
        run, flops = self.run, self.flops_per_token
        return RunHeader(
            name=run.name,
            label=run.architecture.label,
            fingerprint=self.identity["fingerprint"],
            run=run,
            parameters=Parameters(self.parameters, self.parameters, {"surface": self.parameters}),
            flops_per_token=Flops(flops / 3, flops, flops * 1.02, {"surface": flops / 3}),
            state_elements=1024 * (1 + self.index),
            state_bytes=4096 * (1 + self.index),
            device="cpu",
            kernels="cpu",
            data=DataChecksums("1" * 64, "2" * 64),
            code="3" * 16,
        )

    def rows(self) -> list[dict[str, float]]:
        truth, rows = self.truth, []
        for step in range(0, truth.steps + 1, truth.log_every):
            row: dict[str, float] = self.axes(step)
            loss = self.loss(step)
            if step:
                row |= {"train/loss": loss + 0.05, "train/total": loss + 1, "train/grad_norm": 1.0}
                row["train/lr"] = 1e-3 * min(1.0, 5 * (1 - step / truth.steps))  # constant, then decays in the last fifth
                row["speed/tokens_per_second"] = TOKENS_PER_STEP / (0.02 if self.lolm else 0.01)
            if self.lolm and step:
                gate = _gate(step / truth.steps, truth, self.own)
                row |= {"gate/mean": gate, "gate/target": gate + truth.gate_target_gap}
                row |= {"regime/alive": truth.codes, "regime/tau": 1.0}
            if step % truth.eval_every == 0:
                row |= {"val/nats": loss, "val/bits_per_byte": loss / 3, "val/accuracy": 0.3}
                if self.lolm:
                    row["val/gate_mean"] = _gate(step / truth.steps, truth, None)
            rows.append(row)
        for step in self.ends():
            nats = self.ended(step)
            rows.append(self.axes(step) | {"annealed/nats": nats, "annealed/bits_per_byte": nats / 3, "annealed/accuracy": 0.3})
        return rows

    def summary(self) -> Summary:
        final = self.ended(self.truth.steps)
        return Summary(
            arm=self.run.arm,
            seed=self.run.seed,
            **self.axes(self.truth.steps),
            annealing_seconds=0.1,
            parameters=self.parameters,
            flops_per_token=self.flops_per_token,
            learning_rate=self.run.size.learning_rate,
            train_loss=final,
            tokens_per_second=1e4,
            val_nats=final,
            val_bits_per_byte=final / 3,
            val_accuracy=0.3,
            val_gate_mean=_gate(1.0, self.truth, None) if self.lolm else None,
            alone=True,
        )

    # evaluation

    def evaluation(self) -> Evaluation:
        truth, nats = self.truth, self.ended(self.truth.steps)
        windows = {str(n): self._length(n, nats + 0.02) for n in (1, 2)}
        return Evaluation(
            **self.identity,
            step=truth.steps,
            split="test",
            tokens=4096,
            bytes=9000,
            validation=_score(nats),
            test=_score(nats + 0.02),
            references=self.references,
            references_validation=self.references,
            objectives={"future": truth.cpc} if self.lolm else None,
            cpc=self._contrastive() if self.lolm else None,
            gate=self._gate_summary() if self.lolm else None,
            regime=self._regime() if self.lolm else None,
            positions=self._positions(nats + 0.02),
            lengths=Lengths(windows, {"4": "the test split is short"}),
            samples=Samples(
                texts=4,
                prompt_tokens=8,
                sample_tokens=16,
                temperature=1.0,
                top_k=0,
                generated=Diversity(words=90, distinct_2=0.8, distinct_2_pooled=0.7, bigram_repetition=0.2),
                real=Diversity(words=88, distinct_2=0.97, distinct_2_pooled=0.9, bigram_repetition=0.03),
                examples=(Example("It was", " the the", " a <day> & night"),),
            ),
            schedule_ends=tuple(
                ScheduleEnd(**self.axes(step), validation=_score(self.ended(step)), test=_score(self.ended(step) + 0.02))
                for step in sorted(self.ends())
            ),
            training_stream=tuple(self._training_stream(step) for step in (truth.steps // 10, truth.steps // 2, truth.steps)),
        )

    def text_losses(self, record: Evaluation) -> TextLosses:
        """Four documents of six pieces, the last of each shorter; the means are those of the evaluation."""
        document, piece = [i // 6 for i in range(24)], [i % 6 for i in range(24)]
        tokens = [150 if i % 6 < 5 else 274 for i in range(24)]
        shared, own = random.Random("text"), random.Random(f"text {self.run.arm} {self.run.seed}")
        sd = self.truth.text_sd
        away = [shared.gauss(0, sd) + own.gauss(0, sd / 100) for _ in tokens]
        mean = sum(a * n for a, n in zip(away, tokens, strict=True)) / sum(tokens)

        def sums(nats: float) -> tuple[float, ...]:
            return tuple(n * (nats + a - mean) for a, n in zip(away, tokens, strict=True))

        return TextLosses(
            **self.identity,
            documents=("a", "b", "c", "d"),
            piece_tokens=1024,
            document=tuple(document),
            piece=tuple(16 * i for i in piece),  # so that each piece is a block
            tokens=tuple(tokens),
            bytes=tuple(2 * n for n in tokens),
            nats=sums(record.test.nats),
            subset_tokens=tuple(tokens),
            ends={str(end.step): sums(end.test.nats) for end in record.schedule_ends},
        )

    def _training_stream(self, step: int) -> TrainingStream:
        """0.05 nats below what is logged in training, where noise is on; a forced gate costs what it costs at the end."""
        gates = (0.5, self.truth.gate_one, self.truth.gate_zero) if self.lolm else (None, None, None)
        return TrainingStream(step, 1024, self.loss(step), *gates)

    def _contrastive(self) -> ContrastiveSummary:
        truth = self.truth
        return ContrastiveSummary(truth.cpc + 0.002 * self.run.seed, math.log(truth.candidates), truth.candidates)

    def _gate_summary(self) -> GateSummary:
        gate = self.truth.gate_path[2]
        return GateSummary(
            mean=gate + 0.001 * self.run.seed,
            std_over_positions=0.1,
            std_over_dimensions=0.2,
            per_dimension=(gate,) * 32,
            histogram=Histogram(tuple(i / 10 for i in range(11)), (1, 2, 3, 5, 8, 13, 21, 34, 55, 34)),
            saturated_low=0.01,
            saturated_high=0.2,
            share=self.share,
            target=gate + 0.001 * self.run.seed + self.truth.gate_target_gap,
        )

    def _regime(self) -> RegimeSummary:
        codes = self.truth.codes
        return RegimeSummary(
            codes=codes,
            max_entropy=math.log(codes),
            alive_sampled=codes,
            usage_entropy_sampled=2.0,
            alive_noise=codes,
            usage_entropy_noise=2.07,
            alive_eval=self.truth.alive.get(self.run.arm, self.truth.alive_eval),
            usage_entropy_eval=0.9,
        )

    @staticmethod
    def _positions(nats: float) -> Positions:
        def score(value: float) -> PositionScore:
            return PositionScore(value, value / 3, 0.3)

        edges = (0, 1, 2, 4, 8, 16, 32, 64)
        losses = [(a, b, nats + 1.5 / (1 + a) - 0.2) for a, b in zip(edges, edges[1:], strict=False)]
        bins = tuple(PositionBin(a, b, value, value / 3, 0.3) for a, b, value in losses)
        return Positions(bins, score(nats + 0.3), score(nats - 0.1), PositionChange(-0.1, -0.1 / 3, 0.3))

    @staticmethod
    def _length(multiple: int, nats: float) -> LengthScore:
        beyond = Beyond(2048, nats + 0.1, nats) if multiple > 1 else None
        value = nats + 0.05 * (multiple - 1)
        return LengthScore(64 * multiple, 4096, value, value / 3, beyond)

    # the dependency laboratory

    def ablation(self) -> Ablation:
        truth = self.truth
        steps = (truth.steps // 10, truth.steps // 2, truth.steps)
        conditions: list[Condition] = []

        def add(step: int, intervention: str, value: float | None, nats: float) -> None:
            kl = 0.0 if intervention == "none" else abs(nats - self.loss(step))
            conditions.append(Condition(step, intervention, value, nats, nats / 3, 0.2, kl, 0.5))

        for step in steps:
            self._published(step, add)
        none: dict[str, Any] = {"contributions": (), "readouts": (), "token_classes": ()}
        record = Ablation(
            **self.identity, split="test", tokens=2048, bytes=4500, references=self.references, conditions=(), **none
        )
        if self.lolm and truth.laboratory:
            self._removals(steps, add)
            record = replace(
                record, contributions=self._contributions(steps), readouts=self._readouts(), token_classes=self._classes()
            )
        return replace(record, conditions=tuple(conditions), boundaries=self._boundaries() if truth.laboratory else ())

    def _published(self, step: int, add: Callable[[int, str, float | None, float], None]) -> None:
        truth, full, grown = self.truth, self.loss(step), step / self.truth.steps
        add(step, "none", None, full)
        if not self.lolm:
            add(step, "skip_last_blocks", 1.0, full + truth.skip_damage * grown + self.own.gauss(0, 0.05))
            return
        for i in range(5):
            forced = i / 4
            end = truth.gate_one if forced >= 0.5 else truth.gate_zero
            add(step, "gate", forced, full + abs(forced - 0.5) * 2 * (end - full) * grown + 0.1 + self.own.gauss(0, 0.01))
        for alpha in (0.5, 1.0):
            add(step, "gate_blend_one", alpha, full + alpha**2 * (truth.gate_one - full) * grown)
            add(step, "gate_blend_zero", alpha, full + alpha**2 * (truth.gate_zero - full) * grown)
        for stream, mean in (("memory", truth.memory_mean), ("regime", truth.regime_mean)):
            add(step, f"{stream}_mean", None, full + mean + self.own.gauss(0, 0.001))
            add(step, f"{stream}_zero", None, full + 2 * mean + self.own.gauss(0, 0.001))

    @property
    def _damage(self) -> dict[str, float]:
        latent = self.truth.latents.get(self.run.arm, self.truth.latent_mean)
        return {"latent": latent, "surface": self.truth.surface_mean}

    def _removals(self, steps: tuple[int, ...], add: Callable[[int, str, float | None, float], None]) -> None:
        """Damages grow linearly over training, every way of removal does the same."""
        for step in steps:
            grown, jitter = step / self.truth.steps, self.own.gauss(0, 0.005)
            for branch, end in self._damage.items():
                for way in ("zero", "mean", "resample", "gaussian"):
                    for kept in ("", "+match_norm"):
                        add(step, f"{branch}_{way}{kept}", None, 3.0 + end * grown + jitter * (branch == "latent"))
                indirect = self.truth.indirect[branch]
                for way in ("zero", "mean", "resample"):
                    add(step, f"{branch}_indirect_{way}", None, self.loss(step) + indirect * grown)
                    add(step, f"{branch}_total_{way}", None, self.loss(step) + (end + indirect) * grown)
                    if branch == "surface":
                        add(step, f"{branch}_into_latent_{way}", None, self.loss(step) + self._damage["latent"] * grown)
                add(step, f"{branch}_alone", None, 4.0 + (branch == "surface"))
            for draw in range(8):
                half = self.truth.split * (draw + 1) / 8
                add(step, f"split_{draw}_first", None, 3.4)
                add(step, f"split_{draw}_second", None, 3.4 + half)

    def _contributions(self, steps: tuple[int, ...]) -> tuple[Contribution, ...]:
        shares = {"surface": self.share, "latent": 1 - self.share}
        addends = {name: Addend(3.0, share, 1.0, 0.9, share, share) for name, share in shares.items()}
        return tuple(Contribution(step, _gate(step / self.truth.steps, self.truth, None), addends) for step in steps)

    def _readouts(self) -> tuple[Readout, ...]:
        full, damage, recovered = 3.0, self._damage, self.truth.recovered
        damaged = (
            ("none", None, 0.0),
            ("gate", 1.0, 2.0),
            ("gate", 0.0, 1.0),
            ("latent_mean", None, damage["latent"]),
            ("surface_mean", None, damage["surface"]),
        )
        return tuple(
            Readout(
                step=self.truth.steps,
                intervention=name,
                value=value,
                readout=readout,
                full=full,
                damaged=full + end,
                refitted=full + end * (1 - share) + self.own.gauss(0, 0.002),
                recovered=share,
                intact=full,
                kept=None if readout == "temperature" else 100,
            )
            for name, value, end in damaged
            for readout, share in (("temperature", 0.1), ("affine", recovered / 2), ("head", recovered))
        )

    def _boundaries(self) -> tuple[Boundary, ...]:
        """Harder just after a boundary, for LOLM a little less so; its gate is lower there."""
        rows = []
        for kind in ("sentence", "paragraph", "document"):
            for first, last, near in ((1, 8, 0.5), (9, None, 0.0)):
                nats = self.loss(self.truth.steps) + near * (0.8 if self.lolm else 1.0) + 0.001 * self.run.seed * near
                gate = self.truth.gate_path[2] - 0.1 * near - 0.001 * self.run.seed * near if self.lolm else None
                fusion = {"gate": gate, "share": 1 - self.truth.share, "damage_latent": 1.0, "damage_surface": 1.0}
                rows.append(Boundary(kind, first, last, 100, 10, nats, **(fusion if self.lolm else {})))
        return tuple(rows)

    def _classes(self) -> tuple[TokenClass, ...]:
        return tuple(
            TokenClass(
                step=self.truth.steps,
                token_class=name,
                tokens=500,
                nats=3.0,
                gate_mean=0.5 + shift + self.own.gauss(0, 0.003),
                gate_std=0.1,
                damage_latent_mean=self.truth.latent_mean,
                damage_surface_mean=self.truth.surface_mean,
            )
            for name, shift in (
                ("all", 0.0),
                ("function_word", self.truth.function_gate),
                ("content_word", 0.0),
                ("word_start", 0.1),
                ("sentence_start", 0.1 - self.truth.discourse_gate),
                ("newline", 0.0),
                ("document_1_32", 0.0),
                ("document_later", 0.0),
            )
        )

    # layers and types of layer

    def _sites(self) -> tuple[WriteSite, ...]:
        """As the run's model has them; a branch of a mixer is a site of its own."""
        surface, found = self.run.architecture.surface, []
        for i in range(0 if self.lolm else self.run.size.n_layers):
            block = surface.blocks[surface.pattern[i % len(surface.pattern)]]
            kind = block.mixer.name
            if kind == "hymba":
                found += [WriteSite(f"stack.{i}.mixer.{b}", k, t, 5000) for b, k, t in BRANCHES]
            kind_type = {"attention": "attention", "hymba": None}.get(kind, "recurrent")
            found.append(WriteSite(f"stack.{i}.mixer", kind, kind_type, 10_000))
            if block.mlp != "none":
                found.append(WriteSite(f"stack.{i}.mlp", "mlp", "mlp", 20_000))
        return tuple(found)

    def layers(self) -> Layers:
        """Damages add up over sites, fall along the layers and grow linearly over training; a type's sites have equal norms."""
        truth, sites, depth = self.truth, self._sites(), self.run.size.n_layers
        ends, noise = truth.types_of.get(self.run.arm, truth.types), random.Random(f"layers-{self.run.arm}-{self.run.seed}")
        counts = {kind: sum(s.type == kind for s in sites) for kind in ends}
        weights = {s.site: 1 - (1 - truth.late) * s.layer / max(1, depth - 1) for s in sites}
        totals = {kind: sum(weights[s.site] for s in sites if s.type == kind) for kind in ends}
        jitter = {kind: noise.gauss(0, 0.005) for kind in ends}
        damage = {s.site: (ends[s.type] + jitter[s.type]) * weights[s.site] / totals[s.type] for s in sites if s.type in ends}
        share = {"recurrent": truth.recurrent_share, "attention": 1 - truth.recurrent_share, "mlp": 1.0}
        typed = [s.site for s in sites if s.type in ends]
        mixers = [s.site for s in sites if s.type in ("recurrent", "attention")]
        steps, rows, norms = (truth.steps // 10, truth.steps // 2, truth.steps), [], []
        of_type = {kind: [s.site for s in sites if s.type == kind] for kind in ends if counts[kind]}
        hybrid = counts["recurrent"] and counts["attention"]
        halves = [*combinations(mixers, counts["recurrent"]), *combinations(mixers, counts["attention"])] if hybrid else []
        for step in steps:
            norms += [WrittenNorm(step, s.site, share[s.type] / counts[s.type] if s.type in ends else 1.0) for s in sites]
            asked = [((), "none"), *((sites_of, how) for sites_of in of_type.values() for how in REPLACEMENTS)]
            if step == truth.steps:
                asked += [((site,), how) for site in typed for how in REPLACEMENTS] + [(half, "mean") for half in halves]
            for removed, how in {(tuple(removed), how): None for removed, how in asked}:
                nats = 3.0 + sum(damage[site] for site in removed) * step / truth.steps
                rows.append(Removal(step, removed, how, nats, nats / 3, 0.2, 0.1 * bool(removed)))
        controls = [
            MatchedSet(k, "norm", h) for k in of_type if hybrid for h in halves if set(h) != set(of_type[k]) and k != "mlp"
        ]
        measured = LayerRemovals(2048, 4500, sites, tuple(norms), tuple(rows), tuple(controls))
        return Layers(**self.identity, split="test", references=self.references, measured=measured)

    # recall

    def recall(self) -> Recall:
        mqar = min(1.0, 0.3 + 0.05 * self.index + self.own.uniform(0, 0.05))
        mqar = mqar if self.truth.solved is None else self.truth.solved
        types = {site.type for site in self._sites()}
        lost = {k: v for k, v in zip(("recurrent", "attention"), self.truth.recall_lost, strict=True) if k in types}
        lost = {kind: value + random.Random(f"{kind}-{self.run.seed}").gauss(0, 0.01) for kind, value in lost.items()}
        removed = tuple(TypeRecall(kind, "mean", mqar - value, 2.0) for kind, value in lost.items())
        tasks = {
            "mqar": RecallTask(100, 64, 8, 1 / 64, 1 / 8, mqar, 0.5, removed=removed),
            "induction": RecallTask(100, 64, None, 1 / 127, 1 / 32, 0.9 - self.own.uniform(0, 0.05), 0.5),
        }
        return Recall(
            **(self.identity | {"fingerprint": "0" * 16}),
            model=model_of(self.run),
            state_elements=1024 * (1 + self.index),
            tasks=tasks,
        )


def recall_diverged(results: ScaleResults, key: str, task: str = "mqar") -> ScaleResults:
    """The same where training of one run (``lolm-2``) on a recall task diverged."""

    def changed(run: RunRecord) -> RunRecord:
        if str(run.key) != key or run.recall is None:
            return run
        gone = replace(run.recall.tasks[task], accuracy=None, nats=None, diverged=True, removed=())
        return replace(run, recall=replace(run.recall, tasks=run.recall.tasks | {task: gone}))

    return replace(results, runs=tuple(map(changed, results.runs)))


def write_weights(root, arm, seed):
    """Corpus, tokenizer and shards of made-up text, and untrained weights of a run, where the pipeline would leave them; its
    header says that it was trained on these shards."""
    from minicorpus import make_texts, write_jsonl

    from lolm.config import CorpusConfig, ShardsConfig, TokenizerConfig
    from lolm.corpus.build import build_corpus
    from lolm.corpus.shards import write_shards
    from lolm.corpus.tokenizer import Tokenizer, build_tokenizer
    from lolm.data.stream import TokenStream
    from lolm.models.build import build_model
    from lolm.records import Layout, read
    from lolm.records.schema import RunHeader

    layout = Layout("smoke", root)
    header = read(layout.header(arm, seed), RunHeader)
    run = header.run
    path = write_jsonl(root / "mini.jsonl", make_texts())
    build_corpus(CorpusConfig(source="local", path=str(path), validation_fraction=0.3, test_fraction=0.3), layout.corpus)
    layout.tokenizer.mkdir()
    layout.shards.mkdir()
    build_tokenizer(TokenizerConfig(vocab_size=run.vocab_size), layout.corpus, layout.tokenizer)
    write_shards(ShardsConfig(100_000), layout.corpus, Tokenizer.load(layout.tokenizer), layout.shards)
    data = DataChecksums(*(TokenStream.open(layout.shards, split).checksum for split in ("train", "validation")))
    write(layout.header(arm, seed), replace(header, data=data))
    keep_weights(layout.weights(arm, seed) / "model.safetensors", build_model(run), layout, run)


def keep_weights(path, model, layout, run):
    """Weights of a run, with their checksum in its record."""
    from lolm.objectives import build_heads
    from lolm.records import read, sha256_of
    from lolm.training.checkpoint import save_weights

    save_weights(path, model, build_heads(run.architecture, run.size))
    summary = read(layout.summary(run.arm, run.seed), Summary)
    digest = {path.relative_to(layout.weights(run.arm, run.seed)).as_posix(): sha256_of(path)}
    write(layout.summary(run.arm, run.seed), replace(summary, weights=summary.weights | digest))
