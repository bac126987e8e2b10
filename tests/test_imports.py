"""Claims about the imports of large libraries, each in its own process; Ray is not started."""

from __future__ import annotations

import subprocess
import sys

_PRELUDE = "import gc; from smt_ray.imports import large_imports\n"


def in_a_new_process(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + program], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_later_collections_skip_imported_objects_and_find_new_garbage() -> None:
    program = """
with large_imports():
    assert not gc.isenabled()
    import fractions
assert gc.isenabled() and gc.get_freeze_count() > 0
cycle = []
cycle.append(cycle)
del cycle
print(gc.collect())
"""
    assert int(in_a_new_process(program)) >= 1


def test_nothing_is_frozen_if_everything_is_already_imported() -> None:
    """A process that runs another task may then hold objects that must still be collected."""
    program = """
import fractions
with large_imports():
    import fractions
print(gc.isenabled(), gc.get_freeze_count())
"""
    assert in_a_new_process(program).split() == ["True", "0"]


def test_a_failed_import_leaves_the_collector_on() -> None:
    program = """
try:
    with large_imports():
        import no_such_library
except ImportError:
    print(gc.isenabled())
"""
    assert in_a_new_process(program).split() == ["True"]
