"""The questions that only training answers, and which study holds the arm or factor of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A claim that an arm, or the high level of a factor, differs from the subject (the low level) in one outcome.

    Attributes:
        arm: the arm that is held against the subject; factor: the factor of a study's design.
        outcome: key of OUTCOMES.
        direction: ``above`` or ``below``: beyond ``margin`` on which side of 0 the claim puts the difference; ``equal``: within
            it on both sides; ``not above``, ``not below``: within it on that side, on the other anywhere.
        margin: name of a field of ``analysis``, or None for 0; of ``below`` and ``not below`` it is taken negative.
        study: that has the arm or factor.
        loose: what the outcome leaves open.
    """

    id: str
    statement: str
    outcome: str
    direction: str
    study: str
    arm: str | None = None
    factor: str | None = None
    margin: str | None = None
    published: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    loose: str = ""

    @property
    def contrast(self) -> str:
        """The arm or factor whose difference is asked for."""
        return self.arm or self.factor or ""

    @property
    def equivalence(self) -> bool:
        """Whether the claim is that there is no difference (to one side or both), which no correction makes harder to show."""
        return self.direction not in ("above", "below")


PARTS = "Equal parameters: what the part is not given, the others are; at equal compute the answer can differ."
GATE = "All arms have equally many parameters; the simpler rule's go into the MLPs."
QUESTIONS = (
    Question(
        "scratch_no_ssm",
        "Trained from scratch without its SSM, LOLM is better (perplexity 171 against 205).",
        "nats",
        "below",
        "parts",
        "lolm_no_latent",
        published=("scratch_no_ssm", "scratch_full"),
        loose=PARTS,
    ),
    Question(
        "scratch_no_regime",
        "Trained from scratch without regime codes, LOLM is better (perplexity 166 against 205).",
        "nats",
        "below",
        "parts",
        "lolm_no_regime",
        published=("scratch_no_regime", "scratch_full"),
        loose=PARTS,
    ),
    Question(
        "latent_needed",
        "The latent stream contributes: trained without it LOLM is worse.",
        "nats",
        "above",
        "parts",
        "lolm_no_latent",
        margin="equivalence_margin",
        stated=("paper", "seed"),
        loose=PARTS,
    ),
    Question(
        "memory_needed",
        "The memory contributes: trained without it LOLM is worse.",
        "nats",
        "above",
        "parts",
        "lolm_no_memory",
        margin="equivalence_margin",
        stated=("paper", "seed"),
        loose=PARTS,
    ),
    Question(
        "regime_needed",
        "The regime codes contribute: trained without them LOLM is worse.",
        "nats",
        "above",
        "parts",
        "lolm_no_regime",
        margin="equivalence_margin",
        stated=("paper", "seed"),
        loose=PARTS,
    ),
    Question(
        "ssm_special",
        "It takes a state-space model: with Transformer blocks in its place LOLM is worse.",
        "nats",
        "above",
        "inversion",
        "lolm_transformer_latent",
        margin="equivalence_margin",
        stated=("seed",),
        loose="The blocks read the same h, in series; equal parameters.",
    ),
    Question(
        "inversion_ssm",
        "The inversion comes from the SSM: with Transformer blocks in its place there is less of it.",
        "inversion",
        "below",
        "inversion",
        "lolm_transformer_latent",
        margin="inversion_margin",
        stated=("seed",),
        loose="S is the declared statistic; a part of any stack is missed when it is gone.",
    ),
    Question(
        "inversion_parallel",
        "The inversion statistic is that of two parallel paths: it is the same where the SSM reads the embeddings.",
        "inversion",
        "equal",
        "inversion",
        "lolm_parallel",
        margin="inversion_margin",
        stated=("seed", "paper"),
        loose="As published, z is computed from h; only this arm has two parallel paths.",
    ),
    Question(
        "gate_scalar",
        "A gate per dimension is better than one scalar gate.",
        "nats",
        "above",
        "gates",
        "lolm_scalar_gate",
        margin="equivalence_margin",
        stated=("seed", "paper"),
        loose=GATE,
    ),
    Question(
        "gate_sum",
        "The gate is better than adding the streams.",
        "nats",
        "above",
        "gates",
        "lolm_sum",
        margin="equivalence_margin",
        stated=("seed", "paper"),
        loose=GATE,
    ),
    Question(
        "gate_static",
        "A gate that reads the context is better than a learned constant per dimension.",
        "nats",
        "above",
        "gates",
        "lolm_static_gate",
        margin="equivalence_margin",
        stated=("seed", "paper"),
        loose=GATE,
    ),
    Question(
        "gate_half",
        "The gate is better than a fixed half.",
        "nats",
        "above",
        "gates",
        "lolm_half",
        margin="equivalence_margin",
        stated=("seed", "paper"),
        loose=GATE,
    ),
    Question(
        "gate_free",
        "The gate's level is discovered: without the losses that set it a target it ends where it does with them.",
        "gate",
        "equal",
        "gate",
        "lolm_free_gate",
        margin="gate_margin",
        stated=("paper", "scaling"),
        loose="Both the competitive and the manifestation loss are off.",
    ),
    Question(
        "gate_bias",
        "The gate's level is an equilibrium: from an initial bias of +0.5 it ends where it does from −0.5.",
        "gate",
        "equal",
        "gate",
        "lolm_bias_plus",
        margin="gate_margin",
        stated=("paper", "scaling"),
        loose="The target of the competitive loss is the same in both.",
    ),
    Question(
        "cpc_needed",
        "The contrastive loss shapes the latent stream: trained without it LOLM is worse.",
        "nats",
        "above",
        "cpc",
        "lolm_no_cpc",
        margin="equivalence_margin",
        stated=("surface", "paper"),
        loose="All other losses stay.",
    ),
    Question(
        "cpc_inversion",
        "The contrastive loss makes the dependency on the latent stream: without it there is less inversion.",
        "inversion",
        "below",
        "cpc",
        "lolm_no_cpc",
        margin="inversion_margin",
        stated=("surface", "seed"),
    ),
    Question(
        "cpc_position",
        "The contrastive loss learns more than position: negatives at the same position of other texts serve no better.",
        "nats",
        "not below",
        "cpc",
        "lolm_cpc_positions",
        margin="equivalence_margin",
        loose="Its negatives stand at the same position of other texts, so position tells it nothing. Chance differs between "
        "the two, so the contrastive losses themselves are not compared.",
    ),
    Question(
        "isolation_enables",
        "Isolating the regime codes' gradient at the fusion enables the inversion.",
        "inversion",
        "above",
        "isolation",
        factor="regime_fusion",
        margin="inversion_margin",
        stated=("seed",),
        loose="A main effect over the other cuts, aliased with the interaction of cutting h into the SSM and z into the fusion "
        "(B = AD).",
    ),
    Question(
        "isolation_gate",
        "On average over the other cuts, stopping the regime codes' gradient at the gate changes no code usage.",
        "usage",
        "equal",
        "isolation",
        factor="regime_gate",
        margin="gate_margin",
        stated=("paper",),
        loose="The paper says the layer is trained by its own losses alone; the gate's path is open in every version. A main "
        "effect, aliased with minus the interaction of cutting h into the SSM and z into the gate (C = −AE).",
    ),
    Question(
        "separate_objectives",
        "Each stream has its own objective: on average over the other cuts, closing the token loss's path into the SSM "
        "costs nothing.",
        "nats",
        "not above",
        "isolation",
        factor="latent_fusion",
        margin="equivalence_margin",
        stated=("surface",),
        loose="The path through the gate is a factor of its own. A main effect, aliased with the interaction of cutting h into "
        "the SSM and r into the fusion (D = AB).",
    ),
    Question(
        "isolation_usage",
        "Isolation keeps the regime codes in use; without it they collapse.",
        "usage",
        "above",
        "regime",
        factor="isolation",
        margin="gate_margin",
        published=("codes_20m", "codes_304m"),
        loose="Published together with a clamp, another entropy sign and a balance loss, each a factor of its own here.",
    ),
    Question(
        "balance_usage",
        "On average over isolation, clamp and entropy sign, a balance loss does not change how evenly codes are used.",
        "usage",
        "equal",
        "regime",
        factor="balance",
        margin="gate_margin",
        stated=("configs",),
        loose="The authors report a collapse with a balance weight of 0.5. A main effect; whether the loss helps where all else "
        "is as in v0 is another question.",
    ),
)
