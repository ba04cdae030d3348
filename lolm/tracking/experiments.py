"""How an experiment opens in MLflow's pages: as one of model training, with what it is, and a chart view that compares arms.

A chart view is a tag of the experiment in the form of MLflow's own shared links, and its address names the tag; so it needs no
set-up, and nothing of it is kept in a browser.
"""

from __future__ import annotations

import json
from typing import Any

from lolm.tracking.series import VAL_TOKENS

VIEW = "arms"  # the view's name in an address
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
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


def arrange(client: Any, experiment: Any, scale: str) -> None:
    """Give an experiment of training runs its kind, description and chart view; ``experiment`` is MLflow's entity."""
    wanted = {KIND_TAG: KIND, VIEW_TAG: _chart_view(), NOTE_TAG: _note(experiment.experiment_id, scale)}
    for key, value in wanted.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def chart_page(experiment_id: str) -> str:
    """Fragment of the address of an experiment's chart view."""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={VIEW}"


def _note(experiment_id: str, scale: str) -> str:
    return (
        f"[Arms compared]({chart_page(experiment_id)}), means over seeds. Here are the training runs of scale `{scale}`, one "
        "for an arm and a seed; reports of studies are runs of the experiment `lolm-reports`."
    )


def _chart_view() -> str:
    """State of the page of runs: grouped by arm, charts in the order of :data:`SECTIONS`; those of all other metrics follow."""
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
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": "arm"}]},
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
    text = json.dumps(state, separators=(",", ":"))
    assert len(text) <= LONGEST_TAG, len(text)
    return text
