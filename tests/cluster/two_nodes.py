"""A program that is the driver of a cluster of two nodes, and prints JSON.

It starts the cluster, whose nodes do not have the driver's environment.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def main(folder: Path) -> None:
    """Prints the variables of a task on the other node, and the files that it does not see."""
    # The nodes must be started without the driver's variables.
    variables = json.loads(os.environ.pop("OF_THE_DRIVER"))
    asked = json.loads(os.environ.pop("ASKED"))
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    os.environ |= {**variables, "RAY_ADDRESS": cluster.address}
    from smt_ray.cluster import shared_places
    from smt_ray.cluster.session import ray_session

    with ray_session():
        (other,) = shared_places._other_nodes()
        there = NodeAffinitySchedulingStrategy(other, soft=False)
        look = ray.remote(num_cpus=0)(_environment).options(scheduling_strategy=there)
        found = ray.get(look.remote(asked))
        (folder / "shared").touch()
        shared_places._PATIENCE_S = 0.0
        files = {"storage": folder / "shared", "tracking.uri": folder / "not there"}
        missed = shared_places.find_missed([other], files)
        print(json.dumps({"environment": found, "missed": {k: len(v) for k, v in missed.items()}}))
    cluster.shutdown()


def _environment(names: list[str]) -> dict[str, Any]:
    return {name: os.environ.get(name) for name in names}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
