"""``dvc exp run -S``: every scalar of the file can be overridden by DVC's own code, and exactly that one changes."""

import pickle
import shutil
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from builders import PARAMS, ROOT
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import modify_yaml

from lolm.config import ConfigError, load_params, params_from
from lolm.config.dialect import parse

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
RAW = parse(TEXT)[0]


def leaves(node: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Scalars by path; those in lists by the index too."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        return {path: node}
    return {at: value for key, child in children for at, value in leaves(child, (*path, key)).items()}


def another(value: Any) -> Any:
    """A scalar of the same type that is not this one."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return value + 1 if isinstance(value, int) else value / 3


def overridden(tmp_path, *overrides: str):
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    apply_overrides(tmp_path / "params.yaml", list(overrides))
    return tmp_path / "params.yaml"


def test_every_scalar_changes_alone_through_dvcs_writer(tmp_path):
    """All of them at once through one round trip; in the tree that is read back each has its new value and nothing else moved."""
    path = tmp_path / "params.yaml"
    path.write_text(TEXT, encoding="utf-8")
    wanted = {at: another(value) for at, value in leaves(RAW).items()}
    with modify_yaml(path) as tree:
        for at, value in wanted.items():
            node = tree
            for key in at[:-1]:
                node = node[key]
            node[at[-1]] = value
    found, problems = parse(path.read_text(encoding="utf-8"))
    assert problems == []
    assert leaves(found) == wanted
    assert len(wanted) > 1000


SCALARS = [at for at, value in leaves(RAW).items() if all(isinstance(key, str) for key in at) and value is not None]


def override_of(at: tuple[str, ...], value: Any) -> str:
    """Dotted; where a level begins with a digit, which DVC's grammar has no dotted keys for, as a mapping."""
    text = f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    if not any(key[0].isdigit() for key in at):
        return f"{'.'.join(at)}={text}"
    for key in reversed(at[1:]):
        text = f"{{{key}: {text}}}"
    return f"{at[0]}={text}"


def test_scalars_by_overrides_of_dvc(tmp_path):
    """A dozen from all over the file in one round trip, each of which changes alone."""
    wanted = {at: another(RAW_LEAVES[at]) for at in SCALARS[:: len(SCALARS) // 12]}
    path = overridden(tmp_path, *(override_of(at, value) for at, value in wanted.items()))
    found, problems = parse(path.read_text(encoding="utf-8"))
    assert problems == []
    assert leaves(found) == RAW_LEAVES | wanted


RAW_LEAVES = leaves(RAW)


def differences(old: Any, new: Any, where: str = "") -> set[str]:
    """Dotted paths of what differs in two resolved trees."""
    if is_dataclass(old) and is_dataclass(new):
        old, new = ({f.name: getattr(x, f.name) for f in fields(x)} for x in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return {at for key in keys for at in differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)}
    return set() if old == new else {where}


CHANGED = {
    "scale=20m": {"scale"},
    "study=field": {"study"},
    "scales={1570m: {sizes: {lolm: {d_model: 1024}}}}": {"scales.1570m.sizes.lolm.d_model"},
    "scales={1570m: {sizes: {lolm: {learning_rate: 1e-5}}}}": {"scales.1570m.sizes.lolm.learning_rate"},
    "scales.smoke.sizes.lolm.d_model=48": {"scales.smoke.sizes.lolm.d_model"},
    "scales.mini.training.steps=5000": {"scales.mini.training.steps"},
    "analysis.confidence=0.9": {"analysis.confidence"},
    "studies.main.seeds=[4,5]": {"studies.main.seeds"},
    "architectures.lolm_bias_zero.gate.bias=0.25": {"architectures.lolm_bias_zero.gate.bias"},
    "architectures.lolm_sum.label='x, y'": {"architectures.lolm_sum.label"},
    "scales.tiny.sizes.lolm.d_model=160": {  # and in the scales that take it over
        f"scales.{scale}.sizes.lolm.d_model" for scale in ("tiny", "budget_tiny", "context")
    },
    "scales.tiny.training.log_every=20": {
        f"scales.{scale}.training.log_every" for scale in ("tiny", "nano", "micro", "mini", "context")
    },
}


@pytest.mark.parametrize("overrides", [("scale=smoke",), tuple(CHANGED)], ids=["one", "a dozen at once"])
def test_overrides_change_what_they_say_and_what_takes_it_over(tmp_path, overrides):
    """No two of them change the same, so that what a dozen change is told apart."""
    try:
        params = load_params(overridden(tmp_path, *overrides))
    except ConfigError as error:  # 160 wide with 4 heads is fine, so nothing here may clash
        raise AssertionError(overrides) from error
    changed = [CHANGED.get(override, {"scale"}) for override in overrides]
    assert sum(map(len, changed)) == len(set().union(*changed))
    assert differences(PARAMS, params) == set().union(*changed)


def test_after_an_override_the_file_can_be_overridden_again(tmp_path):
    path = overridden(tmp_path, "scale=smoke", "scales.smoke.sizes.lolm.d_model=48", "study=gates")
    apply_overrides(path, ["scale=tiny", "scales.smoke.sizes.lolm.d_model=32", "study=main"])
    assert load_params(path) == PARAMS


def extended(scale: str) -> list[str]:
    """A scale, the one it extends, and so on."""
    names = [scale]
    while parent := RAW["scales"][names[-1]].get("extends"):
        names.append(parent)
    return names


def test_every_scalar_takes_part_in_what_is_resolved():
    """A value of the file that nothing reads would be one that an override changes in vain. Without the other scales, which are
    resolved on their own, and what is made at them."""
    scales, studies = RAW["scales"], RAW["studies"]
    few = RAW | {"scales": {name: scales[name] for name in extended("mini")}, "budgets": {}}
    few["studies"] = {name: study for name, study in studies.items() if "scale" not in study}
    packed, before, dead = pickle.dumps(few), params_from(few), []
    for at in SCALARS:
        if at[-1] in ("extends", "source") or at[-1] in ("name", "match", "like") or isinstance(RAW_LEAVES[at], bool | str):
            continue  # another name or kind is another file, or none
        if at[0] not in ("analysis", "scales") or at[1] not in ("tiny", "confidence", "mini"):
            continue
        raw = pickle.loads(packed)
        node = raw
        for key in at[:-1]:
            node = node[key]
        value = RAW_LEAVES[at]
        node[at[-1]] = 2 * value if isinstance(value, int) else value * 0.9
        try:
            if differences(before, params_from(raw)) == set():
                dead.append(at)
        except ConfigError:
            continue  # it is read: the new value clashes
    assert dead == []
