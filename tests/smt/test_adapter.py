from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.smt.adapter import load_adapter, save_adapter
from smt_ray.smt.base_identity import config_sha256
from smt_ray.smt.model import apply_selection, merge_and_unload, sparse_modules, unload


@pytest.fixture
def adapter(
    make_toy: Callable, choose: Callable, train: Callable, tokens: Tensor, tmp_path: Path
) -> tuple[nn.Module, Path]:
    """A tuned toy and the directory of its adapter."""
    model = make_toy()
    train(apply_selection(model, choose(model)), tokens)
    return model, save_adapter(model, tmp_path / "adapter")


def blocks(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.blocks for name, layer in sparse_modules(model).items()}


def test_an_adapter_only_holds_the_blocks_and_their_indices(
    adapter: tuple[nn.Module, Path],
) -> None:
    model, directory = adapter
    assert {p.name for p in directory.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    tensors = load_file(directory / "adapter_model.safetensors")
    assert len(tensors) == 2 * len(sparse_modules(model))
    for name, layer in sparse_modules(model).items():
        stored = f"base_model.model.{name}.smt_delta"  # as peft names them
        assert torch.equal(tensors[f"{stored}.blocks"], layer.blocks)
        assert tensors[f"{stored}.indices"].dtype == torch.int32
        assert torch.equal(tensors[f"{stored}.indices"], layer.indices)
    config = json.loads((directory / "adapter_config.json").read_text())
    assert config["block_size"] == 4
    assert sum(len(module["blocks"]) for module in config["modules"].values()) == 9
    assert (config["selection"]["score"], config["selection"]["scope"]) == ("random", "global")
    first = config["modules"]["layers.0.q_proj"]
    assert first["shape"] == [16, 16]
    assert first["blocks"] == [
        row * 4 + col
        for row, col in model.get_submodule("layers.0.q_proj").layout.dense_indices.tolist()
    ]


def test_a_loaded_adapter_computes_the_same_as_the_tuned_model(
    adapter: tuple[nn.Module, Path], make_toy: Callable, tokens: Tensor
) -> None:
    tuned, directory = adapter
    loaded = load_adapter(make_toy(), directory)
    assert torch.equal(loaded(tokens), tuned(tokens))
    assert not any(p.requires_grad for p in loaded.parameters())
    merged, reference = merge_and_unload(loaded).state_dict(), merge_and_unload(tuned).state_dict()
    assert all(torch.equal(merged[name], reference[name]) for name in reference)


def test_saving_a_loaded_adapter_writes_the_same_files(
    adapter: tuple[nn.Module, Path], make_toy: Callable, tmp_path: Path
) -> None:
    _, directory = adapter
    again = save_adapter(load_adapter(make_toy(), directory), tmp_path / "again")
    for file in directory.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_training_can_continue_from_the_loaded_blocks(
    adapter: tuple[nn.Module, Path], make_toy: Callable, train: Callable, tokens: Tensor
) -> None:
    tuned, directory = adapter
    loaded = load_adapter(make_toy(), directory, trainable=True)
    assert train(loaded, tokens) == train(tuned, tokens)
    # The base is still known: a new adapter loads on it, and unloading restores it.
    save_adapter(loaded, directory)
    load_adapter(make_toy(), directory)
    base = make_toy().state_dict()
    assert all(torch.equal(t, base[n]) for n, t in unload(loaded).state_dict().items())


def test_loading_replaces_the_adapter_of_a_model(
    adapter: tuple[nn.Module, Path],
    make_toy: Callable,
    choose: Callable,
    train: Callable,
    tokens: Tensor,
    tmp_path: Path,
) -> None:
    first, directory = adapter
    other = make_toy()
    train(apply_selection(other, choose(other, num_blocks=5, seed=1)), tokens)
    second = save_adapter(other, tmp_path / "second")
    model = load_adapter(make_toy(), directory)
    assert torch.equal(load_adapter(model, second)(tokens), other(tokens))
    assert torch.equal(load_adapter(model, directory)(tokens), first(tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_base_is_recognised_in_float32_and_bfloat16(
    make_toy: Callable, choose: Callable, tmp_path: Path, dtype: torch.dtype
) -> None:
    def base(dtype: torch.dtype) -> nn.Module:
        return make_toy().bfloat16().to(dtype)  # a checkpoint kept in bfloat16

    other = torch.bfloat16 if dtype == torch.float32 else torch.float32
    model = base(dtype)
    apply_selection(model, choose(model))
    loaded = load_adapter(base(other), save_adapter(model, tmp_path))
    assert all(b.dtype == torch.float32 for b in blocks(loaded).values())
    assert all(m.weight.dtype == other for m in sparse_modules(loaded).values())


def test_an_adapter_of_another_base_is_an_error(
    adapter: tuple[nn.Module, Path], make_toy: Callable
) -> None:
    _, directory = adapter
    with pytest.raises(UserError, match="weight at the adapter's blocks differs; got 'Toy'"):
        load_adapter(make_toy(seed=1), directory)
    with pytest.raises(UserError, match=r"weight of layers.0.q_proj differs"):
        load_adapter(nn.Linear(4, 4), directory)
    assert sparse_modules(load_adapter(make_toy(seed=1), directory, check_base=False))


def test_a_base_with_another_config_is_an_error(
    make_toy: Callable, choose: Callable, tmp_path: Path
) -> None:
    def base(rope_theta: float) -> nn.Module:
        model = make_toy()
        model.config = SimpleNamespace(rope_theta=rope_theta, _name_or_path="some/base")
        return model

    model = base(1e4)
    directory = save_adapter(apply_selection(model, choose(model)), tmp_path)
    load_adapter(base(1e4), directory)
    with pytest.raises(UserError, match=r"config differs; got 'some/base'.*load some/base"):
        load_adapter(base(1e6), directory)


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "rms_norm_eps": 1e-6,
    "sliding_window": None,
}


def sha256_with(**changes: object) -> str | None:
    return config_sha256(SimpleNamespace(**{**LLAMA, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"transformers_version": "9", "dtype": "bfloat16", "_attn_implementation": "sdpa"},
        {"architectures": ["X"], "pad_token_id": 3, "use_cache": False},
        {"a_default_of_the_next_release": 7},
        {"attention_bias": False, "tie_word_embeddings": None},
    ],
    ids=["how it is loaded", "how it is used", "a new key", "a default written down"],
)
def test_keys_that_change_no_architecture_do_not_change_the_hash(
    changes: dict[str, object],
) -> None:
    assert sha256_with(**changes) == sha256_with() is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mistral"},
        {"num_attention_heads": 8},
        {"num_key_value_heads": 4},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rms_norm_eps": 1e-5},
        {"tie_word_embeddings": True},
        {"attention_bias": True},
        {"sliding_window": 128},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_keys_that_change_the_architecture_change_the_hash(
    changes: dict[str, object],
) -> None:
    assert sha256_with(**changes) != sha256_with()


def test_a_config_without_known_keys_has_no_hash() -> None:
    assert config_sha256(None) is None
    assert config_sha256(SimpleNamespace(learning_rate=1.0)) is None


def test_a_saved_transformers_config_has_the_same_hash_and_rope_theta_changes_it(
    tmp_path: Path,
) -> None:
    from transformers import AutoConfig, LlamaConfig

    config = LlamaConfig(hidden_size=64, num_attention_heads=4)
    config.save_pretrained(tmp_path)
    assert config_sha256(AutoConfig.from_pretrained(tmp_path)) == config_sha256(config)
    far = {"rope_type": "default", "rope_theta": 5e5}
    changed = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=far)
    assert config_sha256(changed) != config_sha256(config)


def test_a_config_with_other_names_has_a_hash_of_its_heads_and_sizes() -> None:
    from transformers import GPT2Config

    assert config_sha256(GPT2Config(n_head=8)) != config_sha256(GPT2Config(n_head=12))
    assert config_sha256(GPT2Config(n_embd=96)) != config_sha256(GPT2Config(n_embd=48))


def test_truncated_or_edited_files_are_errors_that_name_the_file(
    adapter: tuple[nn.Module, Path], make_toy: Callable
) -> None:
    _, directory = adapter
    config, tensors = directory / "adapter_config.json", directory / "adapter_model.safetensors"
    whole_config, whole_tensors = config.read_bytes(), tensors.read_bytes()

    def edited(**changes: object) -> bytes:
        return json.dumps(json.loads(whole_config) | changes).encode()

    moved = json.loads(whole_config)["modules"]
    moved["layers.0.q_proj"]["blocks"][-1] += 1
    damages = [
        (config, whole_config[:-20]),
        (config, b"[]"),
        (config, b"{}"),
        (config, edited(block_size=8)),
        (config, edited(format_version=2)),
        (config, edited(peft_type="LORA")),
        (config, edited(modules={"layers.0.q_proj": {"shape": [16, 16], "blocks": [0]}})),
        (config, edited(modules=["layers.0.q_proj"])),
        (config, edited(modules=moved)),
        (tensors, whole_tensors[:-16]),
        (tensors, whole_tensors[:-1] + bytes([whole_tensors[-1] ^ 1])),
        (tensors, b""),
    ]
    for file, content in damages:
        file.write_bytes(content)
        with pytest.raises(UserError, match=file.name):
            load_adapter(make_toy(), directory)
        config.write_bytes(whole_config)
        tensors.write_bytes(whole_tensors)
    for file in (config, tensors):
        file.rename(directory / "away")
        with pytest.raises(UserError, match=f"{file.name}.*no such file"):
            load_adapter(make_toy(), directory)
        (directory / "away").rename(file)
    load_adapter(make_toy(), directory)


def test_a_safetensors_file_of_another_kind_is_an_error(
    adapter: tuple[nn.Module, Path], make_toy: Callable
) -> None:
    _, directory = adapter
    save_file({"x": torch.zeros(1)}, directory / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter_model.safetensors: must hold the blocks"):
        load_adapter(make_toy(), directory)


def test_a_model_without_sparse_layers_has_no_adapter(make_toy: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must have sparse layers"):
        save_adapter(make_toy(), tmp_path)


TUNE_A_LLAMA = """
import sys
BLOCKED = ("ray", "deepspeed", "mlflow", "peft")
sys.modules.update(dict.fromkeys(BLOCKED))  # None: an import fails, and nothing finds them
import torch
from smt_ray.smt.adapter import load_adapter, save_adapter
from smt_ray.smt.gradients import GradientAccumulator
from smt_ray.smt.model import apply_selection, merge_and_unload
from smt_ray.smt.scores import ScoreTable, block_statistics
from smt_ray.smt.selection import select_blocks
assert "transformers" not in sys.modules
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2)
torch.manual_seed(0)
model = LlamaForCausalLM(config)
model.save_pretrained(sys.argv[1] + "/base")
tokens = torch.randint(64, (2, 9))
linears = {n: m for n, m in model.named_modules() if n.endswith(("q_proj", "k_proj", "v_proj"))}
with GradientAccumulator(model, linears) as accumulator:
    model(tokens, labels=tokens).loss.backward()
statistics = {n: block_statistics(accumulator.pop(n), linears[n].weight, 4) for n in linears}
table = ScoreTable(4, statistics, model.num_parameters(), 1)
apply_selection(model, select_blocks(table, budget=0.05, block_size=8))
model.gradient_checkpointing_enable()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-2, fused=True)
losses = []
for _ in range(4):
    loss = model(tokens, labels=tokens).loss
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
directory = save_adapter(model.eval(), sys.argv[1] + "/adapter")
again = load_adapter(LlamaForCausalLM.from_pretrained(sys.argv[1] + "/base"), directory).eval()
with torch.no_grad():
    reference = model(tokens).logits
    assert torch.equal(again(tokens).logits, reference)
    assert torch.equal(merge_and_unload(again)(tokens).logits, reference)
assert all(sys.modules[name] is None for name in BLOCKED)
print("done")
"""


def test_a_transformers_llama_is_tuned_without_ray_deepspeed_mlflow_and_peft(
    tmp_path: Path,
) -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", TUNE_A_LLAMA, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("done")
