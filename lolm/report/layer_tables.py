"""The data behind the figures of removals by layer and type, as :mod:`lolm.report.tables`; by the declared replacement."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lolm.analysis import layers as by
from lolm.records import names
from lolm.records.results import RunRecord, ScaleResults

LABELLING = "other labelling"


def _measured(results: ScaleResults) -> list[RunRecord]:
    return [run for run in results.runs if run.by_layer is not None]


def _hybrids(results: ScaleResults) -> list[RunRecord]:
    return [run for run in _measured(results) if set(names.MIXER_TYPES) <= set(run.by_layer.of_type)]  # type: ignore[union-attr]


def _table(columns: Sequence[str], rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns))


def damage_by_layer(results: ScaleResults) -> pd.DataFrame:
    """Damage of each site alone at the final weights, of a mixer that is of several types that of its branches."""
    how = results.analysis.type_statistic
    return _table(
        ("arm", "seed", "site", "layer", "type", "parameters", "norm", "nats"),
        [
            {"arm": run.arm, "seed": run.seed, "site": s.site, "layer": s.layer, "type": s.type, "parameters": s.parameters}
            | {"norm": found.norm([s.site]), "nats": found.damage([s.site], how)}
            for run in _measured(results)
            if (found := run.by_layer) is not None
            for s in found.sites
            if s.type is not None and found.damage([s.site], how) is not None
        ],
    )


def type_statistic(results: ScaleResults) -> pd.DataFrame:
    """S_type of each run with a hybrid's share, damages and random sets; and S of the other labellings, means over seeds."""
    how, rows = results.analysis.type_statistic, []
    for run in _hybrids(results):
        found = run.by_layer
        row = {"arm": run.arm, "seed": run.seed, "kind": "S", "nats": by.statistic(found, how), "share": by.share(found)}
        row |= {kind: by.damage(found, kind, how) for kind in (*names.MIXER_TYPES, names.MLP)}
        rows.append(row | {f"{kind}_beyond_random": by.beyond_random(found, kind, names.NORM, how) for kind in names.MIXER_TYPES})
    for arm in dict.fromkeys(run.arm for run in _hybrids(results)):
        null = by.permutation([run.by_layer for run in _hybrids(results) if run.arm == arm], how)
        others = [] if null is None else sorted(null.all)
        if null is not None:
            others.remove(null.observed)
        rows += [{"arm": arm, "kind": LABELLING, "nats": nats} for nats in others]
    beyond = [f"{kind}_beyond_random" for kind in names.MIXER_TYPES]
    return _table(("arm", "seed", "kind", "nats", "share", *names.MIXER_TYPES, names.MLP, *beyond), rows)


def types_over_training(results: ScaleResults) -> pd.DataFrame:
    """S_type and the recurrent share of each run at every checkpoint."""
    how = results.analysis.type_statistic
    return _table(
        ("arm", "seed", "step", "nats", "share"),
        [
            {"arm": run.arm, "seed": run.seed, "step": step, "nats": by.statistic(run.by_layer, how, step)}
            | {"share": by.share(run.by_layer, step)}
            for run in _hybrids(results)
            for step in run.by_layer.steps  # type: ignore[union-attr]
        ],
    )
