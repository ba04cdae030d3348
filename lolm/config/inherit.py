"""``extends:`` of arms, scales, studies, surfaces and recipes, and the names that stand for them, resolved on plain mappings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lolm.config.faulty import FAULTY
from lolm.config.strict import Problem, join, nearest

SECTIONS = ("recipes", "surfaces", "architectures", "scales", "studies", "external")  # whose entries may extend one another
NAMED = {"recipe": "recipes", "surface": "surfaces"}  # of an arm: a name of the section stands for its entry


def merged(base: Any, own: Any) -> Any:
    """``own`` over ``base``: mappings key by key, all else replaced. Neither is changed."""
    if not isinstance(base, Mapping) or not isinstance(own, Mapping):
        return base if base is FAULTY and isinstance(own, Mapping) else own
    return {**base, **{key: merged(base[key], value) if key in base else value for key, value in own.items()}}


def resolve(raw: Any) -> tuple[Any, dict[str, str], list[Problem]]:
    """The tree without ``extends``, every entry whole; arms' ``size`` moved to the section ``sizes``.

    Returns:
        The tree; the key that each entry that extends one, or names one, has its settings from (``scales.nano``:
        ``scales.tiny``); what is wrong.
    """
    problems: list[Problem] = []
    parents: dict[str, str] = {}
    if not isinstance(raw, dict):
        return raw, parents, problems
    tree = dict(raw)
    for section in SECTIONS:
        if not isinstance(entries := tree.get(section), dict):
            continue
        extended = {name: entry["extends"] for name, entry in entries.items() if isinstance(entry, dict) and "extends" in entry}
        parents |= {join(section, name): join(section, parent) for name, parent in extended.items()}
        if section == "architectures":
            entries = {name: _with_names(arm, tree, join(section, name), parents, problems) for name, arm in entries.items()}
        tree[section] = {name: _whole(name, section, entries, problems) for name in entries}
    _move_sizes(tree, parents)
    return tree, parents, problems


def _whole(name: str, section: str, entries: dict[str, Any], problems: list[Problem]) -> Any:
    """An entry over those that it extends, the nearest last."""
    chain = [name]
    while isinstance(entry := entries[chain[-1]], dict) and "extends" in entry:
        parent, where = entry["extends"], join(section, f"{chain[-1]}.extends")
        if not isinstance(parent, str) or parent not in entries:
            if len(chain) == 1:
                problems.append(Problem(where, f"no {parent!r} under '{section}'{nearest(parent, entries)}"))
            break
        if parent in chain:
            if parent == name:
                problems.append(Problem(join(section, f"{name}.extends"), f"goes in a circle: {' → '.join([*chain, parent])}"))
            break
        chain.append(parent)
    whole: Any = {}
    for link in reversed(chain):
        entry = entries[link]
        if not isinstance(entry, dict):
            return entry if link == name else whole
        own = {key: value for key, value in entry.items() if key != "extends"}
        if section == "architectures" and link != name:
            own.pop("size", None)  # an arm has the size of the one it extends, rather than its way to a size
            own.pop("label", None)  # by which pages tell arms apart
        whole = _layered(whole, own, section)
    return {"label": name} | whole if section == "architectures" and len(chain) > 1 else whole


def _layered(whole: dict[str, Any], own: dict[str, Any], section: str) -> dict[str, Any]:
    replaced = {key for key in NAMED if section == "architectures" and isinstance(own.get(key), _Entry)}
    return merged({key: value for key, value in whole.items() if key not in replaced}, own)


class _Entry(dict):
    """What a name stood for: it replaces what an arm extends as a whole."""


def _with_names(arm: Any, tree: dict[str, Any], where: str, parents: dict[str, str], problems: list[Problem]) -> Any:
    if not isinstance(arm, dict):
        return arm
    found = dict(arm)
    for key, section in NAMED.items():
        if not isinstance(name := arm.get(key), str):
            continue
        entries = tree.get(section)
        if not isinstance(entries, dict) or name not in entries:
            problems.append(
                Problem(
                    join(where, key),
                    f"no {name!r} under '{section}'{nearest(name, entries if isinstance(entries, dict) else ())}",
                )
            )
        elif isinstance(entries[name], dict):
            found[key] = _Entry(entries[name])
            parents[join(where, key)] = join(section, name)
    return found


def _move_sizes(tree: dict[str, Any], parents: dict[str, str]) -> None:
    """``architectures.<arm>.size`` to ``sizes.<arm>``; what it does not say, ``like`` and ``rate_of``, is the arm it extends."""
    arms, sizes = tree.get("architectures"), tree.get("sizes", {})
    if not isinstance(arms, dict) or not isinstance(sizes, dict):
        return
    moved = dict(sizes)
    for name, arm in arms.items():
        if not isinstance(arm, dict):
            continue
        size = arm.pop("size", {})
        parent = parents.get(join("architectures", name), "").removeprefix("architectures.")
        if isinstance(size, dict):
            size = ({"like": parent, "rate_of": parent} if parent else {}) | size
        if size != {}:
            moved[name] = size
    tree["sizes"] = moved


def told(problems: Iterable[Problem], parents: Mapping[str, str], silent: Iterable[str]) -> list[Problem]:
    """Each mistake once, where it was made: not at the entries that inherit it, nor below keys that are wrong already."""
    found, hidden = [], tuple(silent)
    every = set(problems := list(dict.fromkeys(problems)))
    wrong = {problem.key for problem in problems}
    for problem in problems:
        if any(problem.key == key or problem.key.startswith((f"{key}.", f"{key}[")) for key in hidden):
            continue
        inherited = _inherited(problem.key, parents)
        if any(Problem(key, problem.text) in every for key in inherited):
            continue
        if problem.text == "missing key" and any(key in wrong for place in inherited for key in _above(place)):
            continue  # it would come from what is no mapping there
        found.append(problem)
    return found


def _inherited(key: str, parents: Mapping[str, str]) -> list[str]:
    """Where an entry has the setting at ``key`` from, if it does not say it itself: of its parent, of that one's parent …"""
    places = [key]
    for place in places:
        own = (entry for entry in parents if place == entry or place.startswith(f"{entry}."))
        places += [more for entry in own if (more := parents[entry] + place[len(entry) :]) not in places]
    return places[1:]


def _above(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
