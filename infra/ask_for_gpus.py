"""Asks a cluster's autoscaler for workers with one GPU each, and waits until they are there.

Usage::

    ray job submit --working-dir . -- python infra/ask_for_gpus.py 4

They stay, idle or not, until the same is asked with 0. A run counts what the cluster has when it
starts, so this comes before it wherever workers come and go.
"""

import sys
import time

import ray
from ray.autoscaler.sdk import request_resources


def main() -> None:
    """Asks, and waits: the launch of a machine takes minutes."""
    wanted = int(sys.argv[1])
    ray.init()
    request_resources(bundles=[{"GPU": 1, "CPU": 1}] * wanted)
    while (there := int(ray.cluster_resources().get("GPU", 0))) < wanted:
        print(f"{there} of {wanted} GPUs", flush=True)
        time.sleep(15)
    print(f"{there} GPUs are there" if wanted else "no GPU is asked for any more")


if __name__ == "__main__":
    main()
