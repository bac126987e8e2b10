r"""The time to check a grid of many points over many training rows.

    python -m benchmarks.planning --json benchmarks/results/planning.json

The rows are made up and about as long as those of commonsense_170k. Each case runs in its own
process, so that it reads the rows itself. It is timed from drawing the points to the end of the
check that a search makes before it starts Ray.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    ROOT,
    add_common_options,
    interleave,
    machine_facts,
    machine_line,
    markdown_table,
    set_up,
    spread,
    write_json,
)

NUM_ROWS = 170_420
"""The number of training rows in commonsense_170k."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and writes the JSON; returns its ``summary``."""
    options = _parser().parse_args(arguments)
    if options.folder is not None:
        print(json.dumps(check(options.folder, options.points[0])))
        return {}
    machine = machine_facts(set_up(options))
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows.json", options.rows, options.seed)
        cases = {number: partial(_in_a_process, folder, number) for number in options.points}
        rounds = interleave(cases, options.rounds)
    summary = summarise(rounds)
    print(_report(summary, options))
    print(f"\n{machine_line(machine)}")
    plain = [{str(number): values for number, values in found.items()} for found in rounds]
    write_json(options.json, "planning", options, machine, {"summary": summary, "rounds": plain})
    return summary


def write_rows(path: Path, num_rows: int, seed: int) -> None:
    """Writes rows in LLM-Adapters' format, with prompts of about 90 words and one beginning."""
    draw = random.Random(seed)
    words = [f"word{number}" for number in range(5000)]
    rows = [
        {
            "instruction": "Please choose the correct answer to the question: "
            + " ".join(draw.choices(words, k=draw.randint(40, 140))),
            "input": "",
            "output": f"the correct answer is answer{draw.randint(1, 4)}",
            "answer": "answer1",
        }
        for _ in range(num_rows)
    ]
    path.write_text(json.dumps(rows))


def summarise(rounds: Sequence[dict[int, dict[str, float]]]) -> dict[str, Any]:
    """Medians and ranges by grid; ``over_first`` are ratios of seconds within one round."""
    first, *_ = rounds[0]
    return {
        str(number): {
            **{key: spread(found[number][key] for found in rounds) for key in rounds[0][number]},
            "over_first": spread(
                found[number]["seconds"] / found[first]["seconds"] for found in rounds
            ),
        }
        for number in rounds[0]
    }


def check(folder: str, num_points: int) -> dict[str, float]:
    """Draws the points of a search and checks their runs; returns seconds and peak memory."""
    import resource

    from smt_ray.config.load import validate_section
    from smt_ray.config.search import SearchConfig
    from smt_ray.grid.runs import check_grid
    from smt_ray.models.load import import_transformers
    from smt_ray.search.space import draw_points

    import_transformers()
    config = validate_section(
        SearchConfig,
        {
            "name": "planned",
            "run": {
                "storage": str(Path(folder) / "storage"),
                "model": {"builtin": "tiny"},
                "data": {"train": [str(Path(folder) / "rows.json")], "validation_rows": 120},
                "training": {"validate_every_steps": 100},
            },
            "space": {
                "selection.budget": {"uniform": [0.01, 0.15]},
                "training.learning_rate": {"loguniform": [1e-5, 1e-2]},
            },
            "num_samples": num_points,
        },
    )
    began = time.perf_counter()
    runs = [config.make_run(point) for point in draw_points(config)]
    check_grid(runs)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "num_points": len(runs), "peak_bytes": peak}


def _in_a_process(folder: str, num_points: int, _round: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.planning", "--folder", folder]
    answer = subprocess.run(
        [*command, "--points", str(num_points)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    add_common_options(parser, rounds=3)
    parser.add_argument("--points", type=int, nargs="+", default=[1, 8, 200])
    parser.add_argument("--rows", type=int, default=NUM_ROWS, help="number of training rows")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # given to the process of a case
    return parser


def _report(summary: dict[str, Any], options: argparse.Namespace) -> str:
    rows = [
        [
            number,
            f"{one['seconds']['median']:.1f} ({one['seconds']['min']:.1f} to"
            f" {one['seconds']['max']:.1f})",
            f"{one['over_first']['median']:.2f}",
            f"{one['peak_bytes']['max'] / 1e6:.0f}",
        ]
        for number, one in summary.items()
    ]
    title = f"\n## Checking a grid over {options.rows:,} rows: {options.rounds} rounds\n"
    header = ["points", "s (min to max)", "over the first", "peak MB"]
    return f"{title}\n{markdown_table(header, rows)}"


if __name__ == "__main__":
    main()
