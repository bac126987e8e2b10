r"""The object store under a warm-up: the product's graph of sums, with made-up gradients.

    python -m benchmarks.warmup_graph --json benchmarks/results/warmup_graph.json

*chain* is the graph of the warm-up. *all at once* is what it was before: every shard puts the
gradients of all its modules into the object store, and each reduction takes those of one module.
Shards compute nothing, so that what remains is what the graph itself costs.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import ray
from ray._private.internal_api import node_stats

from benchmarks.measuring import (
    add_common_options,
    machine_facts,
    machine_line,
    markdown_table,
    set_up,
    write_json,
)
from smt_ray.cluster.resources import ProcessResources
from smt_ray.cluster.waiting import is_whole, reserved
from smt_ray.stages.chain import Adders, at, reduce_sums
from smt_ray.warmup.parts import ModuleStatistics, ShardPart

_LOOK_EVERY_S = 0.01


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and writes the JSON; returns its ``summary``."""
    options = _parser().parse_args(arguments)
    machine = machine_facts(set_up(options))
    place = ProcessResources(num_cpus=1, num_gpus=0, accelerator_type=None)
    summary: dict[str, Any] = {}
    ray.init(
        num_cpus=options.places,
        object_store_memory=options.store_mb * 10**6,
        include_dashboard=False,
        log_to_driver=False,
    )
    try:
        for num_shards in options.shards:
            for num_modules in options.modules:
                graphs = {"chain": _chain}
                if num_shards * num_modules <= options.most_parts:
                    graphs = {"all at once": _all_at_once, **graphs}
                for name, graph in graphs.items():
                    run = partial(graph, num_shards, num_modules, options, place)
                    found = _watched(run, options, num_modules)
                    summary[f"{name}, {num_shards} shards, {num_modules} modules"] = found
    finally:
        ray.shutdown()
    print(_report(summary, options))
    print(f"\n{machine_line(machine)}")
    write_json(options.json, "warmup_graph", options, machine, {"summary": summary})
    return summary


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warmup_graph", description=__doc__)
    add_common_options(parser, rounds=1)
    parser.add_argument("--shards", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--modules", type=int, nargs="+", default=[96, 640])
    parser.add_argument("--places", type=int, default=8, help="simulated CPUs, one for each place")
    parser.add_argument("--side", type=int, default=256, help="rows and columns of a gradient")
    parser.add_argument(
        "--most-parts", type=int, default=6144, help="of the graph that holds all parts at once"
    )
    parser.add_argument("--store-mb", type=int, default=100, help="the size of the object store")
    return parser


def _chain(
    num_shards: int, num_modules: int, options: argparse.Namespace, each: ProcessResources
) -> None:
    number = min(num_shards, options.places)
    with reserved("simulation", number, each, timeout_s=60) as places:
        shards = ray.remote(max_calls=1)(_place)
        streams = [
            shards.options(
                num_cpus=1, num_returns="streaming", _generator_backpressure_num_objects=1,
                **at(places, place),
            ).remote(len(range(place, num_shards, number)), num_modules, options.side)
            for place in range(number)
        ]  # fmt: skip
        adders = Adders(places, number, ShardPart.plus, _reduce, num_shards)
        rows = reduce_sums(streams, num_modules, adders, lambda: is_whole(places))
        ray.get(ray.remote(num_cpus=0)(_check).remote(num_shards, *rows))


def _place(num_shards: int, num_modules: int, side: int) -> Iterator[ShardPart]:
    """The sums of the shards of a place: ones for each shard."""
    for module in range(num_modules):
        yield ShardPart(str(module), np.full((side, side), num_shards, np.float32))


def _all_at_once(
    num_shards: int, num_modules: int, options: argparse.Namespace, _: ProcessResources
) -> None:
    shards = ray.remote(max_calls=1)(_place).options(num_cpus=1, num_returns=num_modules)
    parts = [shards.remote(1, num_modules, options.side) for _ in range(num_shards)]
    reduce = ray.remote(num_cpus=0)(_reduce_parts)
    rows = [reduce.remote(num_shards, *of_module) for of_module in zip(*parts, strict=True)]
    del parts
    ray.get(ray.remote(num_cpus=0)(_check).remote(num_shards, *rows))


def _reduce(num_shards: int, part: ShardPart) -> ModuleStatistics:
    assert part.gradient is not None
    assert (part.gradient == num_shards).all()
    return ModuleStatistics(part.module, part.gradient[:4, :4].astype(np.float64))


def _reduce_parts(num_shards: int, first: ShardPart, *others: ShardPart) -> ModuleStatistics:
    total = first
    for part in others:
        total = total.plus(part)
    return _reduce(num_shards, total)


def _check(num_shards: int, *rows: ModuleStatistics) -> None:
    assert [row.module for row in rows] == [str(number) for number in range(len(rows))]
    assert all((row.statistics == num_shards).all() for row in rows)


def _watched(
    run: Callable[[], None], options: argparse.Namespace, num_modules: int
) -> dict[str, float]:
    """Runs a graph; returns what it took and the most that the object store held."""
    part = 4 * options.side**2
    before, peaks, ended = _store(), [0.0], threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            peaks.append(_store().object_store_bytes_primary_copy)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    began = time.perf_counter()
    cpu_before = time.process_time()
    run()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_before
    ended.set()
    watcher.join()
    spilled = _store().spilled_bytes_total - before.spilled_bytes_total
    return {
        "seconds": seconds,
        "driver_cpu_seconds_per_module": cpu / num_modules,
        "peak_parts": max(peaks) / part,
        "peak_parts_of_a_place": max(peaks) / part / options.places,
        "spilled_bytes": float(spilled),
    }


def _store() -> Any:
    """The statistics of the object store of this machine."""
    node = ray.nodes()[0]
    found = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
    return found.store_stats


def _report(summary: dict[str, Any], options: argparse.Namespace) -> str:
    rows = [
        [
            case,
            f"{one['peak_parts']:.0f}",
            f"{one['peak_parts_of_a_place']:.1f}",
            f"{one['spilled_bytes'] / 1e6:.0f}",
            f"{one['seconds']:.1f}",
            f"{1000 * one['driver_cpu_seconds_per_module']:.1f}",
        ]
        for case, one in summary.items()
    ]
    part = 4 * options.side**2 / 1e6
    store = f"store of {options.store_mb} MB"
    title = f"\n## {options.places} places, parts of {part:.2f} MB, {store}\n"
    head = ["graph", "peak parts", "of a place", "spilled MB", "s", "driver ms a module"]
    return f"{title}\n{markdown_table(head, rows)}"


if __name__ == "__main__":
    main()
