"""Claims about packed attention on a GPU, whatever kernel is chosen there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from smt_ray.builtin.suites import generate_rows
from smt_ray.config.model import ModelConfig
from smt_ray.data.batches import step_micro_batches
from smt_ray.data.encoding.rows import Encoding, encode_rows
from smt_ray.data.rows import Row
from smt_ray.models.load import load_model, load_tokenizer
from smt_ray.training.loss.supervised import SupervisedLoss

pytestmark = pytest.mark.gpu
NUM_ROWS = 24


def gradient(model: nn.Module, mode: str, device: torch.device) -> tuple[float, torch.Tensor]:
    """The loss of some rows and the gradient of all parameters, in float32 on the CPU."""
    rows = [Row(**record) for record in generate_rows("tiny_commonsense", "train")[:NUM_ROWS]]
    encoded, _ = encode_rows(load_tokenizer(ModelConfig(builtin="tiny")), rows, Encoding(128))
    loss, total = SupervisedLoss(model, narrow=True), 0.0
    for batch in step_micro_batches(
        encoded, range(NUM_ROWS), mode=mode, max_tokens=512, train_on_inputs=False
    ):
        value = loss(batch.to(device))
        value.backward()
        total += value.item()
    found = [p.grad.float().cpu().flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return total, torch.cat(found)


@pytest.mark.parametrize("mode", ["packed", "prefix_packed", "padded"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_a_batch_has_the_loss_and_gradient_of_padded_rows_on_the_cpu(
    device: torch.device, mode: str, dtype: str, tolerance: float
) -> None:
    reference = load_model(ModelConfig(builtin="tiny")).train()
    expected_loss, expected = gradient(reference, "padded", torch.device("cpu"))
    model = load_model(ModelConfig(builtin="tiny", dtype=dtype), device).train()
    loss, found = gradient(model, mode, device)
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    assert float((found - expected).norm() / expected.norm()) < tolerance
