"""Other hybrids: which type of layer they depend on, beside what is published of Falcon-H1, Qwen3.5, RecurrentGemma, Jamba."""

from __future__ import annotations

from lolm.claims.entry import Entry
from lolm.claims.measures.hybrids import (
    S_TYPE,
    Labellings,
    OfRuns,
    OverTraining,
    RecallByType,
    TrainedWithout,
    TypeStatistic,
    beyond_random,
    damage_of,
    early,
    random_sizes,
    s_type,
    s_type_per,
    single_layers,
)
from lolm.claims.rules import Above, Below, Within
from lolm.records import names

GROUP = STUDY = "hybrids"
HYBRIDS = {"samba": "Samba", "griffin": "Griffin", "jamba": "Jamba", "hymba": "Hymba"}
OTHERS = tuple(HYBRIDS)[1:]
OTHER_MODELS = "Published of pretrained models of 0.5 to 9B; at `tiny` these have 1.2 M parameters and saw a million tokens."
OFF_DISTRIBUTION = "What follows a removed write never met its absence; other replacements stand beside it."
FIRST_LAYER = "The first layer, which has a recurrent mixer in all four, may be most of it: S of later layers stands beside it."
WORSE_THAN_UNIFORM = (
    "35,000x is +10.5 nats, about a uniform guess over a vocabulary of 36,000: what a model breaks at, no size of a dependence."
)
SIDE = " (analysis.type_statistic and type_margin, fixed before the runs)"


def _statistic(arm: str, label: str, minority: bool) -> Entry:
    if minority:
        return Entry(
            f"type_inversion_{arm}",
            GROUP,
            f"{label} shows the inversion: its recurrent mixers write the smaller part, and their removal costs more.",
            TypeStatistic(arm, minority=True),
            STUDY,
            rule_text="holds if the interval of S lies above {type_margin:g} nats and that of the recurrent share below "
            f"one half, fails if none of either does{SIDE}",
            definition=f"{S_TYPE}, final weights, test split",
            stated=("seed",),
            caveats=(OFF_DISTRIBUTION, FIRST_LAYER),
            figure="type_statistic",
        )
    return Entry(
        f"recurrent_missed_{arm}",
        GROUP,
        f"{label}'s recurrent mixers are its backbone: removing them all costs more than removing all of its attention.",
        TypeStatistic(arm),
        STUDY,
        rule_text=f"holds if the interval of S lies above {{type_margin:g}} nats, fails if none of it does{SIDE}",
        definition=f"{S_TYPE}, final weights, test split",
        published=("hybrid_recurrent", "hybrid_attention"),
        published_unit="x",
        published_definition="perplexity with the recurrent mixers zeroed over that of the intact model",
        caveats=(OTHER_MODELS, WORSE_THAN_UNIFORM, OFF_DISTRIBUTION, FIRST_LAYER),
        figure="type_statistic",
        fact=None if arm == "samba" else "recurrent_missed_samba",
    )


ENTRIES = (
    *(_statistic(arm, label, minority) for minority in (False, True) for arm, label in HYBRIDS.items()),
    Entry(
        "types_labellings",
        GROUP,
        "What a hybrid depends on goes by the type of its mixers: no other way to name them tells them apart as far.",
        Labellings(tuple(HYBRIDS)),
        STUDY,
        rule_text="holds if the exact p over the joint labellings of all arms is at most {level}, else inconclusive: not to "
        "reject shows nothing",
        unit="p",
        definition="share of the joint labellings whose S lies as far from its mean, in standard deviations, as the true one",
        caveats=("Types stand at fixed layers, so a labelling also deals out depth.",),
        figure="type_statistic",
    ),
    *(
        Entry(
            f"{kind}_beyond_random",
            GROUP,
            f"Removing all {kind} mixers of Samba costs {more} than removing random mixers of equal removed norm.",
            OfRuns("samba", beyond_random(kind, names.NORM), beside=OTHERS, sizes=random_sizes(kind, names.NORM)),
            STUDY,
            rule=rule,
            definition=f"damage without the {kind} mixers minus the mean damage without random sets of mixers whose "
            "removed norm is the closest to theirs",
            lead="Damage beyond that of random sets",
            stated=("ablation",),
            caveats=(
                OTHER_MODELS,
                "Published controls are of equal size; the sets here may hold mixers of the type itself, and the closest of the "
                "few there are need not be equal.",
            ),
            figure="type_statistic",
        )
        for kind, more, rule in ((names.RECURRENT, "more", Above()), (names.ATTENTION, "less", Below()))
    ),
    Entry(
        "early_layers",
        GROUP,
        "Early layers matter most, in Samba.",
        OfRuns("samba", early, beside=(*OTHERS, "hawk", "mamba", "mamba2", "transformer_modern", "transformer_conv")),
        STUDY,
        rule=Above(),
        definition="mean damage of single mixers in the first half of the layers minus that in the second",
        lead="Damage in the first minus in the second half",
        stated=("ablation",),
        caveats=(
            OTHER_MODELS,
            "What an early write is replaced by passes through more layers.",
            "Layers alternate by type, so where their number is odd the first half has one more of the first layer's type.",
        ),
        figure="damage_by_layer",
    ),
    Entry(
        "hybrid_resilience",
        GROUP,
        "A hybrid bears the loss of a layer better than a pure Transformer.",
        OfRuns("transformer_modern", single_layers, other="samba"),
        STUDY,
        rule=Above(),
        definition="mean damage of single mixers in the Transformer minus that in Samba, paired by seed",
        lead="Transformer minus Samba",
        stated=("ablation",),
        caveats=(OTHER_MODELS, "Published as 20 to 119 times, in perplexity; Samba has one layer more."),
        figure="damage_by_layer",
    ),
    Entry(
        "types_per_parameter",
        GROUP,
        "A recurrent mixer of Samba is worth more for its parameters than attention.",
        OfRuns("samba", s_type_per(names.PARAMETERS), beside=OTHERS),
        STUDY,
        rule=Above(),
        unit="nats a million parameters",
        definition="damage without the recurrent mixers per million of their parameters, minus the same of attention",
        lead="Recurrent minus attention, a million parameters",
        figure="type_statistic",
    ),
    Entry(
        "types_over_training",
        GROUP,
        "Samba's recurrent mixers are missed more at every stage of training.",
        OverTraining("samba"),
        STUDY,
        rule_text="holds if the interval lies above {type_margin:g} nats at every checkpoint, fails if at any one none of it "
        "does; not corrected for their number",
        definition=f"{S_TYPE}, the smallest of {{count}} checkpoints (selected, not corrected for it)",
        figure="types_over_training",
    ),
    Entry(
        "removal_overstates",
        GROUP,
        "Removal from a trained hybrid overstates what a type is worth, by more than the margin: an arm that never had it loses "
        "less.",
        TrainedWithout(
            (
                ("samba", names.ATTENTION, "mamba"),
                ("samba", names.RECURRENT, "transformer_modern"),
                ("griffin", names.ATTENTION, "hawk"),
            )
        ),
        STUDY,
        rule_text="holds if for every pair the interval lies above {type_margin:g} nats, fails if for any none of it does",
        definition="damage of removing the type minus (loss of an arm of equal size without it − the hybrid's), by seed, all "
        "on the tokens that types are removed on",
        caveats=("An arm without a type has its parameters elsewhere: that is what never having it means at equal size.",),
        figure="type_statistic",
    ),
    Entry(
        "branch_bypassed",
        GROUP,
        "In a hybrid with parallel branches the recurrent branch is bypassed.",
        OfRuns("hymba", damage_of(names.RECURRENT), beside=("samba", "griffin", "jamba")),
        STUDY,
        rule=Within("type_margin"),
        definition="loss without all recurrent branches minus the loss",
        lead="Damage without the recurrent branches",
        stated=("bypass",),
        caveats=("Published of Transformers converted to hybrids; this one is trained as a hybrid from the start.",),
        figure="type_statistic",
    ),
    Entry(
        "composition_decides",
        GROUP,
        "How the paths are composed decides: S is another in a sequential hybrid (Samba) than in a parallel one (Hymba).",
        OfRuns("samba", s_type, other="hymba", two_sided=True),
        STUDY,
        rule_text="holds if the interval lies beyond ±{type_margin:g} nats, fails if it lies inside",
        definition=f"{S_TYPE}: Samba minus Hymba, paired by seed",
        published=("composition_parallel", "composition_sequential"),
        caveats=(
            OTHER_MODELS,
            "Read in the abstract; which removal the two ratios belong to is to be checked.",
            "Published, the parallel model bears removal better (public_composition); here it bears it worse where S is below 0.",
            "Two models differ in more than how their paths are composed.",
            FIRST_LAYER,
        ),
        figure="type_statistic",
    ),
    Entry(
        "attention_recall",
        GROUP,
        "Recall depends on attention alone: without it nothing is retrieved.",
        RecallByType("samba", names.MQAR),
        STUDY,
        rule_text="holds if the interval lies above 0 and what is lost without the recurrent mixers within ±{gate_margin:g}, "
        "fails if none of either does; over the seeds that learned the task",
        unit="points",
        definition="accuracy lost without the attention mixers minus that lost without the recurrent ones, associative recall",
        published=("recall_no_attention",),
        published_unit="share",
        published_definition="accuracy without the attention mixers",
        caveats=("At `tiny` the sequences of the task have 12 tokens, so how far a model recalls is not asked.",),
        figure=None,
    ),
    Entry(
        "recall_dissociation",
        GROUP,
        "Samba's types are dissociated: attention is missed more in recall, recurrence more in text.",
        RecallByType("samba", names.MQAR, dissociated=True),
        STUDY,
        rule_text="holds if accuracy lost without attention minus without recurrence lies above 0 and S above {type_margin:g} "
        "nats, fails if none of either does",
        unit="points",
        definition="accuracy lost without the attention mixers minus that lost without the recurrent ones, associative recall",
        stated=("retrieval", "ablation"),
    ),
)
