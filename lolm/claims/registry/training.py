"""Training without a part, with another in its place, with other gradients or losses. A claim on an arm is one entry."""

from __future__ import annotations

from lolm.analysis.effects import OUTCOMES
from lolm.claims.entry import Entry
from lolm.claims.measures.training import (
    Contrast,
    Ladder,
    by_construction,
    memory_writes,
    parallel_paths,
)
from lolm.claims.numbers import of_difference
from lolm.claims.rules import Above, Below, Rule, Within

GROUP, FIGURE = "training", "training_arms"
PARTS = "Equal parameters: what the part is not given, the others are; at equal compute the answer can differ."
GATE = "All arms have equally many parameters; the simpler rule's go into the MLPs."
WORSE = Above("equivalence_margin")


def contrast(
    id: str,
    statement: str,
    study: str,
    rule: Rule,
    arm: str | None = None,
    outcome: str = "nats",
    caveat: str = "",
    factor: str | None = None,
    one_sided: bool = False,
    stated: str = "",
    **more,
) -> Entry:
    """A claim that an arm, or the high level of a factor, differs from the subject (the low level) in one outcome.

    ``rule`` is of the arm's outcome minus the subject's. ``stated`` has keys of SOURCES with spaces between.
    """
    return Entry(
        id,
        more.pop("group", GROUP),
        statement,
        Contrast(outcome, arm, factor, one_sided),
        study,
        rule,
        unit=of_difference(OUTCOMES[outcome].unit),
        definition="{contrast}",
        lead="{lead}",
        stated=tuple(stated.split()),
        caveats=(caveat,) if caveat else (),
        figure=FIGURE,
        **more,
    )


ENTRIES = (
    contrast(
        "scratch_no_ssm",
        "Trained from scratch without its SSM, LOLM is better (perplexity 171 against 205).",
        "parts",
        Below(),
        "lolm_no_latent",
        caveat=PARTS,
        published=("scratch_no_ssm", "scratch_full"),
        against=True,
    ),
    contrast(
        "scratch_no_regime",
        "Trained from scratch without regime codes, LOLM is better (perplexity 166 against 205).",
        "parts",
        Below(),
        "lolm_no_regime",
        caveat=PARTS,
        published=("scratch_no_regime", "scratch_full"),
        against=True,
    ),
    contrast(
        "latent_needed",
        "The latent stream contributes: trained without it LOLM is worse.",
        "parts",
        WORSE,
        "lolm_no_latent",
        caveat=PARTS,
        stated="paper seed",
    ),
    contrast(
        "memory_needed",
        "The memory contributes: trained without it LOLM is worse.",
        "parts",
        WORSE,
        "lolm_no_memory",
        caveat=PARTS,
        stated="paper seed",
    ),
    contrast(
        "regime_needed",
        "The regime codes contribute: trained without them LOLM is worse.",
        "parts",
        WORSE,
        "lolm_no_regime",
        caveat=PARTS,
        stated="paper seed",
    ),
    contrast(
        "ssm_special",
        "With Transformer blocks in place of the state-space model LOLM is worse.",
        "inversion",
        WORSE,
        "lolm_transformer_latent",
        caveat="The blocks read the same h, in series; equal parameters. The SSM brings a short convolution that they lack: "
        "lolm_conv_latent has that alone, lolm_transformer_conv_latent adds it to the blocks.",
        stated="seed",
    ),
    contrast(
        "inversion_ssm",
        "The inversion comes from the SSM: with Transformer blocks in its place there is less of it.",
        "inversion",
        Below("-inversion_margin"),
        "lolm_transformer_latent",
        "inversion",
        caveat="S is the declared statistic; a part of any stack is missed when it is gone.",
        stated="seed",
    ),
    contrast(
        "inversion_parallel",
        "The inversion statistic is that of two parallel paths: it is the same where the SSM reads the embeddings.",
        "inversion",
        Within("inversion_margin"),
        "lolm_parallel",
        "inversion",
        caveat="As published, z is computed from h; only this arm has two parallel paths.",
        stated="seed paper",
    ),
    contrast(
        "gate_scalar",
        "A gate per dimension is better than one scalar gate.",
        "gates",
        WORSE,
        "lolm_scalar_gate",
        caveat=GATE,
        stated="seed paper",
    ),
    contrast(
        "gate_sum", "The gate is better than adding the streams.", "gates", WORSE, "lolm_sum", caveat=GATE, stated="seed paper"
    ),
    contrast(
        "gate_static",
        "A gate that reads the context is better than a learned constant per dimension.",
        "gates",
        WORSE,
        "lolm_static_gate",
        caveat=GATE,
        stated="seed paper",
    ),
    contrast("gate_half", "The gate is better than a fixed half.", "gates", WORSE, "lolm_half", caveat=GATE, stated="seed paper"),
    contrast(
        "gate_free",
        "The gate's level needs no teacher: without both losses that set it a target it ends where it does with them.",
        "gate",
        Within("gate_margin"),
        "lolm_free_gate",
        "gate",
        caveat="Both the competitive and the manifestation loss are off.",
        stated="paper scaling",
    ),
    contrast(
        "gate_bias",
        "The gate's level is an equilibrium: from an initial bias of +0.5 it ends where it does from −0.5.",
        "gate",
        Within("gate_margin"),
        "lolm_bias_plus",
        "gate",
        caveat="The target of the competitive loss is the same in both.",
        stated="paper scaling",
    ),
    contrast(
        "cpc_needed",
        "The contrastive loss shapes the latent stream: trained without it LOLM is worse.",
        "cpc",
        WORSE,
        "lolm_no_cpc",
        caveat="All other losses stay.",
        stated="surface paper",
    ),
    contrast(
        "cpc_inversion",
        "The contrastive loss makes the dependency on the latent stream: without it there is less inversion.",
        "cpc",
        Below("-inversion_margin"),
        "lolm_no_cpc",
        "inversion",
        stated="surface seed",
    ),
    contrast(
        "cpc_position",
        "Contrastive negatives at the same position of other texts, of which position tells nothing, serve the loss no better.",
        "cpc",
        Above("-equivalence_margin"),
        "lolm_cpc_positions",
        caveat="Its negatives stand at the same position of other texts, so position tells it nothing. Chance differs between "
        "the two, so the contrastive losses themselves are not compared.",
        one_sided=True,
    ),
    contrast(
        "isolation_enables",
        "Isolating the regime codes' gradient at the fusion enables the inversion.",
        "isolation",
        Above("inversion_margin"),
        outcome="inversion",
        factor="regime_fusion",
        caveat="A main effect over the other cuts, aliased with the interaction of cutting h into the SSM and z into the fusion "
        "(B = AD).",
        stated="seed",
    ),
    contrast(
        "isolation_gate",
        "On average over the other cuts, stopping the regime codes' gradient at the gate changes no code usage.",
        "isolation",
        Within("gate_margin"),
        outcome="usage",
        factor="regime_gate",
        caveat="The paper says the layer is trained by its own losses alone; the gate's path is open in every version. A main "
        "effect, aliased with minus the interaction of cutting h into the SSM and z into the gate (C = −AE).",
        stated="paper",
    ),
    contrast(
        "separate_objectives",
        "Each stream has its own objective: on average over the other cuts, closing the token loss's path into the SSM costs "
        "nothing.",
        "isolation",
        Below("equivalence_margin"),
        factor="latent_fusion",
        caveat="The path through the gate is a factor of its own. A main effect, aliased with the interaction of cutting h into "
        "the SSM and r into the fusion (D = AB).",
        one_sided=True,
        stated="surface",
    ),
    contrast(
        "isolation_usage",
        "Isolation keeps the regime codes in use; without it they collapse.",
        "regime",
        Above("gate_margin"),
        outcome="usage",
        factor="isolation",
        caveat="Published together with a clamp, another entropy sign and a balance loss, each a factor of its own here.",
        published=("codes_20m", "codes_304m"),
        fact="regime_collapse",
    ),
    contrast(
        "balance_usage",
        "On average over isolation, clamp and entropy sign, a balance loss does not change how evenly codes are used.",
        "regime",
        Within("gate_margin"),
        outcome="usage",
        factor="balance",
        caveat="The authors report a collapse with a balance weight of 0.5. A main effect; whether the loss helps where all else "
        "is as in v0 is another question.",
        stated="configs",
    ),
    Entry(
        "parallel_paths",
        GROUP,
        "LOLM's two paths process the input in parallel.",
        parallel_paths,
        rule_text="fails if z is computed from h",
        stated=("seed", "paper"),
        further_study="inversion",
    ),
    Entry(
        "memory_persists",
        "streams",
        "The memory persists across sequences.",
        by_construction(
            False, "as in the published code, the memory begins anew with every sequence, in training and in evaluation."
        ),
        rule_text="fails if nothing is carried from one sequence to the next",
        stated=("readme",),
    ),
    Entry(
        "memory_writes",
        "streams",
        "The memory's writes are trained: a gradient reaches them (4.1e-5 and 1.1e-4 at 304M).",
        memory_writes,
        rule_text="holds if a sequence has more than one chunk",
        published=("write_gradient",),
        caveats=("A gradient is not use; the printed sizes are those of one model.",),
        further_study="parts",
        trained_for=True,
    ),
    Entry(
        "cpc_head",
        "streams",
        "That the contrastive loss stayed at chance before version 3.2 shows that its heads were too wide.",
        by_construction(
            False,
            "in those versions the projection was made after the optimiser had collected its parameters, so it was never "
            "trained, "
            "whatever its width.",
        ),
        rule_text="fails if width is not all that differed",
        stated=("paper",),
        further_study="cpc",
    ),
    Entry(
        "ladder_steps",
        GROUP,
        "Each step of the authors' six-step ladder, from the plain decoder to the full model, lowers the loss.",
        Ladder(),
        "ladder",
        rule_text="holds if every step lies below 0, fails if any has none of it there; not corrected",
        definition="largest of five steps (selected, not corrected for it)",
        stated=("configs",),
        caveats=("Parts are added at the authors' sizes, so parameters grow with each.",),
        figure=FIGURE,
    ),
)
