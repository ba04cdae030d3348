"""Entries that need no run: published numbers against one another, and against what they are said to mean."""

from __future__ import annotations

import math
from functools import partial

from lolm.claims.ledger import FAILS, HOLDS, RECOMPUTED, Claim
from lolm.claims.ledger import Quantity as _Quantity
from lolm.claims.published import CLIP_NATS, NUMBERS, PRINTED_PAIRS, TPU_WINDOWS, TPU_WINS

Quantity = partial(_Quantity, origin=RECOMPUTED)
Shown = tuple[float, str, str]  # value, unit, definition

WINDOW = "1 - exp({:.4f} - {:.4f}), losses of LOLM and the baseline; their perplexities {:,.0f} and {:,.0f}"
# Of 0.5 L_bal − H + 0.2 L_sticky with 64 codes and temperature 0.95 for uniform logits; simulated in the tests.
NOISE_REGIME_LOSS = -2.13


def value(key: str) -> float:
    """A printed number, in its unit."""
    return NUMBERS[key].value


def check(
    id: str, statement: str, keys: str, theirs: Shown, ours: Shown | None, verdict: str, why: str, rule: str, **more
) -> Claim:
    """``theirs`` is what the printed numbers give by their definition, ``ours`` by a sound one."""
    printed, sound = Quantity(*theirs), None if ours is None else Quantity(*ours)
    return Claim(f"arithmetic_{id}", "arithmetic", statement, tuple(keys.split()), printed, sound, verdict, why, rule, **more)


def cross_checks() -> list[Claim]:
    """All of them."""
    return [*_tables(), *_sizes(), *_pythia(), *_meanings()]


def _gap(lolm: float, baseline: float) -> float:
    """Share by which LOLM's perplexity is lower, of two losses in nats."""
    return 1 - math.exp(lolm - baseline)


def _tables() -> list[Claim]:
    worst = max(abs(math.exp(loss) / printed - 1) for loss, printed in PRINTED_PAIRS)
    off = max(abs(_gap(lolm, base) - printed) for _, lolm, base, printed in TPU_WINDOWS)
    steps = sum(count for count, _ in TPU_WINS)
    wins = sum(count * share for count, share in TPU_WINS) / steps
    last, window, none = value("scratch_full"), value("tpu_window_end"), value("scratch_no_ssm")
    at_20k, late = value("ppl_lolm_train_20k"), value("ppl_lolm_late")
    quoted = 1 - value("withdrawn_lolm") / value("withdrawn_baseline")
    size = value("params_319m") / value("params_254m") - 1
    return [
        check(
            "scaling_table",
            "The scaling table's perplexities are those of its losses (2.62, 4.15, 3.57, 3.50 nats).",
            "nats_20m nats_149m nats_304m nats_157b",
            (worst, "share", "largest relative difference of exp(loss) from what is printed"),
            None,
            HOLDS,
            f"exp(loss) differs from the printed perplexity by at most {100 * worst:.1f} %, which rounding explains.",
            "holds if each agrees within the rounding of its loss, 0.5 %",
        ),
        check(
            "step_20k",
            "At step 20,000 the 1.57B model has perplexity 33.2.",
            "ppl_lolm_late ppl_lolm_train_20k ppl_scaling_157b",
            (late, "perplexity", "the table's column, labelled step 20K"),
            (at_20k, "perplexity", "training loss logged at step 20,000"),
            FAILS,
            f"The column mixes steps and modes: 33.2 is of step {value('lolm_steps_late'):,.0f}, another source prints 34.5 in "
            f"its place, which is evaluation mode, and training at step 20,000 gives {at_20k}. The 304M figure is of step 20,000 "
            "in one source and 33,000 in another.",
            "fails if the label's step has another value",
        ),
        check(
            "blog_steps",
            "LOLM reaches in 10,000 steps what its baseline has after 20,000, at perplexities 33.2 and 39.1.",
            "blog_steps ppl_lolm_late ppl_baseline_late lolm_steps_late baseline_steps_late",
            (value("baseline_steps_20k") / value("lolm_steps_10k"), "x", "as the page has it"),
            (value("baseline_steps_late") / value("lolm_steps_late"), "x", "steps that the paper gives for 39.1 and 33.2"),
            FAILS,
            "The paper gives these perplexities for steps 26,250 and 23,700: unequal losses at nearly equal steps, and no "
            "multiplier.",
            "fails if the paper gives the perplexities for other steps",
        ),
        check(
            "tpu_table",
            "On TPU LOLM is 43.5 % ahead at step 3,000 and 4.4 % behind at step 50,000.",
            "tpu_gap_3k tpu_gap_50k",
            (_gap(*TPU_WINDOWS[0][1:3]), "share", "1 - exp(difference of losses) at step 3,000"),
            (_gap(*TPU_WINDOWS[-1][1:3]), "share", "the same at step 50,000"),
            HOLDS,
            f"Each of {len(TPU_WINDOWS)} printed gaps is that of its losses, within {100 * off:.2f} points; LOLM leads in the "
            f"first five "
            "windows and lags in the seven others.",
            "holds if every gap agrees within a tenth of a point",
            details={
                f"step {step:,}": Quantity(_gap(lolm, base), "share", WINDOW.format(lolm, base, math.exp(lolm), math.exp(base)))
                for step, lolm, base, _ in TPU_WINDOWS
            },
        ),
        check(
            "wins",
            "On TPU LOLM wins 39.2 % of the steps.",
            "stepwise_wins",
            (wins, "share", "shares of six ranges weighted by their steps"),
            None,
            HOLDS,
            f"Within the rounding of the printed shares, {', '.join(f'{share:.0%}' for _, share in TPU_WINS)}. In the last "
            "30,000 steps it wins 17 %.",
            "holds if the weighted mean is within half a point",
            against=True,
        ),
        check(
            "final_loss",
            "LOLM's final loss on TPU is 5.3243 (perplexity 205).",
            "scratch_full tpu_window_end scratch_gain",
            (1 - math.exp(none - last), "share", "gain without SSM as printed: 5.1394 against 5.3243"),
            (window - last, "nats", "mean of the last window, 5.5590, minus the last logged loss"),
            FAILS,
            "The paper's table has 5.5590 for the same step of the same run: the smaller number is of one step. So the printed "
            "gain "
            "of 16.9 % without SSM holds one step against a mean of 50.",
            "fails if the two differ by more than rounding",
        ),
        check(
            "withdrawn",
            "On TPU LOLM's perplexity is 7.6 % lower than its baseline's (withdrawn).",
            "withdrawn_gap withdrawn_lolm withdrawn_baseline withdrawn_lolm_15k withdrawn_baseline_15k params_254m",
            (quoted, "share", "1 - 380 / 411"),
            (size, "share", "LOLM's parameters over that baseline's, minus 1"),
            FAILS,
            f"The baseline has 254M parameters, LOLM 319M, {100 * size:.0f} % more; the authors withdrew the number. Of step "
            f"15,000 they "
            "print 432 and 439 for one model.",
            "fails if the arms' parameters differ by more than 1 %",
        ),
    ]


def _sizes() -> list[Claim]:
    ratio = value("params_157b") / value("params_20m")
    orders = math.log10(ratio)
    matched = max(value("params_157b") / value("params_baseline_157b"), value("params_319m") / value("params_317m")) - 1
    other = value("params_319m") / value("params_304m") - 1
    unmatched = value("params_319m") / value("params_254m") - 1
    rates = value("rate_lolm_tpu") / value("rate_baseline_tpu")
    return [
        check(
            "four_orders",
            "The results span four orders of magnitude of size (20.5M to 1.57B).",
            "four_orders params_20m params_157b",
            (10**orders, "x", "1,568,085,569 over 20,466,880 parameters"),
            (orders, "orders", "log10 of that"),
            FAILS,
            f"The ratio is {ratio:.0f}: {orders:.1f} orders of magnitude.",
            "fails if log10 of the ratio is below 4",
        ),
        check(
            "matched",
            "LOLM and its baseline have equally many parameters.",
            "params_157b params_baseline_157b params_319m params_317m",
            (matched, "share", "largest excess of LOLM over its baseline, at 1.57B and on TPU"),
            None,
            HOLDS,
            "0.1 % at 1.57B, 0.8 % on TPU.",
            "holds if they differ by less than 1 %",
        ),
        check(
            "hardware",
            "The same architecture runs on every kind of hardware.",
            "params_304m params_319m",
            (other, "share", "parameters of the TPU model over the H200 model's of one configuration, minus 1"),
            None,
            FAILS,
            "One configuration has 303,623,969 parameters on H200 and 319,319,841 on TPU: stock Mamba blocks in a chain without "
            "residual or norm there, a plain SSM with both and without convolution here.",
            "fails if the counts differ",
        ),
        check(
            "size_307m",
            "The LOLM of the downstream table is the complete model.",
            "downstream_size params_307m params_319m",
            (value("params_307m"), "count", "parameters of decoder, plain SSM and gate"),
            (value("params_319m"), "count", "parameters of the complete model"),
            FAILS,
            "No complete configuration has 307M parameters; without memory and regime there are 307,412,992.",
            "fails if the complete model's count does not round to the printed one",
        ),
        check(
            "unmatched",
            "On WikiText-103 and HellaSwag LOLM is ahead of its baseline (2,026 against 2,166; 26 against 22 %).",
            "unmatched_wikitext unmatched_baseline params_319m params_254m",
            (1 - value("unmatched_wikitext") / value("unmatched_baseline"), "share", "1 - 2,026 / 2,166"),
            (unmatched, "share", "LOLM's parameters over that baseline's, minus 1"),
            FAILS,
            f"LOLM has {100 * unmatched:.0f} % more parameters than it; the matched baseline is ahead, 1,837 against 2,046.",
            "fails if the arms' parameters differ by more than 1 %",
        ),
        check(
            "identical_setup",
            "On TPU both models are trained with identical hyperparameters.",
            "rate_lolm_tpu rate_baseline_tpu",
            (1.0, "x", "as stated: one rate, batch and precision"),
            (rates, "x", "peak rate of LOLM over the baseline's, configurations"),
            FAILS,
            "The baseline's committed configuration has a third of the rate, half the batch, half the clipping threshold and "
            "another precision than LOLM's. Which of them ran is not published.",
            "fails if the committed configurations differ",
        ),
        check(
            "convergence",
            "The 304M model trains to convergence in about 4 hours.",
            "hours_readme hours_header",
            (value("hours_readme"), "hours", "as the README has it"),
            (value("hours_header"), "hours", "as its configuration has it"),
            FAILS,
            "The header of its configuration gives about 79 hours.",
            "fails if the two printed durations differ",
        ),
    ]


def _pythia() -> list[Claim]:
    ahead = 1 - value("pythia_4b") / value("ppl_304m_pythia")
    late = 1 - value("readme_late_lolm") / value("readme_late_pythia")
    twice = value("ppl_304m_pythia") / value("wikitext_full") - 1
    gap = 1 - value("ppl_304m_pythia") / value("pythia_2b")
    return [
        check(
            "pythia_gap",
            "LOLM-304M's perplexity is 52.2 % lower than Pythia-410M's.",
            "pythia_gap ppl_304m_pythia pythia_2b",
            (gap, "share", "1 - 68.37 / 142.93, per token of two tokenizers"),
            None,
            HOLDS,
            "The quotient is right. It compares two tokenizers, two corpora, and a Pythia that is likely still in its warm-up.",
            "holds if the printed perplexities give the printed share",
        ),
        check(
            "pythia_4b",
            "With about 4 B tokens Pythia-410M is ahead of LOLM-304M (54.32 against 68.37), in context too.",
            "pythia_4b ppl_304m_pythia pythia_context_4b pythia_context",
            (ahead, "share", "1 - 54.32 / 68.37"),
            (
                value("pythia_context_4b") - value("pythia_context"),
                "points",
                "Pythia's context advantage minus LOLM's, 45.7 and 45.4 %",
            ),
            HOLDS,
            "At twice LOLM's tokens Pythia's perplexity is a fifth lower, and its context advantage no smaller: what was "
            "compared "
            "before is how far two trainings had come.",
            "holds if the printed perplexity is the lower one",
            against=True,
        ),
        check(
            "late_17",
            "LOLM's loss falls by 17.0 % from early to late positions.",
            "pythia_late readme_late_lolm readme_late_pythia",
            (late, "share", "1 - 1.02 / 1.23, LOLM against Pythia by the README"),
            None,
            FAILS,
            "The paper prints 17.0 % as LOLM's own change, the README as that between LOLM and Pythia: one number, two "
            "quantities.",
            "fails if another printed pair gives the same share",
        ),
        check(
            "wikitext_twice",
            "LOLM-304M has one perplexity on WikiText-103.",
            "wikitext_full ppl_304m_pythia",
            (value("wikitext_full"), "perplexity", "component ablation"),
            (twice, "share", "68.37 over 59.23, minus 1"),
            FAILS,
            "Put down to random batches; both scripts are deterministic and differ in separators and number of windows.",
            "fails if the printed values differ",
        ),
    ]


def _meanings() -> list[Claim]:
    cpc, memory, gate = value("cpc_157b"), value("memory_loss_157b"), value("gate_exact")
    regime = (value("logged_total") - value("logged_token") - 0.5 * cpc - 0.05 * memory - 0.01 * gate) / 0.3
    cap = math.exp(CLIP_NATS)
    first = math.log(value("wikitext_gate_one") / value("wikitext_full"))
    second = value("gate_one_nats") - value("learned_nats")
    return [
        check(
            "regime_noise",
            "At 1.57B the regime layer is in use (64 of 64 codes alive).",
            "codes_157b logged_total logged_token cpc_157b",
            (NOISE_REGIME_LOSS, "nats", "regime loss of uniform logits, 64 codes, temperature 0.95"),
            (regime, "nats", "regime loss that the logged total leaves: (5.88 - 3.65 - 0.5 CPC - 0.05 memory - 0.01 gate) / 0.3"),
            FAILS,
            f"The logged total leaves {regime:.2f} for the regime loss, or less with the other terms; a layer that says nothing "
            f"has "
            f"{NOISE_REGIME_LOSS}. The total is rounded to ±0.005, which is ±0.03 here.",
            "fails if the two differ by less than 0.1",
        ),
        check(
            "all_contribute",
            "All components contribute.",
            "no_memory",
            (value("no_memory"), "share", "the paper's own row of the memory"),
            None,
            FAILS,
            "The paper's ablation of the 304M model has +0.0 % without memory, and that of the 1.57B model no such row.",
            "fails if one component's printed change is 0",
        ),
        check(
            "superexponential",
            "The inversion grows superexponentially with scale.",
            "inversion_304m gate_one_ppl wikitext_full",
            (cap / value("ppl_lolm_eval_20k"), "x", "plotted at 1.57B: the cap over 34.47"),
            (second / first, "x", "damage at g = 1 in nats, 1.57B over 304M: 73.3 over 2.1"),
            FAILS,
            "Two points of two recipes and two texts, a percentage and the cap of a script; a trend takes more than two points.",
            "fails if a plotted value is the cap",
        ),
        check(
            "projected_inversion",
            "At 7B the inversion will be 500 million, at 13B 5 billion.",
            "projected_inversion",
            (cap, "x", "largest ratio that a perplexity capped at e^20 can have to any perplexity of 1 or more"),
            None,
            FAILS,
            "By the published definition, perplexity capped at e^20, no ratio can exceed 485 million.",
            "fails if the cap lies below the projection",
        ),
    ]
