r"""The warm-up through its real graph of Ray tasks, with several shards and both reductions.

    python -m benchmarks.warmup --json benchmarks/results/warmup.json
    python -m benchmarks.warmup configs/smollm2_135m_commonsense.yaml model.path=FOLDER \
        data.dir=LLM-Adapters --steps 8 --short-steps 2

A run is timed from the launch of its tasks to the stored table. The time includes starting
processes and importing, but not starting Ray and tokenising.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray

from benchmarks.measuring import (
    add_common_options,
    interleave,
    machine_facts,
    machine_line,
    markdown_table,
    set_up,
    spread,
    write_json,
)
from benchmarks.process_memory import ProcessMemory
from smt_ray.cluster.board import make_board
from smt_ray.cluster.nodes import cluster_nodes
from smt_ray.cluster.resources import plan_processes
from smt_ray.cluster.session import ray_session
from smt_ray.config.load import load_config
from smt_ray.config.run import RunConfig
from smt_ray.methods.blocks import check_blocks
from smt_ray.models.load import load_skeleton
from smt_ray.probe.probe import probe_skeleton
from smt_ray.smt.scores import SCORES, ScoreTable
from smt_ray.smt.selection import Selection, select_blocks
from smt_ray.stages.jobs import WarmupJob
from smt_ray.stages.plan import make_plan
from smt_ray.stages.tokens import make_tokens
from smt_ray.stages.warmup import num_places, run_graph, warmup_job

_FLOAT32, _FLOAT64 = 4, 8  # bytes
_WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Case:
    """One way to warm up."""

    reduction: str
    num_shards: int
    num_steps: int

    def __str__(self) -> str:
        shards = f"{self.num_shards} shard{'s' if self.num_shards > 1 else ''}"
        return f"{self.reduction}, {shards}, {self.num_steps} steps"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and writes the JSON; returns its ``summary``."""
    options = _parser().parse_args(arguments)
    device = set_up(options)
    machine = machine_facts(device)
    with tempfile.TemporaryDirectory() as storage:
        config = _config(options, storage)
        rounds, tables = _measure(config, options)
    selections = {case: _select(table, config) for case, table in tables.items()}
    summary = _summarise(rounds, selections, options)
    print(_report(summary, next(iter(selections.values())), options))
    print(f"\n{machine_line(machine)}")
    plain = [{str(case): values for case, values in found.items()} for found in rounds]
    write_json(options.json, "warmup", options, machine, {"summary": summary, "rounds": plain})
    return summary


def bytes_moved(
    shapes: Mapping[str, tuple[int, int]],
    *,
    reduction: str,
    num_places: int,
    block_size: int,
    weight_bytes: int,
) -> int:
    """The bytes that tasks send each other through Ray's object store, without headers.

    Args:
        shapes: The (O, I) of the eligible modules.
        reduction: ``gradient`` (each place sends fp32 sums, and the last one also the weights) or
            ``score`` (each place sends block statistics).
        num_places: The number of places, whose sums are added one after the other.
        block_size: The block size of the table.
        weight_bytes: The bytes of one element of the weights.
    """
    num_elements = sum(rows * columns for rows, columns in shapes.values())
    statistics = len(SCORES) * _FLOAT64 * num_elements // block_size**2  # of one task
    num_sums = 2 * num_places - 1  # what places send, and the totals from place to place
    if reduction == "score":
        return (num_sums + 1) * statistics
    num_weights = min(2, num_places)  # the last place's, and in the last total
    return (num_sums * _FLOAT32 + num_weights * weight_bytes) * num_elements + statistics


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warmup", description=__doc__)
    add_common_options(parser, rounds=2)
    parser.add_argument("config", nargs="*", help="CONFIG key=value ..., as for smt-ray run")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=100, help="warm-up steps; the paper has 100")
    parser.add_argument(
        "--short-steps", type=int, default=10, help="warm-up steps of the shorter case"
    )
    return parser


def _config(options: argparse.Namespace, storage: str) -> RunConfig:
    given = list(options.config)
    path = given.pop(0) if given and "=" not in given[0] else None
    use_gpu = str(options.device == "cuda").lower()
    return load_config(
        path,
        [
            *given, f"storage={storage}", f"seed={options.seed}", f"resources.use_gpu={use_gpu}",
            f"warmup.num_steps={options.steps}", "warmup.num_shards=1", "evaluation.tasks=[]",
            "evaluation.base_likelihood=false",
        ],
    )  # fmt: skip


def _cases(options: argparse.Namespace) -> list[Case]:
    """The cases; all selections are compared with that of the first case."""
    sharded = [
        Case(reduction, num_shards, options.steps)
        for reduction in ("gradient", "score")
        for num_shards in options.shards
    ]
    short = replace(sharded[0], num_steps=options.short_steps)
    return [*sharded, short]


def _measure(
    config: RunConfig, options: argparse.Namespace
) -> tuple[list[dict[Case, dict[str, float]]], dict[Case, ScoreTable]]:
    plan = make_plan(config)
    make_tokens(plan)
    skeleton = load_skeleton(plan.model)
    probe = probe_skeleton(skeleton)
    blocks = check_blocks(config, skeleton, probe)
    tables: dict[Case, ScoreTable] = {}
    with ray_session():
        resources = plan_processes(config.resources, 1, cluster_nodes(), "warmup.num_shards")
        job = warmup_job(plan, blocks, probe, resources)

        def run(case: Case, number: int) -> dict[str, float]:
            path = f"tables/{number}/{case}.safetensors"
            warmup = config.warmup.model_copy(update=vars(case))
            changed = config.model_copy(update={"warmup": warmup})
            found = _run(replace(job, config=changed, table=path))
            with plan.storage.local(path) as file:
                tables[case] = ScoreTable.load(file)
            return found | {
                "bytes_moved": bytes_moved(
                    blocks.shapes,
                    reduction=case.reduction,
                    num_places=num_places(replace(job, config=changed)),
                    block_size=blocks.table_block_size,
                    weight_bytes=_WEIGHT_BYTES[config.model.dtype],
                )
            }

        cases = {case: partial(run, case) for case in _cases(options)}
        return interleave(cases, options.rounds), tables


def _run(job: WarmupJob) -> dict[str, float]:
    board = make_board()
    ray.get(board.done.remote("nothing"))  # waits for its start
    with ProcessMemory() as memory:
        began = time.perf_counter()
        run_graph(job, board)
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "peak_bytes_of_a_shard": memory.largest("ray::compute_shards"),
        "peak_bytes_of_all": memory.peak,
    }


def _select(table: ScoreTable, config: RunConfig) -> Selection:
    return select_blocks(table, **config.selection.semantic())


def _summarise(
    rounds: list[dict[Case, dict[str, float]]],
    selections: Mapping[Case, Selection],
    options: argparse.Namespace,
) -> dict[str, Any]:
    reference = selections[_cases(options)[0]]
    return {
        str(case): {
            **{key: spread(found[case][key] for found in rounds) for key in rounds[0][case]},
            "overlap": overlap(reference, selection),
        }
        for case, selection in selections.items()
    }


def overlap(reference: Selection, other: Selection) -> float:
    """The share of a selection's blocks that another selection also has."""
    return len(_blocks(reference) & _blocks(other)) / reference.num_blocks


def _blocks(selection: Selection) -> set[tuple[str, int, int]]:
    return {
        (name, row, column)
        for name, module in selection.modules.items()
        for row, column in module.indices.tolist()
    }


def _report(summary: dict[str, Any], selection: Selection, options: argparse.Namespace) -> str:
    rows = [
        [
            case,
            f"{one['seconds']['median']:.1f} ({one['seconds']['min']:.1f} to"
            f" {one['seconds']['max']:.1f})",
            f"{one['peak_bytes_of_a_shard']['max'] / 1e6:.0f}",
            f"{one['peak_bytes_of_all']['max'] / 1e6:.0f}",
            f"{one['bytes_moved']['median'] / 1e6:.2f}",
            f"{one['overlap']:.1%}",
        ]
        for case, one in summary.items()
    ]
    title = (
        f"\n## warm-up: {options.rounds} rounds; {selection.num_blocks} blocks of"
        f" {selection.block_size} are chosen\n"
    )
    head = ["warm-up", "s (min to max)", "peak MB of a shard", "peak MB of all", "MB moved",
            f"same blocks as {next(iter(summary))}"]  # fmt: skip
    return f"{title}\n{markdown_table(head, rows)}"


if __name__ == "__main__":
    main()
