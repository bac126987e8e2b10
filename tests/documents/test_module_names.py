"""Claims about what the names of modules say."""

from __future__ import annotations

import pytest

from smt_ray.documents.module_names import parse_module_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.12.self_attn.v_proj", (12, "v_proj")),
        ("transformer.h.3.attn.c_attn", (3, "c_attn")),
        ("model.layers.7.mlp.experts.31.up_proj", (7, "up_proj")),
        ("layers.0.q_proj", (0, "q_proj")),
        ("3.q_proj", (3, "q_proj")),
        ("lm_head", (None, "lm_head")),
        ("model.block2.q_proj", (None, "q_proj")),
    ],
)
def test_the_first_number_is_the_layer_and_the_last_word_is_the_projection(
    name: str, expected: tuple[int | None, str]
) -> None:
    assert parse_module_name(name) == expected
