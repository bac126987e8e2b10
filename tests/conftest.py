"""Fixtures of many tests: a tiny Llama, random rows, and Ray on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from smt_ray.data.encoding.stored import EncodedRows
from tests.sharing import Groups, longest_first

pytest_plugins = ["tests.runs"]
# The examples are the same in every run, so a claim about any input fails for everyone or no one.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")

VOCABULARY = 100


def pytest_configure(config: pytest.Config) -> None:
    """Turns on interrupts, which a process that is started in the background may ignore.

    Its children would ignore them too, and tests interrupt some of these.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Schedules groups of tests if several processes share the tests."""
    return Groups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the longest groups first if several processes share the tests."""
    if hasattr(config, "workerinput"):
        longest_first(items)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray on this machine, with two CPUs for all tests that need it."""
    import ray

    from smt_ray.cluster.fork_server.session import starting_with
    from smt_ray.cluster.session import early_imports, worker_environment

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # By default, workers are niced and wait for the processes of other tests.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with early_imports() as program:
        with starting_with(program):
            ray.init(
                address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
                logging_level="warning", runtime_env={"env_vars": worker_environment()},
            )  # fmt: skip
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., Any]:
    """Builds the same random Llama every time: grouped queries, q 32 x 32, k and v 16 x 32."""

    def make(seed: int = 0, **changes: Any) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        values = {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.1,
            "tie_word_embeddings": True,
        }
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**values, **changes})).eval()

    return make


@pytest.fixture(scope="session")
def make_encoded() -> Callable[..., EncodedRows]:
    """Draws rows of 5 to 19 tokens. About half of each is its prompt; the last token id is unused.

    All rows begin with the same two tokens, which are the whole prompt of the shortest rows. Every
    second row also shares its third token, and every fourth row its fourth.
    """

    def make(num_rows: int = 37, seed: int = 1) -> EncodedRows:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(5, 20, (num_rows,), generator=generator)
        input_ids = torch.randint(
            VOCABULARY - 1, (int(lengths.sum()),), generator=generator, dtype=torch.int32
        )
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        input_ids[offsets[:-1]], input_ids[offsets[:-1] + 1] = 7, 8
        input_ids[offsets[:-1:2] + 2] = 9
        input_ids[offsets[:-1:4] + 3] = 10
        return EncodedRows(
            input_ids=input_ids,
            offsets=offsets,
            prompt_lengths=(lengths // 2).to(torch.int32),
            positions=torch.arange(num_rows, dtype=torch.int32),
        )

    return make


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of ``<task>/test.json`` files, which are not part of the repository."""
    root = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("SMT_RAY_DATA", root)) / "dataset"
    if not folder.is_dir():
        pytest.skip(f"needs the 14 published test files: no {folder} (set SMT_RAY_DATA)")
    return folder
