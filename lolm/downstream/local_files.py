"""Tasks of the harness read from a folder instead of the hub, in the forms in which their data sets are passed around.

A file is called by its task, ``arc_easy.jsonl``, or as its publisher calls it; sub-tasks of BLiMP and MMLU lie in folders,
``blimp/adjunct_island.jsonl``, ``mmlu/anatomy.jsonl``. Its rows are those of the hub's data set, or one of

- ``query``, ``choices``, ``gold`` (ARC) and ``context_options``, ``continuation``, ``gold`` (WinoGrande) of MosaicML's gauntlet,
- PIQA as published: rows without labels, with those in ``<name>-labels.lst`` beside it,
- HellaSwag in llama.cpp's text form, six lines an item. It does not mark where the harness capitalises the begun last sentence;
  that is taken to be what follows the last full stop.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lolm.config import ConfigError
from lolm.corpus.rows import read_jsonl, read_lines, read_parquet
from lolm.data.errors import DataError
from lolm.downstream.task_rows import check_row
from lolm.records import sha256_of

PUBLISHED = {"lambada_openai": "lambada_test_openai", "piqa": "piqa_valid", "hellaswag": "hellaswag_val_full"}
ENDINGS = (".jsonl", ".parquet", ".txt", ".txt.bz2")
FAMILIES = ("blimp", "mmlu")  # whose sub-tasks lie in a folder

Row = dict[str, Any]


def file_of(folder: Path, task: str, subset: str | None) -> Path:
    """The file of a task.

    Args:
        subset: of the hub's data set, which a sub-task's file is called by.

    Raises:
        DataError: there is none; names task and file.
    """
    family = task.split("_")[0]
    stems = [f"{family}/{subset}"] if family in FAMILIES else [task, *([PUBLISHED[task]] if task in PUBLISHED else [])]
    paths = [folder / f"{stem}{ending}" for stem in stems for ending in ENDINGS]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        wanted = " or ".join(f"{stem}.jsonl" for stem in stems)
        raise DataError(f"{folder}: task {task} needs {wanted} there; `downstream.data: null` takes it from the Hugging Face hub")
    return found


def read_rows(path: Path, task: str) -> list[Row]:
    """Rows of a task's file, with the fields of the hub's data set.

    Raises:
        DataError: the file is broken, or a row lacks what the task reads; names it and the line.
    """
    if path.suffix == ".parquet":
        rows = [(f"row {number}", row) for number, row in enumerate(read_parquet(path), 1)]
    elif path.suffix == ".jsonl":
        rows = [(f"line {number}", row) for number, row in read_jsonl(path)]
    else:
        rows = list(_hellaswag(path))
    if not rows:
        raise DataError(f"{path}: has no row")
    labels = path.with_name(f"{path.stem}-labels.lst")
    if labels.exists():
        gold = [_label(labels, number, line) for number, line in read_lines(labels)]
        if len(gold) != len(rows):
            raise DataError(f"{labels}: {len(gold)} labels for the {len(rows)} rows of {path.name}")
        rows = [(place, row | {"label": label}) for (place, row), label in zip(rows, gold, strict=True)]
    return [_checked(row, task, f"{path}: {place}") for place, row in rows]


def _label(path: Path, number: int, line: str) -> int:
    if line.strip() not in ("0", "1"):
        raise DataError(f"{path}: line {number}: {line.strip()[:40]!r} is no label; 0 or 1")
    return int(line)


def _checked(row: Row, task: str, where: str) -> Row:
    """A row as on the hub, which has all that the harness reads of it."""
    try:
        row = _as_on_the_hub(row)
        check_row(row, task)
    except ConfigError as error:
        raise DataError(f"{where}: not a row of {task} ({error.problems[0]})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: not a row of {task} ({error!r})") from None
    return row


def folder_hash(folder: Path) -> list[tuple[str, str]]:
    """Name and hash of every file below a folder of tasks."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), sha256_of(path)) for path in files]


def _as_on_the_hub(row: Row) -> Row:
    if "context_options" in row:
        options, sentence = row["context_options"], row["continuation"]
        gold = _place(row["gold"], options, 2)
        start = re.sub(r"\S*$", "", os.path.commonprefix(options))  # whole words
        first, second = (option[len(start) :] for option in options)
        return {"sentence": f"{start}_ {sentence}", "option1": first, "option2": second, "answer": str(gold + 1)}
    if "query" in row:
        labels = "ABCDEFGH"[: len(row["choices"])]
        choices = {"text": row["choices"], "label": list(labels)}
        answer = labels[_place(row["gold"], row["choices"], len(labels))]
        return {"question": row["query"].removeprefix("Question: "), "choices": choices, "answerKey": answer}
    return row


def _place(gold: Any, choices: list[str], count: int) -> int:
    """The place of the right choice, checked: Python counts from the end where it is negative."""
    if not isinstance(choices, list) or len(choices) != count or not all(isinstance(choice, str) for choice in choices):
        raise ValueError(f"{count} choices, all of them texts, are needed")
    if type(gold) is not int or not 0 <= gold < count:
        raise ValueError(f"gold: {gold!r} is not one of 0 to {count - 1}")
    return gold


def _hellaswag(path: Path) -> Iterator[tuple[str, Row]]:
    lines = list(read_lines(path))
    for first in range(0, len(lines), 6):
        number, query = lines[first]
        label, *endings = (line for _, line in lines[first + 1 : first + 6]) if len(lines) - first >= 6 else [""]
        activity, colon, context = query.partition(": ")
        if not colon or label not in ("0", "1", "2", "3"):
            raise DataError(f"{path}: line {number}: not 'activity: context', a label of 0 to 3 and four endings")
        whole, begun = re.fullmatch(r"(?s)(.*[.!?] )?(.*?)", context).groups()  # type: ignore[union-attr]
        if whole is None or begun.endswith((".", "!", "?")):
            whole, begun = context, ""
        row = {"activity_label": activity, "ctx_a": whole.strip(), "ctx_b": begun, "endings": endings, "label": label}
        yield f"line {number}", row
