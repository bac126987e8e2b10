"""Times of products and of gathers, by arithmetic."""

from __future__ import annotations

import pytest

from smt_ray.errors import UserError
from smt_ray.planning.time.cluster import Cluster
from smt_ray.planning.time.gathering import Exchange
from smt_ray.planning.time.gpus import find_gpu_type

H100 = find_gpu_type("H100-80GB")
WEIGHTS = 141 * 10**9  # 70.5 billion parameters in bfloat16


def test_products_take_the_stated_peak_times_the_assumed_share() -> None:
    cluster = Cluster(H100, 1, mfu=0.5)
    assert cluster.compute_seconds(989e12, 0, "bfloat16") == pytest.approx(2)
    assert cluster.compute_seconds(67e12, 0, "float32") == pytest.approx(2)
    # Few tokens: the weights are read from memory at 3.35 TB/s.
    assert cluster.compute_seconds(1e9, 3.35e12, "bfloat16") == pytest.approx(1)


def test_a_gather_of_all_nodes_takes_as_long_as_the_network_of_a_node() -> None:
    """56 of the 64 parts come from other nodes, over 400 Gbit/s."""
    assert Cluster(H100, 64).gather_seconds(WEIGHTS) == pytest.approx(141 * 7 / 8 / 50)
    assert Cluster(H100, 64, network_gbps=3200).gather_seconds(WEIGHTS) == pytest.approx(
        max(141 * 7 / 8 / 400, 141 * 63 / 64 / 450)
    )


def test_a_gather_within_a_node_needs_no_network() -> None:
    expected = 141 * 7 / 8 / 450
    assert Cluster(H100, 8).gather_seconds(WEIGHTS) == pytest.approx(expected)
    assert Cluster(H100, 64).gather_seconds(WEIGHTS, 8) == pytest.approx(expected)
    assert Cluster(H100, 1).gather_seconds(WEIGHTS) == 0


def test_a_second_copy_serves_all_gathers_of_frozen_weights() -> None:
    cluster = Cluster(H100, 64)
    plain = Exchange(3, WEIGHTS, 0, 2, checkpointing=False)
    near = Exchange(3, WEIGHTS, 0, 2, checkpointing=False, group=8)
    assert plain.num_gathers == 4
    assert plain.gather_seconds(cluster) == pytest.approx(4 * 141 * 7 / 8 / 50)
    assert near.gather_seconds(cluster) == pytest.approx(4 * 141 * 7 / 8 / 450)
    assert plain.gathered_bytes(cluster) == pytest.approx(4 * WEIGHTS * 63 / 64)
    assert near.gathered_bytes(cluster) == pytest.approx(4 * WEIGHTS * 7 / 8)


def test_trained_weights_are_gathered_from_all_ranks_after_each_update() -> None:
    cluster = Cluster(H100, 64)
    near = Exchange(3, 0, WEIGHTS, 2, checkpointing=False, group=8)
    expected = 141 * 7 / 8 / 50 + 3 * 141 * 7 / 8 / 450
    assert near.gather_seconds(cluster) == pytest.approx(expected)
    assert near.gathered_bytes(cluster) == pytest.approx(WEIGHTS * (63 / 64 + 3 * 7 / 8))


def test_recomputation_gathers_once_more_and_lower_stages_never() -> None:
    assert Exchange(3, WEIGHTS, 0, 1, checkpointing=True).num_gathers == 3
    assert Exchange(2, WEIGHTS, 0, 1, checkpointing=True).gathered_bytes(Cluster(H100, 64)) == 0


def test_an_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"--gpu-type: must be one of .*h100-80gb"):
        find_gpu_type("h300")
