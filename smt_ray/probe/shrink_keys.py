"""The names of sizes in transformers' configs, by what they measure."""

from __future__ import annotations

from typing import Any

LAYERS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
    "num_blocks", "depth",
)  # fmt: skip
HIDDEN = (
    "hidden_size", "d_model", "n_embd", "dim", "dim_model", "emb_dim", "word_embed_proj_dim",
    "embedding_size", "input_embedding_size", "output_embedding_size", "lru_width", "rnn_width",
    "n_embed", "attention_hidden_size", "embedding_dim", "out_hidden_size", "projection_dim",
    "embed_dim", "vision_output_dim", "proj_dim",
)  # fmt: skip
WIDE = (
    "intermediate_size", "ffn_dim", "n_inner", "d_ff", "dim_ff", "ffn_hidden_size",
    "moe_intermediate_size", "shared_expert_intermediate_size", "encoder_ffn_dim",
    "decoder_ffn_dim", "expert_ffn_hidden_size", "intermediate_size_mlp", "feed_forward_size",
    "moe_shared_expert_intermediate_size", "shared_intermediate_size", "block_ff_dim",
    "moe_shared_intermediate_size", "dense_intermediate_size", "intermediate_dim",
)  # fmt: skip
HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
    "decoder_attention_heads",
)  # fmt: skip
KEY_HEADS = (
    "num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads", "num_global_key_value_heads",
    "swa_num_key_value_heads",
)  # fmt: skip
HEAD_WIDTHS = (
    "head_dim", "kv_channels", "attention_head_dim", "global_head_dim", "swa_head_dim",
    "d_head", "linear_head_dim", "v_head_dim", "swa_v_head_dim", "qk_nope_head_dim",
    "index_head_dim",
)  # fmt: skip
EXPERTS = (
    "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts",
    "num_routed_experts", "n_experts",
)  # fmt: skip
CHOSEN_EXPERTS = (
    "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts",
    "moe_top_k", "num_selected_experts",
)  # fmt: skip
WINDOWS = (
    "sliding_window", "attention_window_size", "window_size", "attention_chunk_size",
    "attention_window", "local_attention", "sliding_window_size", "chunk_size",
    "mamba_chunk_size", "keep_window_size", "local_attention_window_len", "dense_len",
    "block_size", "floor_scale",
)  # fmt: skip
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
VOCABULARIES = ("vocab_size", "n_vocab", "vocab_size_per_layer_input", "text_vocab_size")
SMALL = {
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_head_dim": 24,
    "index_topk_blocks": 2, "index_block_size": 4,
    # One head of an indexer gives many keys the same score, zero, among which it must choose.
    "index_topk": 2, "index_n_heads": 1, "compressed_sparse_attention": 2,
    "heavily_compressed_attention": 4, "hidden_size_per_layer_input": 16,
    "linear_num_heads": 4, "rotary_dim": 8, "num_expert_group": 2,
    "n_group": 2, "topk_group": 1, "n_groups": 1, "mamba_n_groups": 1, "mamba_ngroups": 1,
    "mamba_d_state": 8, "ssm_state_size": 8, "state_size": 8, "mamba_dt_rank": 4,
    "time_step_rank": 4, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_num_heads": 8,
    "mamba_head_dim": 16, "mamba_headdim": 16, "mamba_d_ssm": 128,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "first_k_dense_replace": 1, "num_dense_layers": 1,
    "original_max_position_embeddings": 16,
}  # fmt: skip
DROPPED = (
    "transformers_version",
    "dtype",
    "torch_dtype",
    "quantization_config",
    "_name_or_path",
    "id2label",
    "label2id",
)
FAMILIES: dict[str, dict[str, Any]] = {
    "dots3_note_text": {"qk_nope_head_dim": 24},
    "hrm_text": {"num_layers_per_stack": 2, "num_hidden_layers": 16},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32},
    "zamba2": {"attention_hidden_size": 128, "attention_head_dim": 32},
}
"""Model type -> the values that its own rules ask for."""
