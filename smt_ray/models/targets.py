"""The linears that ``target_modules: auto`` stands for, by the names that families give them."""

from __future__ import annotations

from collections.abc import Iterable

from smt_ray.errors import UserError
from smt_ray.smt.modules import propose_modules

_ATTENTION = (
    "q_proj", "k_proj", "v_proj",
    "qkv_proj", "query_key_value", "Wqkv", "c_attn", "q_attn", "W_pack", "qkv",  # in one linear
    "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "kv_proj",  # of low rank (MLA)
    "query", "key", "value", "query_proj", "key_proj", "value_proj",
    "q_lin", "k_lin", "v_lin", "Wq", "Wk", "Wv", "project_q", "project_k", "project_v",
    "q", "k", "v", "receptance",
)  # fmt: skip
"""The inputs of attention: queries, keys and values, which the paper chooses blocks from."""
_WITHOUT_ATTENTION = ("in_proj", "x_proj")  # the inputs of state-space layers
_MLP = (
    "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "fc_in", "fc_out", "c_fc",
    "dense_h_to_4h", "dense_4h_to_h", "lin1", "lin2", "w1", "w2", "w3", "ffn_up", "ffn_down",
)  # fmt: skip
"""The linears of MLPs, as far as the published baselines adapt them: not the gate's own."""


def attention_inputs(names: Iterable[str], *, field: str) -> list[str]:
    """The last parts of the names of the linears that feed attention.

    Models without attention have their state-space layers' input projections.

    Args:
        names: The names of the linears that may be trained.
        field: The config key whose value is auto, for the error.

    Raises:
        UserError: No name is known.
    """
    names = list(names)
    last = {name.rpartition(".")[2] for name in names}
    for known in (_ATTENTION, _WITHOUT_ATTENTION):
        if found := [name for name in known if name in last]:
            return found
    raise UserError(
        field,
        "must be set, because auto knows none of the model's linears",
        got="auto",
        fix=propose_modules(names),
    )


def mlp_linears(names: Iterable[str]) -> list[str]:
    """The last parts of the names of the linears in MLPs; none if their names are not known."""
    last = {name.rpartition(".")[2] for name in names}
    return [name for name in _MLP if name in last]
