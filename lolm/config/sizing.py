"""How the size of an arm at a scale follows from what is said of it and from the size of the arm that it is like."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lolm.config.architecture import ArchitectureConfig
from lolm.config.faulty import FAULTY
from lolm.config.inherit import merged
from lolm.config.params import Params, RunConfig, ScaleConfig, scale_of
from lolm.config.sizes import PARTS, SizeConfig, SizeRule
from lolm.config.strict import ConfigError, Problem, from_mapping, to_mapping
from lolm.config.training import TrainingConfig

HOW = ("like", "rate_of", "match", "of", "multiple_of")  # of a rule: what says how, beside the sizes themselves


def rule_of(arm: str, rules: Mapping[str, SizeRule], preset: ScaleConfig) -> SizeRule:
    """What is said of an arm's size at a scale: what the scale says over what the arm's block says."""
    said = [said[arm] for said in (rules, preset.sizes) if arm in said]
    if any(rule is FAULTY for rule in said):
        return FAULTY  # type: ignore[return-value]
    if len(said) < 2:  # of most arms
        return said[0] if said else SizeRule()
    return SizeRule(**merged(*map(_given, said)))


def size_values(rule: SizeRule, architecture: ArchitectureConfig, like: dict[str, Any] | None) -> dict[str, Any]:
    """Keys and values of the arm's :class:`SizeConfig` as far as they are known: its own over those of the arm it is like.

    One that is to be derived is the other arm's until then, and where that has no MLP, a ``d_ff`` of 1.
    """
    values = {} if like is None else _useful(like, architecture)
    own = {key: value for key, value in _given(rule).items() if key not in HOW}
    if rule.match == "d_ff" and not values.get("d_ff"):
        values = values | {"d_ff": 1}
    return merged(values, own)


def is_pinned(rule: SizeRule) -> bool:
    """Whether a size that would be derived is given."""
    value: Any = _given(rule)
    for key in (rule.match or "").split("."):
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def has_size(arm: str, rules: Mapping[str, SizeRule], preset: ScaleConfig) -> bool:
    """Whether a scale says how large an arm is, or how large the arm is that it is like."""
    seen: set[str] = set()
    while (like := rule_of(arm, rules, preset).like) is not None and arm not in seen:
        seen.add(arm)
        arm = like
    return arm in preset.sizes


def tuned_arm(params: Params, scale: str, arm: str) -> str:
    """The arm whose sweep chooses this arm's learning rate at a scale: itself, or what ``rate_of`` leads to."""
    return _rates(arm, params.sizes, scale_of(params, scale))[-1]


def _rates(arm: str, rules: Mapping[str, SizeRule], preset: ScaleConfig) -> list[str]:
    """From an arm along ``rate_of`` to the one that has a sweep of its own; where that is a circle, to its start again."""
    seen = [arm]
    while True:
        rule = rule_of(seen[-1], rules, preset)
        if rule.learning_rate is not None or rule.rate_of in (None, seen[-1]):
            return seen
        seen.append(str(rule.rate_of))
        if seen[-1] in seen[:-1]:
            return seen


def arms_of(params: Params, scale: str) -> tuple[str, ...]:
    """The arms that have a size at a scale; raises ConfigError for an unknown scale."""
    preset = scale_of(params, scale)
    return tuple(arm for arm in params.architectures if has_size(arm, params.sizes, preset))


def _given(rule: SizeRule) -> dict[str, Any]:
    return {key: value for key, value in vars(rule).items() if value is not None}


def _useful(values: dict[str, Any], architecture: ArchitectureConfig) -> dict[str, Any]:
    """Sizes that an arm can take over: its family's, and of its own mixers and MLPs."""
    if architecture.family == "lolm":
        return values
    blocks = architecture.surface.blocks.values()
    used = {block.mixer.name for block in blocks}
    left_out = {*PARTS, "mixers"} | ({"d_ff"} if all(block.mlp == "none" for block in blocks) else set())
    mixers = {name: options for name, options in values["mixers"].items() if name in used}
    return {key: value for key, value in values.items() if key not in left_out} | {"mixers": mixers}


# ---------------------------------------------------------------------------------------------- checked when it is loaded


def recalled(params: Params) -> dict[str, set[str]]:
    """By scale with recall tasks, the arms that a study which can be made there trains on them."""
    return {
        scale: {arm for name, study in params.studies.items() if params.is_made_for(name, scale) for arm in study.recall_arms}
        for scale, preset in params.scales.items()
        if preset.recall.tasks
    }


def clashes_of_sizes(
    architectures: Mapping[str, ArchitectureConfig],
    rules: Mapping[str, SizeRule],
    scales: Mapping[str, ScaleConfig],
    recalled: Mapping[str, Collection[str]],
) -> Iterator[Problem]:
    """What is wrong with sizes as far as they stand in the file; derived ones are taken as fitting.

    Args:
        recalled: by scale the arms that are trained on its recall tasks, see :func:`recalled`.
    """
    sizes: dict[str, SizeConfig] = {}
    for scale, preset in scales.items():
        done: dict[str, dict[str, Any] | None] = {}
        found: set[str] = set()
        for arm in architectures:
            chain = _rates(arm, rules, preset)
            if chain[-1] == arm and len(chain) > 1:
                yield Problem(f"architectures.{arm}.size.rate_of", f"goes in a circle: {' → '.join(chain)}")
            for problem in _check(arm, scale, preset, architectures, rules, done, sizes, recalled.get(scale, ()), ()):
                if problem.text not in found:  # arms that are like others have their faults
                    found.add(problem.text)
                    yield problem


def _check(
    arm: str,
    scale: str,
    preset: ScaleConfig,
    architectures: Mapping[str, ArchitectureConfig],
    rules: Mapping[str, SizeRule],
    done: dict[str, dict[str, Any] | None],
    sizes: dict[str, SizeConfig],
    recalled: Collection[str],
    above: tuple[str, ...],
) -> Iterator[Problem]:
    """Fill ``done`` with the values of the arm's size; None where the scale has none, or a faulty one.

    Most arms are as large as others: ``sizes`` holds those that were built, by their values.
    """
    if arm in done or arm not in architectures:
        return
    if arm in above:
        yield Problem(f"architectures.{arm}.size.like", f"goes in a circle: {' → '.join((*above[above.index(arm) :], arm))}")
        done[arm] = None
        return
    rule, where = rule_of(arm, rules, preset), f"scales.{scale}.sizes.{arm}"
    if FAULTY in (architectures[arm], architectures[arm].family, rule, rule.like, rule.match):  # then its size is not known
        done[arm] = None
        return
    like = None
    if rule.like is not None:
        yield from _check(rule.like, scale, preset, architectures, rules, done, sizes, recalled, (*above, arm))
        like = done.get(rule.like)
    done.setdefault(arm, None)
    if like is None and (rule.like is not None or arm not in preset.sizes):
        return
    if rule.match is not None and rule.like is None:
        yield Problem(where, f"match: {rule.match} needs like: the arm that has as many parameters")
        return
    values = size_values(rule, architectures[arm], like)
    key = repr(values)
    try:
        size = sizes[key] if key in sizes else from_mapping(SizeConfig, values, where)
        run = RunConfig(scale, arm, 0, preset.tokenizer.vocab_size, architectures[arm], size, preset.training)
    except ConfigError as error:
        yield from error.problems
        return
    yield from _nothing_to_predict(architectures[arm], size, preset.training, where)
    yield from _too_short_for_chunks(architectures[arm], size, preset, where, arm in recalled)
    if arm in recalled and run.contrasts_sequences and preset.recall.batch_size < 2:
        text = f"1 leaves arm {arm!r} no negatives, taken from the other sequences of a batch; set it to 2 or more"
        yield Problem(f"scales.{scale}.recall.batch_size", text)
    sizes[key] = size
    done[arm] = to_mapping(size) if like is None else values


def _nothing_to_predict(
    architecture: ArchitectureConfig, size: SizeConfig, training: TrainingConfig, where: str
) -> Iterator[Problem]:
    """A term whose future lies behind every sequence is left out of the loss."""
    if architecture.predicts != "none" and size.future is not None and size.future.horizon + 1 >= training.seq_len:
        text = f"{size.future.horizon} leaves nothing to predict in training.seq_len {training.seq_len}; it needs two more"
        yield Problem(f"{where}.future.horizon", text)


def _too_short_for_chunks(
    architecture: ArchitectureConfig, size: SizeConfig, preset: ScaleConfig, where: str, recalled: bool
) -> Iterator[Problem]:
    """A memory with a fixed number of chunks reads no text of fewer tokens than chunks."""
    counted = architecture.family == "lolm" and architecture.memory.enabled is True and architecture.memory.chunking == "count"
    if not counted or size.memory is None:
        return
    lengths = {"training.seq_len": preset.training.seq_len}
    if preset.evaluation.samples:
        lengths["evaluation.prompt_tokens"] = preset.evaluation.prompt_tokens
    if recalled:
        lengths["recall.seq_len"] = preset.recall.seq_len
    for key, tokens in lengths.items():
        if tokens < size.memory.chunks:
            yield Problem(
                f"{where}.memory.chunks", f"{size.memory.chunks} are more than the tokens of {key} {tokens}; lower them"
            )
