"""How an experiment opens in MLflow's pages: as one of model training, with what it is, and chart views that compare arms.

A chart view is a tag of the experiment in the form of MLflow's own shared links, and its address names the tag; so it needs no
set-up, and nothing of it is kept in a browser. There is one for each study, since the page shows a hundred runs at most.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lolm.config import ConfigError, StudyConfig, load_params
from lolm.records import Layout
from lolm.tracking.series import VAL_TOKENS

VIEW_TAG = "mlflow.sharedViewState."  # and the view's name, which its address has
EVERY_ARM = "arms"  # the view without a study
STUDIES_TAG = "studies"  # of a run: those that have its arm
# Of a run: its arm, by which charts group. MLflow colours a group by a hash of "tag", this key and the value, one of 29 colours;
# by "arm" Mamba, Samba and a Transformer had the same.
GROUP_TAG = "arm.name"
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"  # no traces and prompts; an address says it too
NOTE_TAG = "mlflow.note.content"
LONGEST_TAG = 5000  # characters, MLflow's limit for a tag of an experiment

# Sections and their charts: a metric by tokens or by training step, or as it is in the end.
BY_TOKENS, BY_STEP, AT_END = "tokens", "step", "end"
SECTIONS: dict[str, dict[str, str]] = {
    "Loss": {"val/nats": BY_TOKENS, "eval/test_nats": AT_END, "eval/annealed_test_nats": BY_STEP, "train/loss": BY_STEP},
    "What is used": {
        "gate/mean": BY_STEP, "intervention/inversion": BY_STEP, "position/nats": BY_STEP, "recall/induction_accuracy": AT_END,
    },
    "Cost": {"speed/tokens_per_second": BY_STEP},
}  # fmt: skip
FROM_UNTRAINED = ("val/nats", "train/loss")  # whose first values, of a model that knows nothing, would flatten the others


def studies_of(layout: Layout) -> dict[str, StudyConfig]:
    """The studies that the parameter file has for a scale; none where that file is missing or has mistakes."""
    path = layout.root / "params.yaml"
    return _studies(path.resolve(), path.stat().st_mtime_ns, layout.scale) if path.exists() else {}


@lru_cache(maxsize=4)
def _studies(path: Path, changed: int, scale: str) -> dict[str, StudyConfig]:
    try:
        params = load_params(path)
    except ConfigError:
        return {}
    return {name: study for name, study in params.studies.items() if params.is_made_for(name, scale)}


def say_studies(client: Any, run: Any, layout: Layout) -> None:
    """Tag a run, MLflow's entity, with its studies: each between two marks, so that no name is found inside of another."""
    studies = [name for name, study in studies_of(layout).items() if run.data.tags.get("arm") in study.arms]
    wanted = "".join(f"· {name} " for name in studies) + "·" if studies else ""
    if run.data.tags.get(STUDIES_TAG, "") != wanted:
        client.set_tag(run.info.run_id, STUDIES_TAG, wanted)


def arrange(client: Any, experiment: Any, layout: Layout) -> None:
    """Give an experiment of training runs its kind, description and chart views; ``experiment`` is MLflow's entity."""
    studies = studies_of(layout)
    wanted = {
        KIND_TAG: KIND,
        NOTE_TAG: _note(experiment.experiment_id, layout.scale, studies),
        VIEW_TAG + EVERY_ARM: _chart_view(),
    }
    wanted |= {VIEW_TAG + study: _chart_view(study) for study in studies}
    for key, value in wanted.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def chart_page(experiment_id: str, view: str = EVERY_ARM) -> str:
    """Fragment of the address of an experiment's chart view: a study's, or that of every arm."""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={view}"


def _note(experiment_id: str, scale: str, studies: Mapping[str, Any]) -> str:
    note = (
        f"Here are the training runs of scale `{scale}`, one for an arm and a seed; reports of studies are runs of the "
        "experiment `lolm-reports`. Arms compared, means over seeds: "
    )
    for view in (*studies, EVERY_ARM):
        link = f"[{'all arms' if view == EVERY_ARM else view}]({chart_page(experiment_id, view)}) · "
        note += link if len(note) + len(link) < LONGEST_TAG else ""
    return note.removesuffix(" · ")


def _chart_view(study: str = "") -> str:
    """State of the page of runs: a study's, grouped by arm, charts in the order of :data:`SECTIONS`; others follow."""
    charts = []
    for section, found in SECTIONS.items():
        for metric, axis in found.items():
            chart: dict[str, Any] = {"uuid": metric, "metricSectionId": section, "metricKey": metric}
            chart |= {"deleted": False, "isGenerated": False, "type": "BAR" if axis == AT_END else "LINE"}
            if axis != AT_END:
                chart |= {"selectedMetricKeys": [metric], "scaleType": "linear", "xAxisScaleType": "linear", "range": {}}
                chart |= {"lineSmoothness": 0, "ignoreOutliers": metric in FROM_UNTRAINED, "xAxisKey": "step"}
            if axis == BY_TOKENS:
                chart |= {"xAxisKey": "metric", "selectedXAxisMetricKey": VAL_TOKENS, "useGlobalXaxisKey": False}
            charts.append(chart)
    state = {
        "selectedColumns": ["metrics.`eval/test_nats`", "metrics.`eval/test_bits_per_byte`", "params.`parameters.total`"],
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": GROUP_TAG}]},
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": section, "name": section, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
            for section in SECTIONS
        ],
        "compareRunCharts": charts,
    }
    if study:
        state["searchFilter"] = f"tags.{STUDIES_TAG} LIKE '%· {study} ·%'"
    text = json.dumps(state, separators=(",", ":"))
    assert len(text) <= LONGEST_TAG, len(text)
    return text
