"""Entries that need no run: what the published numbers are, recomputed from the published inputs."""

from __future__ import annotations

import math

from lolm.claims.ledger import FAILS, HOLDS, Claim
from lolm.claims.published import CLIP_NATS, VOCABULARY, clipped_perplexity, cpc_candidates
from lolm.claims.registry.cross_checks import check, cross_checks, value


def arithmetic() -> list[Claim]:
    """All arithmetic entries."""
    return [*_clip(), *_gap(), *_others(), *cross_checks()]


def _clip() -> list[Claim]:
    learned, one, zero = value("learned_nats"), value("gate_one_nats"), value("gate_zero_nats")
    cap = clipped_perplexity(one)
    uniform = math.log(VOCABULARY)
    return [
        check(
            "clip",
            "Forcing the gate to 1 gives a perplexity of 485 million.",
            "gate_one_ppl gate_one_nats",
            (cap, "perplexity", f"exp(min({one}, {CLIP_NATS:g})), as the evaluation script prints it"),
            (one, "nats", "the loss itself; its perplexity is e^76.89, about 2.5e33"),
            FAILS,
            f"485,165,195.41 is e^20, the cap of the evaluation script, not a measurement: any loss above 20 nats "
            "prints the same number. "
            f"The measured loss is {one} nats. A uniform guess has {uniform:.4f}.",
            "printed value equals exp(20) to the last printed digit",
        ),
        check(
            "14m",
            "Without its latent stream the model is 14,000,000 times worse.",
            "ratio_learned gate_one_ppl learned_nats ppl_lolm_eval_20k",
            (cap / value("ppl_lolm_eval_20k"), "x", "clipped perplexity at g = 1 over perplexity 34.47"),
            (one - learned, "nats", "loss at g = 1 minus loss of the learned model"),
            FAILS,
            f"The numerator is the cap e^20. The two losses differ by {one - learned:.2f} nats, a ratio of "
            f"e^{one - learned:.2f}; "
            "14 million depends on the cap alone.",
            "the ratio has the cap as its numerator",
        ),
        check(
            "8645",
            "Removing the latent stream is 8,645 times worse than removing the surface stream.",
            "ratio_inversion gate_one_ppl gate_zero_ppl gate_one_nats gate_zero_nats",
            (cap / value("gate_zero_ppl"), "x", "clipped perplexity at g = 1 over perplexity at g = 0"),
            (one - zero, "nats", "loss at g = 1 minus loss at g = 0"),
            FAILS,
            f"The numerator is again the cap, and the quotient of the printed values is {cap / value('gate_zero_ppl'):,.1f}. "
            f"Uncapped, the losses differ by {one - zero:.2f} nats; both models are worse than a uniform guess.",
            "the ratio has the cap as its numerator",
        ),
        check(
            "uniform",
            "With the latent stream alone (g = 0, perplexity 56,130) the 1.57B model still works as a language model.",
            "gate_zero_ppl gate_zero_nats",
            (math.exp(zero), "perplexity", "exp(10.9354)"),
            (zero - uniform, "nats", f"loss at g = 0 minus ln {VOCABULARY:,}, the loss of a uniform guess"),
            FAILS,
            f"{zero} nats is more than the {uniform:.4f} nats of a uniform guess over {VOCABULARY:,} tokens "
            f"(perplexity {math.exp(zero):,.0f} against {VOCABULARY:,}): the model is non-functional.",
            "fails if the loss exceeds that of a uniform guess",
        ),
        check(
            "744",
            "At 304M the inversion is 744-fold.",
            "inversion_304m wikitext_full wikitext_gate_one",
            (value("wikitext_gate_one") / value("wikitext_full") - 1, "share", "relative change of perplexity at g = 1"),
            (value("wikitext_gate_one") / value("wikitext_full"), "x", "perplexity at g = 1 over the complete model's"),
            FAILS,
            f"+744 % is a factor of {value('wikitext_gate_one') / value('wikitext_full'):.2f}; the plotted 744 is the "
            "percentage.",
            "fails if the factor differs from the printed one",
        ),
    ]


def _gap() -> list[Claim]:
    mixed = 1 - value("ppl_lolm_eval_20k") / value("ppl_baseline_train_20k")
    like = 1 - value("ppl_lolm_train_20k") / value("ppl_baseline_train_20k")
    later = 1 - value("ppl_lolm_late") / value("ppl_baseline_late")
    early_ratio = value("baseline_steps_20k") / value("lolm_steps_10k")
    late_ratio = value("baseline_steps_late") / value("baseline_steps_20k")
    return [
        check(
            "25_9",
            "At step 20,000 the perplexity of LOLM is 25.9 % lower.",
            "gap_headline ppl_lolm_eval_20k ppl_baseline_train_20k",
            (mixed, "share", "1 - 34.47 / 46.5: LOLM in evaluation mode against the baseline in training mode"),
            (like, "share", "1 - 38.7 / 46.5: both in training mode at step 20,000"),
            FAILS,
            f"The only printed pair that gives 25.9 % is 34.47 (dropout and Gumbel noise off) against 46.5 (dropout "
            f"on): {100 * mixed:.2f} %. "
            f"Like for like, the same step gives {100 * like:.1f} %.",
            "fails if the two perplexities were taken in different modes",
        ),
        check(
            "15",
            "Later in training the perplexity of LOLM is 15 % lower.",
            "gap_later ppl_lolm_late ppl_baseline_late lolm_steps_late baseline_steps_late",
            (later, "share", "1 - 33.2 / 39.1, both in training mode"),
            (later, "share", "the same; no better pair was printed"),
            HOLDS,
            f"The quotient is right, {100 * later:.1f} %, at unequal steps: LOLM at {value('lolm_steps_late'):,.0f}, "
            "the baseline at "
            f"{value('baseline_steps_late'):,.0f}. One run each, training loss, no log file.",
            "holds if the printed values give the printed share to its last digit",
        ),
        check(
            "2x",
            "LOLM trains with about twice the compute efficiency.",
            "efficiency baseline_steps_20k lolm_steps_10k speed_157b",
            (early_ratio, "x", "20,000 baseline steps over about 10,000 LOLM steps to training perplexity 46.5"),
            (late_ratio, "x", "26,250 baseline steps (perplexity 39.1) over 20,000 LOLM steps (perplexity 38.7)"),
            FAILS,
            f"The same two runs give {early_ratio:.1f}× at perplexity 46.5 and {late_ratio:.2f}× at 39: the "
            "multiplier falls as training goes on, so "
            "2× is one point of a curve. It counts steps, not FLOPs or time (of the speeds LOLM's alone is printed, 0.9 steps a "
            "second), and training loss of one run each.",
            "fails if the same runs give another multiplier at a later loss",
        ),
    ]


def _others() -> list[Claim]:
    candidates = cpc_candidates(2048)
    chance = math.log(candidates)
    gate = value("gate_exact")
    power = (1 - gate) ** 2 / (gate**2 + (1 - gate) ** 2)
    bits = math.log2(value("ppl_304m_pythia"))
    return [
        check(
            "cpc",
            "At 1.57B the contrastive loss shapes the latent stream.",
            "cpc_157b cpc_chance_quoted",
            (value("cpc_157b") - math.log(256), "nats", "loss minus ln 256, the chance level the sources quote"),
            (
                value("cpc_157b") - chance,
                "nats",
                f"loss minus ln {candidates}: the code offers {candidates} candidates at length 2,048",
            ),
            FAILS,
            f"5.687 nats is {value('cpc_157b') - chance:+.3f} from chance, ln {candidates} = {chance:.3f}: nothing was "
            f"learned. ln 256 = {math.log(256):.3f} "
            "is not the chance level of this loss.",
            "fails if the loss is not below ln of the number of candidates",
        ),
        check(
            "share",
            "A mean gate of 0.706 means that the latent stream carries 29 % of the signal.",
            "latent_share gate_exact learned_nats ppl_lolm_eval_20k",
            (1 - gate, "share", "one minus the mean gate"),
            (
                power,
                "share",
                "(1-g)² / (g² + (1-g)²): share of the power if both branches had equal norm, g were constant and they "
                "were orthogonal",
            ),
            FAILS,
            f"A gate value is a coefficient, not a share: even with equal branch norms g = 0.706 gives the latent "
            f"stream {100 * power:.1f} % of the power, and "
            "the norms are free. Memory and regime add to the sum beside both.",
            "fails if the share under equal norms differs from one minus the gate",
        ),
        check(
            "bpc",
            "LOLM-304M has 6.10 bits per character on WikiText-103.",
            "bpc_304m ppl_304m_pythia",
            (bits, "bits", "log2 of the perplexity per token, 68.37"),
            None,
            FAILS,
            f"log2(68.37) = {bits:.3f}: these are bits per token of the GPT-2 tokenizer, not per character, and "
            "cannot be compared across tokenizers.",
            "fails if the printed value is log2 of the perplexity per token",
        ),
    ]
