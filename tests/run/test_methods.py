"""Claims about runs of other methods than smt, which differ in one config key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from smt_ray.artifacts.layout import PROMPT
from smt_ray.artifacts.storage import Storage
from smt_ray.builtin import MODEL_DIR
from smt_ray.config.method import LORA_TARGET_MODULES
from smt_ray.config.run import RunConfig
from smt_ray.documents.run import RunMetrics
from smt_ray.methods.adapters import find_method
from smt_ray.places.columns import column_scores
from smt_ray.places.kept import file_of, read_kept
from smt_ray.places.selection import PlaceSelection
from smt_ray.run.export.merge import merge_run
from smt_ray.smt.controls import magnitude_scores, random_scores
from smt_ray.smt.scores import ScoreTable, block_statistics
from smt_ray.smt.selection import Selection, select_by_scores

pytestmark = pytest.mark.slow

SHARED = ("tokens", "evaluation_base", "evaluation_base_likelihood")
SHORT = ("training.max_steps=10", "training.learning_rate=1e-3", "training.lr_warmup_steps=2")


def run_with(
    method: str, whole: Any, stages_of: Callable[[Sequence[str]], Path],
    quick: Callable[..., RunConfig], *overrides: str,
) -> tuple[RunMetrics, Path]:  # fmt: skip
    """Carries out a short run that reuses stages of the smt run; its metrics and its storage."""
    from smt_ray.run import flow

    storage = stages_of(SHARED)
    config = quick(storage, f"method={method}", f"name={method}", *SHORT, *overrides)
    metrics = flow.run(config)
    assert set(metrics.stages) == {*SHARED, "training", "evaluation_tuned"}
    for kind in SHARED:
        assert metrics.stages[kind].reused
        assert metrics.stages[kind].stage == whole.stage(kind).name
    assert metrics.training.num_steps == 10
    for task, results in metrics.tasks.items():
        assert results.base == whole.metrics.tasks[task].base
        assert 0 <= results.tuned.accuracy <= 1
    return metrics, storage


def check_merged(metrics: RunMetrics, storage: Path, out: Path) -> set[str]:
    """Checks that adapter and merged model predict the same; returns the adapter's files."""
    merge_run(Storage(str(storage)), metrics.name, out)
    adapter = storage / "stages" / metrics.stages["training"].stage / "adapter"
    model, ids = AutoModelForCausalLM.from_pretrained(MODEL_DIR), torch.arange(3, 43).view(2, 20)
    with torch.no_grad():
        before = model(ids).logits
        find_method(adapter).load(model, adapter)
        tuned = model(ids).logits
        alone = AutoModelForCausalLM.from_pretrained(out)(ids).logits
    assert float((tuned - before).abs().max()) > 1e-2
    torch.testing.assert_close(alone, tuned, rtol=0, atol=1e-4)
    return {file.name for file in adapter.iterdir()}


def blocks(selection: Selection) -> dict[str, list[list[int]]]:
    return {name: module.indices.tolist() for name, module in selection.modules.items()}


def test_lora_with_a_budget_runs_through_ray(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:  # fmt: skip
    budget = ("lora.budget=0.05", "deepspeed.zero_stage=3")
    metrics, storage = run_with("lora", whole, stages_of, quick, *budget)
    trainable, lora = metrics.trainable, metrics.method_settings
    assert (lora["rank"], lora["alpha"]) == (7, 14)
    assert trainable.percent_of_base == pytest.approx(5, abs=1)
    assert trainable.percent_of_total < trainable.percent_of_base
    assert trainable.num_base == whole.metrics.trainable.num_base
    files = check_merged(metrics, storage, tmp_path / "merged")
    assert files == {"adapter_config.json", "adapter_model.safetensors", "base_model.json", PROMPT}


def test_full_runs_through_ray(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:  # fmt: skip
    metrics, storage = run_with("full", whole, stages_of, quick, "resources.num_workers=1")
    trainable = metrics.trainable
    assert trainable.num_trainable == whole.metrics.trainable.num_base
    assert trainable.percent_of_base == trainable.percent_of_total == 100
    files = check_merged(metrics, storage, tmp_path / "merged")
    assert files == {"tuned_model.safetensors", "base_model.json", PROMPT}


def test_dora_runs_through_ray(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:  # fmt: skip
    from smt_ray.run import flow

    storage = stages_of(("tokens",))
    overrides = ("method=dora", "name=dora", *SHORT, "lora.rank=4", "deepspeed.zero_stage=2")
    metrics = flow.run(quick(storage, *overrides), "training")
    assert set(metrics.stages) == {"tokens", "training"}
    model: Any = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    shapes = [m.weight.shape for n, m in model.named_modules() if n.endswith(LORA_TARGET_MODULES)]
    expected = sum(4 * (o + i) + o for o, i in shapes)  # two factors and a magnitude
    assert metrics.trainable.num_trainable == expected
    files = check_merged(metrics, storage, tmp_path / "merged")
    assert files == {"adapter_config.json", "adapter_model.safetensors", "base_model.json", PROMPT}


def test_sift_trains_the_elements_with_the_largest_gradients_of_the_warm_up(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:  # fmt: skip
    from smt_ray.run import flow

    storage = stages_of(("tokens",))
    config = quick(
        storage, "method=sift", "name=sift", "sift.budget=0.02", "sift.scope=global", *SHORT
    )
    metrics = flow.run(config, "training")
    assert set(metrics.stages) == {"tokens", "warmup", "selection", "training"}
    warmup, selection = (
        storage / "stages" / metrics.stages[kind].stage for kind in ("warmup", "selection")
    )
    # The gradients are those whose blocks the table of the smt run has.
    table = ScoreTable.load(whole.stage("warmup") / "score_table.safetensors")
    gradients = {name: read_kept(warmup / "modules" / file_of(name)) for name in table.shapes}
    for name, gradient in gradients.items():
        weight = torch.zeros_like(gradient)
        found = block_statistics(gradient, weight, table.block_size)[:3]
        torch.testing.assert_close(found, table.statistics[name][:3], rtol=1e-4, atol=1e-9)
    everything = torch.cat([gradient.abs().flatten() for gradient in gradients.values()])
    count = round(0.02 * whole.metrics.trainable.num_base)
    cut = everything.sort(descending=True).values[count - 1]
    chosen = PlaceSelection.load(selection / "selection.safetensors")
    assert chosen.num_trainable == metrics.trainable.num_trainable == count
    for name, module in chosen.modules.items():
        assert float(gradients[name].abs().flatten()[module.places].min()) >= cut
    files = check_merged(metrics, storage, tmp_path / "merged")
    assert files == {"sift_adapter.safetensors", "base_model.json", PROMPT}


@pytest.mark.parametrize("score", ["mean_of_abs", "activation"])
def test_columns_are_chosen_by_what_the_warm_up_sums_of_each_column(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    tmp_path: Path, score: str,
) -> None:  # fmt: skip
    from smt_ray.run import flow

    storage = stages_of(("tokens",))
    selection = f"selection={{block_shape: column, budget: 0.05, score: {score}}}"
    metrics = flow.run(quick(storage, "name=columns", selection, *SHORT), "training")
    warmup, folder = (
        storage / "stages" / metrics.stages[kind].stage for kind in ("warmup", "selection")
    )
    chosen = PlaceSelection.load(folder / "selection.safetensors")
    assert chosen.kind == "column"
    assert chosen.num_trainable == metrics.trainable.num_trainable
    assert abs(chosen.budget - 0.05) < 0.001
    table = ScoreTable.load(whole.stage("warmup") / "score_table.safetensors")
    scores = {}
    for name, (out_features, _) in table.shapes.items():
        kept = read_kept(warmup / "modules" / file_of(name))
        scores[name] = (
            kept[0] if score == "activation" else column_scores(kept, out_features, score)
        )
        if score != "activation":  # the columns of the table's blocks have the same sums
            size, sums = table.block_size, table.statistics[name].sum(1)
            torch.testing.assert_close(kept.view(4, -1, size).sum(2), sums, rtol=1e-4, atol=1e-9)
    cut = min(float(scores[n][m.places].min()) for n, m in chosen.modules.items() if len(m.places))
    for name, module in chosen.modules.items():
        assert int((scores[name] >= cut).sum()) == len(module.places)
    files = check_merged(metrics, storage, tmp_path / "merged")
    assert files == {"column_adapter.safetensors", "base_model.json", PROMPT}


def test_the_random_control_trains_the_same_number_of_blocks_without_a_warm_up(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:  # fmt: skip
    from smt_ray.run import flow

    storage = stages_of(("tokens",))
    config = quick(
        storage, "name=random", "selection.score=random", "resources.num_workers=1", *SHORT
    )
    metrics = flow.run(config, "training")
    assert set(metrics.stages) == {"tokens", "selection", "training"}
    assert metrics.trainable == whole.metrics.trainable
    found, gradients = (
        Selection.load(folder / "selection.safetensors")
        for folder in (
            storage / "stages" / metrics.stages["selection"].stage, whole.stage("selection")
        )
    )  # fmt: skip
    shapes = {name: module.shape for name, module in gradients.modules.items()}
    expected = select_by_scores(
        random_scores(shapes, found.block_size, config.seed), block_size=found.block_size,
        score="random", num_blocks=gradients.num_blocks,
        num_base_parameters=gradients.num_base_parameters,
    )  # fmt: skip
    assert blocks(found) == blocks(expected)
    assert blocks(found) != blocks(gradients)
    check_merged(metrics, storage, tmp_path / "merged")


def test_a_control_selects_by_groups_without_a_warm_up(
    stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig]
) -> None:
    from smt_ray.run import flow

    storage, groups = stages_of(("tokens",)), {"attention": 0.02, "mlp": 0.01}
    overrides = (
        "name=control", "selection.score=magnitude", "selection.budget=null",
        "selection.groups={attention: 0.02, mlp: 0.01}",
        "warmup.target_modules=[q_proj, k_proj, v_proj, o_proj, up_proj]",
    )  # fmt: skip
    metrics = flow.run(quick(storage, *overrides), "selection")
    assert set(metrics.stages) == {"tokens", "selection"}
    place = storage / "stages" / metrics.stages["selection"].stage
    found = Selection.load(place / "selection.safetensors")
    model: Any = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    weights = {
        name: module.weight
        for name, module in model.named_modules()
        if name.endswith(("q_proj", "k_proj", "v_proj", "o_proj", "up_proj"))
    }
    expected = select_by_scores(
        magnitude_scores(weights, 16), block_size=16, score="magnitude", groups=groups,
        num_base_parameters=model.num_parameters(),
    )  # fmt: skip
    assert blocks(found) == blocks(expected)
    mlp = sum(n for name, n in found.counts().items() if ".mlp." in name)
    assert mlp * 256 / model.num_parameters() == pytest.approx(0.01, abs=2e-4)
    assert metrics.selection.projections.keys() >= {"up_proj"}
