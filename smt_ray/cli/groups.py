"""Commands of many runs: ``compare`` and ``tune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from smt_ray.cli.arguments import ComparisonFile, RunOverrides, SearchFile, announced_imports


def compare(config: ComparisonFile, overrides: RunOverrides = None) -> None:
    """Run a grid of methods, budgets and seeds, and write its tables.

    Finished runs are reused. If runs fail, the others continue and everything is written; the exit
    code is 1, and the same command tries the failed runs again.
    """
    from smt_ray.config.comparison import load_comparison

    resolved = load_comparison(config, list(overrides or []))
    with announced_imports(f"comparison {resolved.name}"):
        from smt_ray.comparison.flow import compare as run_comparison
        from smt_ray.comparison.record import failure_text
    from smt_ray.reporting.text.comparison import to_markdown

    results = run_comparison(resolved)
    print(to_markdown(results))
    if failures := failure_text(resolved, results):
        print(f"error: {failures}", file=sys.stderr)
        raise typer.Exit(1)


def tune(
    config: SearchFile,
    overrides: RunOverrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A new folder for the winner as a plain model.")
    ] = None,
) -> None:
    """Search settings by validation loss, and evaluate the winner.

    An interrupted search resumes.
    """
    from smt_ray.config.search import load_search

    resolved = load_search(config, list(overrides or []))
    with announced_imports(f"search {resolved.name}"):
        from smt_ray.search.flow import search
    from smt_ray.reporting.text.run import print_table
    from smt_ray.reporting.text.search import print_trials

    results = search(resolved, out)
    print_trials(results.trials)
    print_table(results.winner)
    print(results.best_yaml, end="")
