"""Wrong answers to read: a few of each task, without what all prompts of a task have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Prediction = Mapping[str, Any]
Predictions = Mapping[str, Sequence[Prediction]]
"""Task -> its predictions, as the evaluation keeps them."""

_MOST_CHARACTERS = 2000


def wrong_answers(
    tuned: Predictions, base: Predictions | None = None, most: int = 20
) -> dict[str, Any] | None:
    """What the template shows; None where nothing was evaluated.

    Of each task about as many, spread evenly over its rows.

    Args:
        tuned: The predictions whose wrong ones are shown.
        base: Those of the base model, to be put beside them.
        most: Answers shown at most.
    """
    if not any(tuned.values()):
        return None
    wrong = {task: [p for p in found if not p["correct"]] for task, found in tuned.items()}
    shares = fair_shares([len(found) for found in wrong.values()], most)
    return {
        "num_answers": sum(map(len, tuned.values())),
        "num_wrong": sum(map(len, wrong.values())),
        "num_unread": sum(p["extracted"] is None for found in wrong.values() for p in found),
        "num_shown": sum(shares),
        "tasks": [
            _task(task, tuned[task], spread(found, share), (base or {}).get(task, ()))
            for (task, found), share in zip(wrong.items(), shares, strict=True)
            if share
        ],
    }


def fair_shares(available: Sequence[int], most: int) -> list[int]:
    """How many of each to take so that there are ``most`` in all, as evenly as can be.

    >>> fair_shares([3, 100, 100], 20)
    [3, 9, 8]
    """
    shares = [0] * len(available)
    for _ in range(min(most, sum(available))):
        open_ = [i for i, number in enumerate(available) if shares[i] < number]
        shares[min(open_, key=shares.__getitem__)] += 1
    return shares


def spread(items: Sequence[Any], number: int) -> list[Any]:
    """``number`` of the items, evenly spaced.

    >>> spread("abcdef", 3)
    ['a', 'c', 'e']
    """
    return [items[i * len(items) // number] for i in range(number)]


def common_frame(prompts: Sequence[str]) -> tuple[str, str]:
    r"""The whole lines that all prompts begin with, and those that they end with.

    >>> common_frame(["Answer.\nQ: 1 + 1?\nA:", "Answer.\nQ: 2 + 2?\nA:"])
    ('Answer.\n', '\nA:')
    """
    if len(set(prompts)) < 2:
        return "", ""
    opening = _common_start(prompts)
    opening = opening[: opening.rfind("\n") + 1]
    rests = [prompt[len(opening) :][::-1] for prompt in prompts]
    ending = _common_start(rests)[::-1]
    return opening, ending[ending.find("\n") :] if "\n" in ending else ""


def _common_start(texts: Sequence[str]) -> str:
    # What the first and the last in order share, all between them share too.
    first, last = min(texts), max(texts)
    differ = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(differ, len(first))]


def shorten(text: str, most: int = _MOST_CHARACTERS) -> str:
    """The text, without its middle where it is long."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"


def _task(
    task: str, all_: Sequence[Prediction], shown: Sequence[Prediction], base: Sequence[Prediction]
) -> dict[str, Any]:
    opening, ending = common_frame([p["prompt"] for p in all_])
    before = {p["index"]: p for p in base}
    return {
        "name": task,
        "opening": opening,
        "ending": ending,
        "answers": [
            {
                "number": p["index"] + 1,
                "question": shorten(p["prompt"][len(opening) : len(p["prompt"]) - len(ending)]),
                "output": shorten(p["output"]),
                "extracted": p["extracted"],
                "expected": p["expected"],
                "base": before.get(p["index"]),
            }
            for p in shown
        ],
    }
