"""Claims about the parts of the results: rounds, ratios, bytes, and equal losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.configurations import Batching, make_configurations, select
from benchmarks.linear import make_layers
from benchmarks.measuring import Laps, interleave
from benchmarks.memory import SavedBytes, peak_bytes
from benchmarks.step_summary import REFERENCE, summarise
from benchmarks.warmup import bytes_moved
from smt_ray.config.model import ModelConfig
from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.models.inspect import find_eligible
from smt_ray.models.load import load_tokenizer
from smt_ray.probe.probe import probe_skeleton
from smt_ray.warmup.shard import reduce_module, stream_shard

CPU = torch.device("cpu")


def test_every_round_runs_every_case_and_every_second_one_in_reverse_order() -> None:
    order: list[tuple[str, int]] = []
    cases = {name: lambda n, name=name: order.append((name, n)) for name in "ab"}
    rounds = interleave(cases, 2)
    assert order == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert [list(found) for found in rounds] == [["a", "b"], ["a", "b"]]


def test_laps_add_up_stretches_of_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 4.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    laps = Laps(CPU)
    for phase in ("forward", "backward", "forward"):
        laps.lap(phase)
    assert laps.seconds() == {"forward": 2.5, "backward": 2.0}


def test_ratios_and_limits_use_the_measurements_next_to_each_step() -> None:
    def found(seconds: float, rate: float, ours: float = 9.9) -> dict[str, float]:
        phases = dict.fromkeys(("batching", "forward", "optimizer"), 0.0)
        measured = {"gemm_flops_per_second": rate, REFERENCE: ours}
        return {**phases, "backward": seconds, **measured}

    raw: dict[str, Any] = {
        "rounds": [
            {"lora padded": found(4.5, 10.0, ours=1.5), "smt packed": found(1.0, 10.0)},
            {"lora padded": found(8.0, 5.0, ours=2.0), "smt packed": found(2.0, 5.0)},
        ],
        "num_rows": [4, 4],
        "num_tokens": [40, 50],
        "needed_flops": {"lora padded": [20, 20], "smt packed": [10, 10]},
        "memory": {"lora padded": {}, "smt packed": {}},
    }
    summary = summarise(raw)
    expected = {"median": 3.5, "min": 3.0, "max": 4.0}
    assert summary["comparisons"]["as users run it today"] == {"lora": expected}
    smt = summary["configurations"]["smt packed"]
    assert smt["over_limit"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert smt["samples_per_second"] == {"median": 3.0, "min": 2.0, "max": 4.0}


def test_saved_bytes_count_distinct_storages_without_weights() -> None:
    frozen, trained = nn.Linear(8, 8, bias=False).requires_grad_(False), nn.Linear(8, 8, bias=False)
    x = torch.randn(5, 8, requires_grad=True)
    held = [frozen.weight, trained.weight]
    with SavedBytes(held) as nothing:
        y = frozen(x)
    assert nothing.total == 0
    with SavedBytes(held) as once:
        y, z = trained(x), trained(x)
    assert once.total == 5 * 8 * 4
    (y + z).sum().backward()
    assert trained.weight.grad is not None
    with SavedBytes(held) as dropped:
        trained(x).detach()
    assert dropped.total == 0


def test_peak_bytes_include_tensors_that_are_freed() -> None:
    assert peak_bytes(lambda: torch.zeros(100) + 1, CPU) == 2 * 100 * 4


@pytest.fixture
def batching(make_encoded: Callable[..., EncodedRows]) -> Batching:
    tokenizer = load_tokenizer(ModelConfig(builtin="tiny"))  # it is used only to pad
    return Batching(make_encoded(), tokenizer, num_rows=4, max_tokens=40)


def test_all_configurations_compute_the_same_loss(
    make_llama: Callable[..., Any],
    batching: Batching,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.configurations._PEFT_DROPOUT", 0.0)
    base = make_llama().requires_grad_(False)
    before = {name: p.clone() for name, p in base.named_parameters()}
    made = make_configurations(base, batching, select(base, batching, [[4, 5, 6]]))
    rows = [0, 1, 2, 3]  # one padded micro-batch, so its mean is that of the step
    ids = [batching.encoded.row(row).long() for row in rows]
    logits = [base(input_ids=one[None]).logits[0] for one in ids]
    first = [int(batching.encoded.targets(row, False)[0]) for row in rows]
    expected = F.cross_entropy(
        torch.cat([one[f - 1 : -1] for one, f in zip(logits, first, strict=True)]),
        torch.cat([one[f:] for one, f in zip(ids, first, strict=True)]),
    )
    for name, one in made.items():
        batches = one.batches(rows)
        loss = sum(one.loss(batch, len(batches)) for batch in batches)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5, msg=name)
    for one in made.values():
        one.step(rows)
    assert all(torch.equal(p, before[name]) for name, p in base.named_parameters())


def test_all_compared_layers_compute_the_same_product() -> None:
    from argparse import Namespace

    layers = make_layers((32, 48), (16,), Namespace(dtype="float32", seed=0), CPU)
    x = torch.randn(7, 48)
    expected = layers["frozen linear"](x)
    for name, layer in layers.items():
        if name != "trainable linear":
            torch.testing.assert_close(layer.eval()(x), expected, msg=name)


@pytest.mark.parametrize("reduction", ["gradient", "score"])
def test_bytes_moved_are_the_bytes_that_places_and_reductions_send(
    make_llama: Callable[..., Any], make_encoded: Callable[..., EncodedRows], reduction: str
) -> None:
    model, encoded = make_llama(), make_encoded()
    modules = find_eligible(model, ["q_proj", "v_proj"])
    shapes = {name: (m.out_features, m.in_features) for name, m in modules.items()}
    streams = [
        list(
            stream_shard(
                make_llama(), encoded, StepPlan(len(encoded), 4, 0), [shard],
                modules=["q_proj", "v_proj"], batching="padded", max_tokens=100,
                probe=probe_skeleton(model),
                train_on_inputs=False, device=CPU, with_weights=shard == 1,
                statistics_block_size=8 if reduction == "score" else None,
            )
        )
        for shard in range(2)
    ]  # fmt: skip
    totals = [one.plus(other) for one, other in zip(*streams, strict=True)]
    given = [*streams[0], *streams[1], *totals, *(reduce_module(total, 8) for total in totals)]
    found = sum(v.nbytes for part in given for v in vars(part).values() if hasattr(v, "nbytes"))
    assert found == bytes_moved(
        shapes, reduction=reduction, num_places=2, block_size=8, weight_bytes=4
    )
