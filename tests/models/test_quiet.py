"""Claims about loading models without the libraries' noise."""

from __future__ import annotations

import logging

import pytest

from smt_ray.builtin import MODEL_DIR
from smt_ray.config.model import ModelConfig
from smt_ray.models.load import load_model
from smt_ray.models.quiet import quiet


def test_no_bar_and_no_warning_is_shown_where_there_is_no_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from transformers import modeling_gguf_pytorch_utils as gguf

    def work() -> None:
        load_model(ModelConfig(path=str(MODEL_DIR)))
        for _ in gguf.tqdm(range(3), desc="dequantising"):
            logging.getLogger("DeepSpeed").warning("no GPU")

    with quiet():
        work()
    assert capfd.readouterr() == ("", "")
    work()
    said = capfd.readouterr().err
    assert "Loading weights" in said
    assert "dequantising" in said
