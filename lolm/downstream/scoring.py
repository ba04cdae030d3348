"""Tasks by the harness's own definitions, and what a model scores on them beside chance and a bigram."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind
from lm_eval.tasks._yaml_loader import load_yaml

from lolm import one_line
from lolm.config import ConfigError, nearest
from lolm.data.errors import DataError
from lolm.downstream.harness_models import HarnessModel
from lolm.downstream.held_out_tasks import OWN
from lolm.downstream.local_files import file_of, read_rows
from lolm.records import names
from lolm.records.schema import TaskMetric, TaskScores

# Where the harness keeps the tasks that can be read from local files; to look through all of its tasks takes a minute.
FOLDERS = ("arc", "blimp", "hellaswag", "lambada", "mmlu/default", "piqa", "wikitext", "winogrande")
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
DRAWS = 1000  # of the harness's bootstrap, which gives a perplexity its standard error
HARNESS = "lm-eval"


class Tasks:
    """Tasks of the harness and of :data:`OWN` by name, ready to be scored.

    Args:
        wanted: names; a group or tag of the harness stands for its tasks.
        data: folder with the tasks' files, see :mod:`lolm.downstream.local_files`; None: the Hugging Face hub.
        held_out: texts that the own tasks are made of.

    Raises:
        ConfigError: there is no such task, one is named beside its group, or the tasks that a name stands for have no metric in
            common.
        DataError: its file is missing or broken, the hub is out of reach, or the texts are too short for an own one.
    """

    def __init__(self, wanted: Sequence[str], data: Path | None, held_out: Sequence[str]) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        root = Path(lm_eval.tasks.__file__).parent
        manager = TaskManager(include_defaults=False, include_path=[root / folder for folder in FOLDERS])
        if data is None and not set(wanted) <= {*manager.all_tasks, *OWN}:
            manager = TaskManager()
        known = {*manager.all_tasks, *OWN}
        for name in wanted:
            if name not in known:
                where = "" if data is None else " that can be read from local files"
                raise ConfigError(f"downstream.tasks: the harness has no task {name!r}{where}{nearest(name, known)}")
        if data is not None:
            _read_locally(manager, data)
        of_harness = [name for name in wanted if name not in OWN]
        own = [_own(name, held_out) for name in wanted if name in OWN]
        self.of_harness, self.own = _loaded(manager, of_harness), manager.load(own)
        self.of = {name: self._leaves(name, manager) for name in wanted}
        for task in self.tasks.values():
            task.set_config("num_fewshot", 0)
        for name in wanted:
            self._refuse_strangers(name)

    @property
    def tasks(self) -> dict[str, Task]:
        """Every task by name, those of groups among them."""
        return self.of_harness["tasks"] | self.own["tasks"]

    def _leaves(self, name: str, manager: TaskManager) -> tuple[str, ...]:
        """Tasks that a name stands for."""
        if name in self.tasks:
            return (name,)
        groups = self.of_harness.get("group_map", {})
        children = groups[name] if name in groups else sorted(manager.task_index[name].tags)
        return tuple(leaf for child in children for leaf in self._leaves(child, manager))

    def _refuse_strangers(self, name: str) -> None:
        """Raises ConfigError where nothing could be said of all tasks of a name together; that would be found after hours."""
        of_each = {leaf: _metrics_of(self.tasks[leaf]) for leaf in self.of[name]}
        group = self.of_harness.get("groups", {}).get(name)
        summed_up = {} if group is None else {config.metric for config in group.aggregate_metric_list or ()}
        by_harness = any(key.partition(",")[0] in summed_up for metrics in of_each.values() for key in metrics)
        if not by_harness and not set.intersection(*of_each.values()):
            said = "; ".join(f"{leaf}: {', '.join(sorted(metrics))}" for leaf, metrics in of_each.items())
            raise ConfigError(
                f"downstream.tasks: the tasks of {name} have no metric in common ({said}); name them one by one in its place"
            )

    def scores(
        self, model: HarnessModel, reference: HarnessModel | None = None, limit: int | None = None
    ) -> dict[str, TaskScores]:
        """Scores by task.

        Args:
            reference: is asked the same, and its score stands beside the model's.
            limit: items of each task of the harness, or of each part of a group, the first ones; None: all.
        """
        mine = self._evaluate(model, limit)
        other = {} if reference is None else self._evaluate(reference, limit, again=True)
        return {name: self._scores(name, mine, other) for name in self.of}

    def _evaluate(self, model: HarnessModel, limit: int | None, again: bool = False) -> dict[str, dict[str, Any]]:
        """Results by task and group; ``again``: of the requests that another model was asked."""
        os.environ["DISABLE_MULTIPROC"] = "1"  # else the bootstrap forks a process that has threads
        for task in self.tasks.values() if again else ():
            for request in task.instances:
                request.resps.clear()
            task.build_all_requests = lambda **_: None  # half of the time is spent there
        found: dict[str, dict[str, Any]] = {}
        for tasks, most in ((self.of_harness, limit), (self.own, None)):
            if tasks["tasks"]:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # a bar for each task
                    found |= evaluate(model, tasks, limit=most, bootstrap_iters=DRAWS, log_samples=False)["results"]
        for task in self.tasks.values() if again else ():
            del task.build_all_requests
        return found

    def _row(self, name: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Results under the harness's names, ``<metric>,<filter>``. Of a tag, and of a group that the harness does not sum up,
        the mean over its tasks of what all of them have, without an error."""
        first, *others = (results[leaf] for leaf in self.of[name])
        if not others:
            return first
        row = results.get(name, {})
        if not any("," in key for key in row):
            shared = [key for key in first if "," in key and "_stderr," not in key and all(key in other for other in others)]
            row = {key: sum(each[key] for each in (first, *others)) / (1 + len(others)) for key in shared}
        return row

    def _scores(self, name: str, results: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> TaskScores:
        leaves, row = self.of[name], self._row(name, results)
        beside = self._row(name, other) if other else {}
        chance = [_chance(self.tasks[leaf]) for leaf in leaves]
        known = [value for value in chance if value is not None]
        metrics = {}
        for key in row:
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            error = row.get(f"{metric}_stderr,{kind}")
            metrics[metric if kind == "none" else key] = TaskMetric(
                float(row[key]),
                float(error) if isinstance(error, float) else None,
                sum(known) / len(chance) if metric.startswith("acc") and len(known) == len(chance) else None,
                float(beside[key]) if key in beside else None,
            )
        several = len(leaves) > 1 and all("acc,none" in results[leaf] for leaf in leaves)
        parts = {leaf: float(results[leaf]["acc,none"]) for leaf in leaves} if several else {}
        return TaskScores(
            items=sum(results[leaf]["sample_len"] for leaf in leaves),
            version=str(self.tasks[leaves[0]].VERSION),
            metrics=metrics,
            parts=parts,
        )


def harness_version() -> str:
    return importlib.metadata.version(HARNESS)


def _metrics_of(task: Task) -> set[str]:
    """Under the names that its results will have, ``<metric>,<filter>``."""
    filters = [each["name"] for each in task.config.filter_list or ({"name": "none"},)]
    return {f"{metric},{each}" for metric in task.aggregation() for each in filters}


def _chance(task: Task) -> float | None:
    """Accuracy of a guess among the choices, the mean over items; None where the answer is free text."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    choices: dict[int, int] = {}
    for instance in task.instances:
        choices[instance.doc_id] = choices.get(instance.doc_id, 0) + 1
    return sum(1 / n for n in choices.values()) / len(choices)


def _read_locally(manager: TaskManager, folder: Path) -> None:
    """Let every task of the index read its rows from a folder when it is built; its definition stays the harness's."""
    for name, entry in manager.task_index.items():
        if entry.kind is Kind.TASK and entry.yaml_path is not None:
            definition = load_yaml(entry.yaml_path, resolve_func=True)
            splits = {definition[key] for key in SPLITS if definition.get(key)}
            subset = definition.get("dataset_name")
            entry.cfg = definition | {"task": name, "custom_dataset": partial(_local, folder, name, subset, splits)}
            entry.yaml_path = None


def _local(folder: Path, task: str, subset: str | None, splits: set[str], **_: Any) -> dict[str, datasets.Dataset]:
    # Tasks are asked without examples, so the one split that is scored stands for those that these would come from.
    rows = datasets.Dataset.from_list(read_rows(file_of(folder, task, subset), task))
    return dict.fromkeys(splits, rows)


def _items(name: str, held_out: Sequence[str]) -> datasets.Dataset:
    if not (items := OWN[name](held_out)):
        raise DataError(f"downstream.tasks: no sentence of the test split makes an item of {name}; leave it out")
    return datasets.Dataset.from_list(items)


def _loaded(manager: TaskManager, wanted: Sequence[str]) -> dict[str, Any]:
    """What the harness loads, with its errors as ours."""
    try:
        return manager.load(wanted)
    except ConnectionError as error:
        reason = one_line(error)
        raise DataError(f"downstream.tasks: {reason}; without a network, downstream.data names a folder of their files") from None
    except ValueError as error:
        if not str(error).startswith("Duplicate task"):
            raise
        raise ConfigError(
            f"downstream.tasks: {one_line(error)}; a group's record has the score of each of its tasks, name it alone"
        ) from None


def _own(name: str, held_out: Sequence[str]) -> dict[str, Any]:
    """An own task as the harness defines tasks."""
    return {
        "task": name,
        "custom_dataset": lambda **_: {"test": _items(name, held_out)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": " " if name == names.CLOZE else "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }
