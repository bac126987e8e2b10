"""The modules that names stand for: targets, and groups with their own budgets (paper table 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from smt_ray.errors import UserError

_GROUPS = "selection.groups"

# The names of the two halves of a layer in model families.
_SYNONYMS = {
    "attention": ("self_attn", "attn", "attention", "self_attention"),
    "mlp": ("mlp", "feed_forward", "ffn"),
}


def match_modules(
    names: Iterable[str],
    target_modules: Sequence[str],
    *,
    field: str = "target_modules",
    fix: str | None = None,
) -> list[str]:
    """The module names that targets stand for.

    Args:
        names: The names of modules.
        target_modules: The targets: names, or last parts of names (``q_proj``, ``mlp.up_proj``).
        field: The name of the field in an error.
        fix: The fix in an error; by default it proposes all names.

    Raises:
        UserError: A target matches nothing.
    """
    names = list(names)
    chosen: set[str] = set()
    for target in target_modules:
        matched = {name for name in names if name == target or name.endswith(f".{target}")}
        if not matched:
            raise UserError(
                field,
                "must each match at least one module",
                got=target,
                fix=propose_modules(names) if fix is None else fix,
            )
        chosen |= matched
    return [name for name in names if name in chosen]


def choose_modules(
    names: Iterable[str],
    target_modules: Sequence[str] | None,
    layers: Sequence[int] | None,
    *,
    section: str = "",
) -> list[str]:
    """The modules that targets and a range of layers leave; None for no restriction.

    Args:
        names: The names of modules.
        target_modules: See :func:`match_modules`.
        layers: See :func:`modules_in_layers`.
        section: The section of a config that holds both, for an error.
    """
    names, place = list(names), f"{section}." if section else ""
    if target_modules is not None:
        names = match_modules(names, target_modules, field=f"{place}target_modules")
    if layers is not None:
        names = modules_in_layers(names, layers, field=f"{place}layers")
    return names


def modules_in_layers(
    names: Iterable[str], layers: Sequence[int], *, field: str = "layers"
) -> list[str]:
    """The modules within a range of the model's layers.

    The number of a module's layer is the first number in its name: 3 for
    ``model.layers.3.self_attn.q_proj``.

    Args:
        names: The names of modules.
        layers: The first and the last layer, counted from 0.
        field: The name of the field in an error.

    Raises:
        UserError: The range is empty, or a layer of it has no such module.
    """
    numbers = {
        name: next((int(p) for p in name.split(".") if p.isdecimal()), None) for name in names
    }
    first, last = layers
    known = sorted({number for number in numbers.values() if number is not None})
    if not 0 <= first <= last or not {first, last} <= set(known):
        there = f"{known[0]} to {known[-1]}" if known else "none"
        raise UserError(
            field,
            "must be the first and the last of a range of layers that have target modules",
            got=[first, last],
            fix=f"these layers have some: {there}",
        )
    return [name for name, number in numbers.items() if number in range(first, last + 1)]


def propose_modules(names: Iterable[str]) -> str:
    """The fix in an error about target modules: the last parts of all names."""
    known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in names))
    return f"use module names or their last parts; there are {known or 'none'}"


def match_groups(names: Iterable[str], groups: Iterable[str]) -> dict[str, list[str]]:
    """The modules of each group.

    Args:
        names: The names of eligible modules, in the model's order.
        groups: The groups: parts of module names (``self_attn``, ``v_proj``), or ``attention`` and
            ``mlp``, which stand for their names in the usual model families.

    Raises:
        UserError: A group has no module, or two groups share one.
    """
    names, found = list(names), {}
    taken: dict[str, str] = {}
    for group in groups:
        parts = {group, *_SYNONYMS.get(group, ())}
        found[group] = [name for name in names if parts & set(name.split("."))]
        if not found[group]:
            raise UserError(
                _GROUPS,
                "must each have at least one module that may be chosen from",
                got=group,
                fix="name a part of module names such as self_attn or v_proj, and add its modules"
                " to warmup.target_modules",
            )
        for name in found[group]:
            if name in taken:
                raise UserError(
                    _GROUPS,
                    f"must not share a module; {name} is in {taken[name]} and {group}",
                    got=group,
                )
            taken[name] = group
    return found
