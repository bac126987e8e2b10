"""Groups of tests that stay together if several processes share the tests (``pytest -n 2``)."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

RAY_FILES = (
    "tests/benchmarks/test_warmup.py",
    "tests/comparison/test_flow.py",
    "tests/grid/test_side_by_side.py",
    "tests/run/test_chat.py",
    "tests/run/test_dry_run.py",
    "tests/run/test_lm_eval.py",
    "tests/run/export/test_logged_model.py",
    "tests/run/test_methods.py",
    "tests/run/test_mishaps.py",
    "tests/run/test_object_storage.py",
    "tests/run/test_own_rows.py",
    "tests/run/test_quantised.py",
    "tests/cluster/test_shared_places.py",
    "tests/run/test_security.py",
    "tests/run/test_survival.py",
    "tests/stages/test_rank_warmup.py",
    "tests/stages/test_trained_warmup.py",
    "tests/cluster/test_turns.py",
    "tests/stages/test_warmup.py",
    "tests/run/test_whole_run.py",
)
"""Their tests share one cluster and one whole run, so one process runs them all.

Tests that start their own Ray run in any free process.
"""


class Groups(LoadScopeScheduling):
    """Hands out files one by one in the order of collection; Ray's files count as one file."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # it would sort by the number of tests

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith("tests/faults/"):
            return "faults"  # they share an undisturbed run
        return "ray" if file in RAY_FILES else file


def longest_first(items: list[pytest.Item]) -> None:
    """Puts Ray's tests before the other slow ones, and these before the fast ones.

    Raises:
        pytest.UsageError: A slow test uses the cluster, but its file is not in ``RAY_FILES``.
    """
    for item in items:
        uses_ray = _is_slow(item) and "cluster" in getattr(item, "fixturenames", ())
        if uses_ray and _file(item) not in RAY_FILES:
            raise pytest.UsageError(f"{item.nodeid} uses the cluster: name its file in RAY_FILES")
    items.sort(key=lambda item: (_file(item) not in RAY_FILES, not _is_slow(item)))


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
