"""A program for test_nodes.py that connects to the cluster of RAY_ADDRESS and prints JSON.

The autoscaler of the cluster has started no worker yet.
"""

from __future__ import annotations

import json

from smt_ray.cluster.nodes import cluster_nodes, nodes_for
from smt_ray.cluster.resources import ProcessResources, count_places
from smt_ray.cluster.session import ray_session
from smt_ray.config.load import load_config

CPUS = 2
ASKING = [
    "resources.num_workers=2",
    f"resources.cpus_per_worker={CPUS}",
    "resources.use_gpu=false",
    "resources.autoscale_timeout_s=120",
]


def places() -> int:
    """The number of ranks that fit the cluster."""
    return count_places(cluster_nodes(), ProcessResources(CPUS, 0, None))


def main() -> dict[str, int]:
    """The number of ranks that fit without and with a request for nodes."""
    found = {}
    with ray_session():
        found["before"] = places()
    with ray_session(), nodes_for([load_config(None, ASKING)]):
        found["within"] = places()
    return found


if __name__ == "__main__":
    print(json.dumps(main()))
