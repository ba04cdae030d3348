"""What the harness reads of a row of its tasks, by the beginning of a task's name; rows may have more."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from lolm.config import from_mapping
from lolm.config.ranges import Text
from lolm.config.strict import Pattern, refuse


@dataclass(frozen=True)
class Choices:
    text: tuple[str, ...]
    label: tuple[Text, ...]


@dataclass(frozen=True)
class Arc:
    question: Text
    choices: Choices
    answerKey: Text

    def __post_init__(self) -> None:
        refuse([
            (len(self.choices.text) != len(self.choices.label), "choices", "as many labels as texts are needed"),
            (self.answerKey not in self.choices.label, "answerKey", f"{self.answerKey!r} is no label of a choice"),
        ])  # fmt: skip


@dataclass(frozen=True)
class Winogrande:
    sentence: Annotated[str, Pattern(r"(?s).*_.*", "a sentence with a gap, _")]
    option1: str
    option2: str
    answer: Literal["1", "2"]


@dataclass(frozen=True)
class Piqa:
    goal: Text
    sol1: Text
    sol2: Text
    label: Literal[0, 1]


@dataclass(frozen=True)
class Hellaswag:
    activity_label: Text
    ctx_a: str
    ctx_b: str
    endings: tuple[str, str, str, str]
    label: Literal["0", "1", "2", "3", 0, 1, 2, 3]


@dataclass(frozen=True)
class Lambada:
    text: Text


@dataclass(frozen=True)
class Wikitext:
    page: Text


@dataclass(frozen=True)
class Mmlu:
    question: Text
    choices: tuple[str, str, str, str]
    answer: Literal[0, 1, 2, 3]


@dataclass(frozen=True)
class Blimp:
    sentence_good: Text
    sentence_bad: Text


KINDS = {kind.__name__.lower(): kind for kind in (Arc, Winogrande, Piqa, Hellaswag, Lambada, Wikitext, Mmlu, Blimp)}


def check_row(row: dict[str, Any], task: str) -> None:
    """Raise ConfigError, which names the key, where a row lacks what its task reads. Rows of other tasks are not known."""
    kind: Any = KINDS.get(task.partition("_")[0])
    if kind is not None:
        from_mapping(kind, {field.name: row[field.name] for field in fields(kind) if field.name in row})
