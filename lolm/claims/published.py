"""Every published number the ledger uses: its value, where it was printed, and what it was measured on.

Numbers are inputs here and are never adjusted; what follows from them is computed in :mod:`lolm.claims.arithmetic`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

SOURCES = {
    "seed": "Qira, Why Hybrid Architectures Matter",
    "paper": "LOLM paper, 27 March 2026",
    "scaling": "Qira, Scaling 20M to 1.57B",
    "surface": "Qira, Surface vs Latent",
    "results": "authors' repository, results/ablation_gate_step20000.txt",
    "proof": "LOLM Proof Pack, 27 March 2026",
    "readme": "authors' repository, README",
    "configs": "authors' repository, configs and training code",
    "projections": "authors' web page on projections",
    "explorer": "authors' web page, gate explorer",
    "blog": "authors' web page on scaling",
    "pitch": "LOLM NVIDIA pitch, 27 March 2026",
    # on other hybrids, abstracts read
    "ablation": "arXiv 2603.22473 v1, abstract",
    "composition": "arXiv 2605.01106, abstract",
    "retrieval": "arXiv 2510.19861, abstract",
    "bypass": "arXiv 2510.05901, abstract",
}

CLIP_NATS = 20.0  # the evaluation script takes exp(min(loss, 20))
PRINTED = "printed by the authors"
VOCABULARY = 50_257  # GPT-2 tokens, used at every published scale


@dataclass(frozen=True)
class Number:
    """A printed number.

    Attributes:
        value: as a plain number (shares, not percentages).
        unit: nats, perplexity, x (ratio), share, gate, codes, steps, count, and what is shown as a plain number.
        source: keys of :data:`SOURCES`.
        where: what it was measured on, in a few words.
        scale: the published model it belongs to, by its preset's name, if a level of that one model.
    """

    value: float
    unit: str
    source: tuple[str, ...]
    where: str
    scale: str | None = None

    def to_record(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "unit": self.unit,
            "source": [SOURCES[key] for key in self.source],
            "where": self.where,
            "origin": PRINTED,
        }


def _number(value: float, unit: str, source: str, where: str, scale: str | None = None) -> Number:
    return Number(value, unit, tuple(source.split()), where, scale)


NUMBERS: dict[str, Number] = {
    # 1.57B against its baseline
    "efficiency": _number(
        2.0, "x", "seed scaling", "1.57B: baseline's 20,000 steps over LOLM's about 10,000, to training perplexity 46.5"
    ),
    "baseline_steps_20k": _number(20_000, "steps", "scaling", "1.57B baseline at training perplexity 46.5"),
    "lolm_steps_10k": _number(10_000, "steps", "scaling", "1.57B LOLM at training perplexity 46.5, 'about'"),
    "gap_headline": _number(0.259, "share", "seed surface", "1.57B, step 20,000; no derivation given"),
    "gap_training": _number(0.168, "share", "scaling", "1.57B, step 20,000, both in training mode: 38.7 against 46.5"),
    "gap_later": _number(
        0.15, "share", "paper readme proof", "1.57B, LOLM at step 23,700 against the baseline at 26,250, training mode"
    ),
    "ppl_lolm_eval_20k": _number(34.47, "perplexity", "results paper", "1.57B LOLM, step 20,000, evaluation mode"),
    "ppl_lolm_train_20k": _number(38.7, "perplexity", "scaling results", "1.57B LOLM, step 20,000, training mode"),
    "ppl_baseline_train_20k": _number(46.5, "perplexity", "scaling", "1.57B baseline, step 20,000, training mode"),
    "ppl_lolm_late": _number(33.2, "perplexity", "paper proof", "1.57B LOLM, step 23,700, training mode"),
    "ppl_baseline_late": _number(39.1, "perplexity", "paper proof", "1.57B baseline, step 26,250, training mode"),
    "lolm_steps_late": _number(23_700, "steps", "paper", "1.57B LOLM, 'about'"),
    "baseline_steps_late": _number(26_250, "steps", "paper", "1.57B baseline, 'about'"),
    "tpu_gap_3k": _number(0.435, "share", "paper proof", "319M LOLM against 317M baseline, step 3,000 of 50,000: LOLM ahead"),
    "tpu_gap_50k": _number(-0.044, "share", "paper proof", "the same pair at step 50,000: LOLM behind"),
    # the gate
    "gate_20m": _number(0.27, "gate", "paper scaling", "20.5M, step 20,000", "20m"),
    "gate_149m": _number(0.55, "gate", "paper scaling", "149M", "149m"),
    "gate_304m": _number(0.83, "gate", "paper scaling", "304M, from step 5,000 on", "304m"),
    "gate_157b": _number(0.71, "gate", "scaling results paper", "1.57B, step 20,000 (0.706; 0.72 in the paper)", "1570m"),
    "gate_exact": _number(0.706, "gate", "results", "1.57B, step 20,000, mean over batches, ± 0.003"),
    "gate_start": _number(0.36, "gate", "paper", "304M at the start"),
    "gate_dip": _number(0.17, "gate", "paper", "304M, about step 1,800"),
    "latent_share": _number(0.29, "share", "scaling", "1.57B, read off as one minus the mean gate"),
    # forced gates
    "learned_nats": _number(3.5400, "nats", "results paper", "1.57B, step 20,000, learned gate"),
    "gate_one_nats": _number(76.8858, "nats", "results paper", "1.57B, gate forced to 1"),
    "gate_zero_nats": _number(10.9354, "nats", "results paper", "1.57B, gate forced to 0"),
    "gate_one_ppl": _number(485_165_195.41, "perplexity", "results paper seed", "1.57B, gate forced to 1, as printed"),
    "gate_zero_ppl": _number(56_129.90, "perplexity", "results paper seed", "1.57B, gate forced to 0, as printed"),
    "ratio_learned": _number(14_000_000, "x", "seed paper", "1.57B, step 20,000: 485.2 million over 34.47"),
    "ratio_inversion": _number(8_645, "x", "seed", "485.2 million over 56,130"),
    "inversion_304m": _number(744, "x", "projections", "304M, plotted; the table it comes from says +744.1 %, 8.4 times"),
    "wikitext_full": _number(59.23, "perplexity", "paper readme", "304M, WikiText-103 test, complete model"),
    "wikitext_gate_one": _number(499.96, "perplexity", "paper readme", "304M, the same with the gate forced to 1"),
    # the other streams
    "no_memory": _number(0.0, "share", "paper readme", "304M, perplexity change when the memory's output is zeroed: 59.23 stays"),
    "no_regime": _number(1.089, "share", "paper readme", "304M, perplexity change when the regime's output is zeroed: to 123.73"),
    "codes_304m": _number(1.0, "share", "paper scaling", "304M: 32 of 32 codes, counted on Gumbel samples"),
    "codes_157b": _number(1.0, "share", "paper scaling", "1.57B: 64 of 64 codes, counted on Gumbel samples"),
    "codes_20m": _number(1 / 16, "share", "paper scaling", "20.5M, before isolation: 1 of 16 codes"),
    "cpc_304m": _number(0.15, "nats", "paper", "304M, step 30,000"),
    "cpc_157b": _number(5.687, "nats", "paper results", "1.57B, step 20,000"),
    "cpc_chance_quoted": _number(math.log(256), "nats", "paper", "ln 256, quoted as chance"),
    "bpc_304m": _number(6.10, "bits", "paper", "304M, WikiText-103, called bits per character; Pythia's 7.16"),
    # levels of single models
    "nats_20m": _number(
        2.62, "nats", "paper scaling", "20.5M, TinyStories, training loss at step 20,000 (perplexity 13.7)", "20m"
    ),
    "nats_149m": _number(
        4.15, "nats", "paper scaling", "149M, FineWeb-Edu, training loss at step 20,000 (perplexity 63.2)", "149m"
    ),
    "nats_304m": _number(
        3.57,
        "nats",
        "paper scaling proof",
        "304M, training loss (perplexity 35.5); step 20,000 by the paper, 33,000 by the proof",
        "304m",
    ),
    "nats_157b": _number(
        3.50, "nats", "paper results", "1.57B, training loss at step 23,700 (perplexity 33.2); 3.65 at step 20,000", "1570m"
    ),
    "nats_baseline_157b": _number(
        math.log(39.1), "nats", "paper", "1.57B baseline, training loss at step 26,250, ln 39.1", "1570m"
    ),
    "codes_149m": _number(1 / 24, "share", "paper scaling", "149M, before isolation: 1 of 24 codes"),
    "usage_entropy_304m": _number(3.465 / 3.466, "share", "paper", "304M: 3.465 of 3.466 nats, counted on Gumbel samples"),
    "memory_loss_304m": _number(0.0, "share", "paper", "304M, steps 1,000 to 14,000: entropy of the slots' attention over ln S"),
    "memory_loss_157b": _number(0.149, "share", "paper", "1.57B, step 20,000; 0.687 at the start"),
    "cpc_breaks_304m": _number(1_500, "steps", "paper", "304M, of 33,000 steps: the loss falls below chance"),
    # LOLM against its baseline, early and late
    "advantage_2k": _number(42.8, "x", "scaling", "1.57B, step 2,000 of 20,000: presumably the ratio of training perplexities"),
    "advantage_13k": _number(1.2, "x", "scaling", "1.57B, from step 13,000 on: 1.2 to 1.3"),
    "faster_43": _number(
        0.435, "share", "paper proof", "319M against 317M, step 3,000 of 50,000: a perplexity gap, called faster"
    ),
    "flops_overhead": _number(
        0.043, "share", "paper", "319M LOLM against its baseline, the scan about 3.5 %; the count is not published"
    ),
    "scratch_full": _number(5.3243, "nats", "proof", "319M LOLM trained from scratch, last logged loss (perplexity 205)"),
    "scratch_no_ssm": _number(5.1394, "nats", "proof", "the same without SSM (perplexity 171)"),
    "scratch_no_regime": _number(5.1139, "nats", "proof", "the same without regime codes, step 29,282 (perplexity 166)"),
    # components of the trained 304M model
    "component_gate_one": _number(7.441, "share", "paper readme", "304M, perplexity change with the gate forced to 1: to 499.96"),
    "component_gate_half": _number(
        9.052, "share", "paper readme", "304M, perplexity change with the gate forced to 0.5: to 595.43"
    ),
    "component_all": _number(36.118, "share", "paper readme", "304M, gate forced to 1, memory and regime zeroed: to 2,198.58"),
    # against Pythia-410M
    "pythia_gap": _number(0.522, "share", "paper readme", "304M, 68.37 against 142.93 on WikiText-103, each model's own tokens"),
    "pythia_late": _number(-0.170, "share", "paper", "304M, change of the loss from early to late positions; Pythia -11.4 %"),
    "pythia_context": _number(0.454, "share", "paper readme", "304M, top-1 advantage of context; Pythia +34.7 %"),
    "pythia_repetition": _number(0.313, "share", "paper readme", "304M, repeated bigrams in generated text; Pythia 39.3 %"),
    # downstream of the TPU pair, step 20,000
    "downstream_wikitext": _number(2_046, "perplexity", "paper proof", "WikiText-103, LOLM; its baseline 1,837"),
    "downstream_baseline": _number(1_837, "perplexity", "paper proof", "WikiText-103, the 317M baseline"),
    "hellaswag": _number(0.225, "share", "paper proof", "HellaSwag, LOLM; its baseline 25.5 %"),
    "hellaswag_baseline": _number(0.255, "share", "paper proof", "HellaSwag, the 317M baseline"),
    "lambada": _number(0.004, "share", "paper proof", "LAMBADA, LOLM; its baseline 0.6 %"),
    # hypotheses about larger models
    "projected_gate": _number(0.60, "gate", "projections", "7B: 0.60 to 0.65; 13B: 0.55 to 0.60"),
    "projected_efficiency": _number(2.0, "x", "projections", "7B and 13B: at least 2, up to 3"),
    "projected_gap": _number(0.15, "share", "projections", "7B and 13B: perplexity 15 to 25 % lower"),
    # other hybrids
    "hybrid_recurrent": _number(
        35_000, "x", "ablation", "Qwen3.5-0.8B and Falcon-H1-0.5B, recurrent paths removed, perplexity: above"
    ),
    "hybrid_attention": _number(82, "x", "ablation", "the same models, attention removed, perplexity: about"),
    "composition_parallel": _number(3.15, "x", "composition", "Falcon-H1 up to 3B, parallel paths, perplexity"),
    "composition_sequential": _number(82, "x", "composition", "sequential paths, perplexity"),
    "recall_no_attention": _number(
        0.0, "share", "retrieval", "RecurrentGemma-2B and 9B, Jamba-Mini-1.6, attention removed: retrieval"
    ),
    # gate, regime, CPC and memory over training
    "gate_half": _number(0.5, "gate", "paper", "304M, about step 3,300", "304m"),
    "gate_min_157b": _number(0.125, "gate", "paper", "1.57B, about step 2,000: the lowest", "1570m"),
    "gate_tpu": _number(0.81, "gate", "paper", "319M on TPU, the 304m preset with the plain SSM", "304m"),
    "cpc_2100": _number(4.1, "nats", "paper", "304M, step 2,100", "304m"),
    "cpc_5000": _number(1.5, "nats", "paper", "304M, step 5,000", "304m"),
    "codes_collapsed": _number(
        1 / 32, "share", "paper configs", "304M without isolation: 32 codes to 1 in 500 to 2,000 steps (by step 450)"
    ),
    "write_gradient": _number(4.1e-5, "gradient", "paper", "304M, gradient of the memory's writes; another bank 1.1e-4"),
    "logged_total": _number(5.88, "nats", "results", "1.57B, step 20,000, all losses together"),
    "logged_token": _number(3.65, "nats", "results", "1.57B, step 20,000, token loss in training; the gate 0.707"),
    # the TPU pair
    "stepwise_wins": _number(0.392, "share", "proof", "319M against 317M, 50,000 steps: steps at which LOLM's loss is lower"),
    "crossover_first": _number(0.3, "share", "paper proof", "319M against 317M: ahead at step 15,000 of 50,000 ..."),
    "crossover_last": _number(0.4, "share", "paper proof", "... behind at step 20,000"),
    "scratch_baseline": _number(5.2997, "nats", "proof", "317M baseline, last logged loss (perplexity 200)"),
    "tpu_window_end": _number(
        5.5590, "nats", "paper proof", "319M LOLM, mean of the last 101 steps before step 50,000; baseline 5.5158"
    ),
    "scratch_gain": _number(0.169, "share", "proof", "319M without SSM against the full model, last logged losses"),
    "pile_319m": _number(5.4131, "nats", "proof", "319M LOLM on the Pile (perplexity 224)", "304m"),
    "withdrawn_gap": _number(0.076, "share", "pitch", "TPU, 380 against 411; baseline of 254M parameters; withdrawn"),
    "withdrawn_lolm": _number(380, "perplexity", "pitch", "319M LOLM"),
    "withdrawn_baseline": _number(411, "perplexity", "pitch", "254M baseline"),
    "withdrawn_lolm_15k": _number(432, "perplexity", "pitch", "319M LOLM, step 15,000; 439 in the paper"),
    "withdrawn_baseline_15k": _number(443, "perplexity", "pitch paper", "baseline, step 15,000"),
    "unmatched_wikitext": _number(
        2_026, "perplexity", "pitch", "319M LOLM, WikiText-103, HellaSwag 26 %, LAMBADA 1 %; Pythia about 30, 30.5 % and 5 %"
    ),
    "unmatched_baseline": _number(2_166, "perplexity", "pitch", "254M baseline, WikiText-103, HellaSwag 22 %, LAMBADA 1 %"),
    # sizes, speeds, set-ups
    "params_20m": _number(20_466_880, "count", "configs", "parameters, 20.5M"),
    "params_304m": _number(303_623_969, "count", "configs", "parameters on H200, stock Mamba blocks"),
    "params_307m": _number(
        307_412_992, "count", "configs", "parameters of decoder, plain SSM and gate, without memory and regime"
    ),
    "params_319m": _number(319_319_841, "count", "configs", "parameters on TPU, plain SSM"),
    "params_254m": _number(253_905_920, "count", "configs", "parameters of the 16-layer baseline"),
    "params_317m": _number(316_840_960, "count", "configs", "parameters of the 21-layer baseline"),
    "params_157b": _number(1_568_085_569, "count", "results configs", "parameters, 1.57B"),
    "params_baseline_157b": _number(1_566_980_096, "count", "configs", "parameters of the 29-layer baseline"),
    "downstream_size": _number(307e6, "count", "paper proof", "'307M' LOLM of the downstream table; its baseline has 317M"),
    "four_orders": _number(10_000, "x", "scaling", "'four orders of magnitude' from 20.5M to 1.57B"),
    "speed_157b": _number(0.9, "steps a second", "results", "1.57B LOLM; the baseline's is not printed"),
    "hours_readme": _number(4, "hours", "readme", "304M, 'to convergence'"),
    "hours_header": _number(79, "hours", "configs", "304M, header of its configuration"),
    "rate_lolm_tpu": _number(
        3e-4, "rate", "configs proof", "319M LOLM, peak rate, batch 4; the proof gives the baseline the same"
    ),
    "rate_baseline_tpu": _number(1e-4, "rate", "configs", "317M baseline, peak rate, batch 2, in its committed configuration"),
    # printed twice
    "ppl_scaling_157b": _number(34.5, "perplexity", "scaling", "1.57B, the scaling table's column 'step 20K'"),
    "blog_steps": _number(20_000, "steps", "blog", "1.57B, where the page puts 33.2 against 39.1"),
    "pythia_2b": _number(142.93, "perplexity", "paper readme", "Pythia-410M at about 2 B tokens, WikiText-103"),
    "pythia_4b": _number(
        54.32,
        "perplexity",
        "paper",
        "Pythia-410M at about 4 B tokens, WikiText-103; 5.76 called bits per character, -14.0 % late",
    ),
    "pythia_context_4b": _number(0.457, "share", "paper", "Pythia-410M at about 4 B tokens, top-1 advantage of context"),
    "readme_late_lolm": _number(1.02, "x", "readme", "304M, late against early positions; Pythia 1.23"),
    "readme_late_pythia": _number(1.23, "x", "readme", "Pythia-410M, the same"),
    "projected_codes": _number(1.0, "share", "projections", "7B and 13B: 128 of 128 codes alive"),
    "projected_latent": _number(0.35, "share", "projections", "7B: latent 35 to 40 %; 13B: 40 to 45 %"),
    "projected_inversion": _number(500e6, "x", "projections", "7B: 500 million; 13B: 5 billion"),
    "ppl_304m_pythia": _number(68.37, "perplexity", "paper readme", "304M, WikiText-103, in the comparison with Pythia"),
}

# Windows of the TPU pair: step, loss of LOLM, loss of the baseline, printed gap in perplexity (LOLM ahead above 0).
TPU_WINDOWS = (
    (3_000, 7.3668, 7.9378, 0.435), (5_000, 6.7196, 7.0396, 0.274), (7_500, 6.4990, 6.6938, 0.177),
    (10_000, 6.3460, 6.4684, 0.115), (15_000, 6.0844, 6.0936, 0.009), (20_000, 5.9575, 5.9232, -0.035),
    (25_000, 5.7018, 5.6549, -0.048), (30_000, 5.7412, 5.6891, -0.053), (35_000, 5.6338, 5.5924, -0.042),
    (40_000, 5.6235, 5.5748, -0.050), (45_000, 5.6131, 5.5631, -0.051), (50_000, 5.5590, 5.5158, -0.044),
)  # fmt: skip
TPU_WINS = ((5_000, 0.73), (5_000, 0.99), (10_000, 0.59), (10_000, 0.19), (10_000, 0.15), (10_000, 0.17))  # steps, share won
PRINTED_PAIRS = ((2.62, 13.7), (4.15, 63.2), (3.57, 35.5), (3.50, 33.2))  # loss and perplexity of the scaling table


def clipped_perplexity(nats: float) -> float:
    """Perplexity as the published scripts print it: exp(min(loss, 20))."""
    return math.exp(min(nats, CLIP_NATS))


def cpc_candidates(length: int, horizon: int = 8, positions: int = 256) -> int:
    """Number of candidates of the published CPC loss: every s-th position, s = floor((T - k) / positions) and at least 1."""
    stride = max(1, (length - horizon) // positions)
    return math.ceil((length - horizon) / stride)
