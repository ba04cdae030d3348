"""Tasks of the harness read from a folder instead of the hub, in the forms in which their data sets are passed around.

A file is called by its task, ``arc_easy.jsonl``, or as its publisher calls it; sub-tasks of BLiMP and MMLU lie in folders,
``blimp/adjunct_island.jsonl``, ``mmlu/anatomy.jsonl``. Its rows are those of the hub's data set, or one of

- ``query``, ``choices``, ``gold`` (ARC) and ``context_options``, ``continuation``, ``gold`` (WinoGrande) of MosaicML's gauntlet,
- PIQA as published: rows without labels, with those in ``<name>-labels.lst`` beside it,
- HellaSwag in llama.cpp's text form, six lines an item. It does not mark where the harness capitalises the begun last sentence;
  that is taken to be what follows the last full stop.
"""

from __future__ import annotations

import bz2
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lolm.data.errors import DataError
from lolm.records import parse_json, sha256_of

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


def read_rows(path: Path) -> list[Row]:
    """Rows of a task's file, with the fields of the hub's data set.

    Raises:
        DataError: the file is broken; names it and the line.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    if path.suffix != ".jsonl":
        return list(_hellaswag(path))
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(_as_on_the_hub(parse_json(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a row of a task ({error!r})") from None
    labels = path.with_name(f"{path.stem}-labels.lst")
    if labels.exists():
        gold = labels.read_text(encoding="utf-8").split()
        if len(gold) != len(rows):
            raise DataError(f"{labels}: {len(gold)} labels for the {len(rows)} rows of {path.name}")
        rows = [row | {"label": int(label)} for row, label in zip(rows, gold, strict=True)]
    return rows


def folder_hash(folder: Path) -> list[tuple[str, str]]:
    """Name and hash of every file below a folder of tasks."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), sha256_of(path)) for path in files]


def _as_on_the_hub(row: Mapping[str, Any]) -> Row:
    if "context_options" in row:
        start = re.sub(r"\S*$", "", os.path.commonprefix(row["context_options"]))  # whole words
        first, second = (option[len(start) :] for option in row["context_options"])
        sentence = f"{start}_ {row['continuation']}"
        return {"sentence": sentence, "option1": first, "option2": second, "answer": str(row["gold"] + 1)}
    if "query" in row:
        labels = "ABCDEFGH"[: len(row["choices"])]
        choices = {"text": row["choices"], "label": list(labels)}
        return {"question": row["query"].removeprefix("Question: "), "choices": choices, "answerKey": labels[row["gold"]]}
    return dict(row)


def _hellaswag(path: Path) -> Iterator[Row]:
    opened = bz2.open if path.suffix == ".bz2" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    for first in range(0, len(lines) - len(lines) % 6, 6):
        query, label, *endings = lines[first : first + 6]
        activity, colon, context = query.partition(": ")
        if not colon or label not in "0123":
            raise DataError(f"{path}, line {first + 1}: not 'activity: context', a label of 0 to 3 and four endings")
        whole, begun = re.fullmatch(r"(?s)(.*[.!?] )?(.*?)", context).groups()  # type: ignore[union-attr]
        if whole is None or begun.endswith((".", "!", "?")):
            whole, begun = context, ""
        yield {"activity_label": activity, "ctx_a": whole.strip(), "ctx_b": begun, "endings": endings, "label": label}
