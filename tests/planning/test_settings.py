"""The order in which settings are tried, and the reading of sizes."""

from __future__ import annotations

import pytest

from smt_ray.errors import UserError
from smt_ray.planning.settings import Setting, cheapest, parse_memory, settings_by_cost


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("24 GiB", 24 * 2**30),
        ("40GB", 40 * 10**9),
        ("80", 80 * 2**30),
        ("0.5gib", 2**29),
        ("512MiB", 512 * 2**20),
        (" 1TB ", 10**12),
    ],
)
def test_a_size_is_read_as_it_is_written(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "24GiBs", "-3", "0", "1.2.3", "24 G i B", "nan", "1e3"]
)
def test_a_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--gpu-memory: must be a size"):
        parse_memory(text)


def test_stages_come_before_smaller_micro_batches_and_both_before_checkpointing() -> None:
    order = list(settings_by_cost(1000, 300, num_gpus=4))
    assert order[0] == Setting(0, False, 1000, "device")
    assert order[1] == Setting(0, False, 1000, "host")
    sizes = [setting.max_tokens for setting in order[::6][:3]]
    assert sizes == [1000, 500, 300]
    assert [s.zero_stage for s in order[::2][:4]] == [0, 1, 2, 0]
    first_recomputed = next(s for s in order if s.checkpointing)
    assert first_recomputed == Setting(0, True, 1000, "device")
    first_gathered = next(s for s in order if s.zero_stage == 3)
    assert first_gathered == Setting(3, False, 1000, "device")
    assert order.index(first_recomputed) < order.index(first_gathered)
    assert len(set(order)) == len(order)


def test_one_gpu_partitions_nothing() -> None:
    assert {setting.zero_stage for setting in settings_by_cost(1000, 300, num_gpus=1)} == {0}


def test_checkpointing_is_not_tried_if_the_model_does_not_support_it() -> None:
    order = settings_by_cost(1000, 300, num_gpus=2, can_recompute=False)
    assert not any(setting.checkpointing for setting in order)


def test_the_first_setting_that_fits_is_chosen() -> None:
    order = list(settings_by_cost(1000, 300, num_gpus=2))
    needed = {setting: 1000 - place for place, setting in enumerate(order)}
    assert cheapest(order, needed.__getitem__, 990) == order[10]
    assert cheapest(order, needed.__getitem__, 10) is None
