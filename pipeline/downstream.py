"""Score trained runs on downstream tasks, beside chance and a bigram: those of lm-evaluation-harness that `downstream.tasks` in
params.yaml names, and two made from the test split. Every run of the study that is not scored, or one.

Not a stage of `dvc repro`: it takes the extra `eval`, and data sets that this project does not track.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lolm import LolmError
from lolm.config import ConfigError
from lolm.corpus.documents import iterate_split
from lolm.corpus.tokenizer import tokenizer_of
from lolm.records import RunKey, read, write
from lolm.records.schema import Downstream
from pipeline.context import open_run
from pipeline.identity import inputs_of, measured_from, text_hashes, weights_hash
from pipeline.runs import per_run
from pipeline.stage import Stage, main


class ExtraError(LolmError):
    """The packages of the extra are missing."""


def downstream(stage: Stage, key: RunKey) -> None:
    from lolm.downstream.harness_models import BigramModel, TrainedModel
    from lolm.downstream.scoring import Tasks, harness_version

    config, layout = stage.params.downstream, stage.layout
    refuse_to_drop(layout.downstream(*key), config.tasks)
    texts = [document.text for document in iterate_split(layout.corpus, "test")]
    tasks = Tasks(config.tasks, _folder(stage), texts)
    context = open_run(stage, key, inputs(stage, key))
    training = context.run.training
    tokenizer = tokenizer_of(layout, context.run.vocab_size)
    settings = tokenizer, training.seq_len, stage.preset.evaluation.batch_size * training.seq_len
    model = TrainedModel(context.trained.at(training.steps), *settings)
    found = tasks.scores(model, BigramModel(context.bigram(), *settings), config.limit)
    asked: dict[str, Any] = {"harness": harness_version(), "max_length": training.seq_len, "limit": config.limit}
    write(layout.downstream(*key), Downstream(**context.identity, **asked, tasks=found))


def refuse_to_drop(record: Path, tasks: Sequence[str]) -> None:
    """Raises ConfigError where a record has scores of tasks that are not named: they took hours, and files that may be gone."""
    if record.exists() and (lost := [name for name in read(record, Downstream).tasks if name not in tasks]):
        raise ConfigError(
            f"downstream.tasks does not name {', '.join(lost)}, of which {record} has scores that would be lost; name them too, "
            "or delete the file"
        )


def inputs(stage: Stage, key: RunKey) -> str:
    from lolm.downstream.local_files import folder_hash

    config, folder = stage.params.downstream, _folder(stage)
    asked = {"tasks": config.tasks, "limit": config.limit, "data": folder and folder_hash(folder)}
    return inputs_of("downstream", asked, weights_hash(stage.layout, key), *text_hashes(stage.layout))


def why(stage: Stage, key: RunKey) -> str | None:
    layout = stage.layout
    return measured_from(layout, key, layout.downstream(*key), Downstream, inputs(stage, key))


def _folder(stage: Stage) -> Path | None:
    """Where the tasks' files lie; None: on the hub.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = stage.params.downstream.data
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"downstream.data: no folder {folder}; null takes the tasks from the Hugging Face hub")
    return None if folder is None else Path(folder)


def checked() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise ExtraError("downstream tasks take the extra `eval`: pip install -c constraints.txt -e '.[eval]'")
    per_run("downstream", __doc__, downstream, why, inputs)


if __name__ == "__main__":
    main(checked)
