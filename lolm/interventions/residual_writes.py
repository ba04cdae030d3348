"""Removing what mixers and MLPs write into the residual stream, by layer and by type."""

from __future__ import annotations

from collections.abc import Iterable

from lolm.interventions.branches import replacement
from lolm.interventions.core import Intervention, change_site, compose
from lolm.interventions.errors import InterventionError
from lolm.records import names


def replace_writes(sites: Iterable[str], by: str, name: str | None = None) -> Intervention:
    """Put something else in the place of what is written at sites inside the stacks, at all of them at once.

    What follows a site is computed from what stands there now. Replacements are those of the unchanged model: the mean and the
    noise need ``measure(model, batches, sites)`` in the context, ``resample`` takes the write at the same positions of another
    document.

    Args:
        sites: from :func:`lolm.interventions.writes`, e.g. ``writes(model, "recurrent")``, ``writes(model, "mlp", layers=[3])``.
        by: ``zero``, ``mean``, ``resample`` or ``gaussian``, as for a branch.
        name: as it stands in records; default is the sites' and what they are replaced by.

    Raises:
        InterventionError: no site, or another replacement.
    """
    each = [change_site(site, names.replaced(site, by), replacement(site, by, names.replaced(site, by))) for site in sites]
    if not each:
        raise InterventionError("no site to replace; `sites(model)` lists those of a model")
    together = compose(*each)
    return together if name is None else Intervention(name, None, together.changes)
