"""Claims about the paper's recipes: they are complete, published and comparable."""

from __future__ import annotations

from typing import Any

import pytest

from tests.configs.recipes import MODELS, RECIPES, SUITES, Recipe

# In percent, from the paper's Tables 2 and 5. If Table 5 has no budgets of a model, they are Table
# 2's lower one and 1.26.
BUDGETS = {
    ("llama_7b", "commonsense"): {0.84, 4.91},
    ("llama_13b", "commonsense"): {0.68, 4.91},
    ("llama2_7b", "commonsense"): {0.84, 4.91},
    ("llama3_8b", "commonsense"): {0.71, 3.01},
    ("llama_7b", "math"): {0.86, 1.26},
    ("llama_13b", "math"): {0.68, 1.26},
    ("llama2_7b", "math"): {0.84, 1.26},
    ("llama3_8b", "math"): {0.71, 1.26},
}
DORA_LEARNING_RATES = {"llama_7b": 1e-4, "llama_13b": 2e-4, "llama2_7b": 2e-4, "llama3_8b": 1e-4}
LEARNING_RATES = {"smt": 1e-4, "lora": 3e-4, "full": 9.65e-6}

# Cells with only published settings: LoRA's are in LLM-Adapters (LLaMA) and in DoRA (LLaMA2,
# LLaMA3), DoRA's in DoRA, SMT's in the paper and its code.
PUBLISHED = {
    ("smt", "commonsense"): set(MODELS),
    ("lora", "commonsense"): set(MODELS),
    ("dora", "commonsense"): {"llama_7b", "llama2_7b", "llama3_8b"},
    ("lora", "math"): {"llama_7b", "llama_13b"},
}

# Keys that may differ between methods; all other keys are the same.
OF_THE_METHOD = {
    "method", "warmup", "selection", "lora", "training.learning_rate", "deepspeed.zero_stage",
}  # fmt: skip
OF_THE_MODEL = {"model.path"}
OF_THE_SUITE = {
    "data.train", "data.validation_rows", "evaluation.tasks",
    "training.validate_every_steps", "training.checkpoint_every_steps",
}  # fmt: skip

parametrize = pytest.mark.parametrize("recipe", RECIPES, ids=str)


def without(recipe: Recipe, keys: set[str]) -> dict[str, Any]:
    """The whole config with its defaults as plain values, without its name and the given keys."""
    tree = recipe.config.model_dump(mode="json")
    for key in {"name", *keys}:
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node[section]
        del node[leaf]
    return tree


def test_every_cell_of_the_papers_tables_has_a_recipe() -> None:
    expected = {
        (model, suite, method, budget)
        for model in MODELS
        for suite in SUITES
        for method, budget in [
            ("lora", None), ("dora", None), ("full", None),
            *(("smt", budget) for budget in BUDGETS[model, suite]),
        ]
    }  # fmt: skip
    assert {recipe.parts for recipe in RECIPES} == expected
    assert len(RECIPES) == len(expected)


@parametrize
def test_a_recipe_matches_its_name(recipe: Recipe) -> None:
    config = recipe.config
    assert config.method == recipe.method
    if recipe.budget is not None:
        assert config.selection.budget == pytest.approx(recipe.budget / 100)
    rows = {"commonsense": "commonsense_170k", "math": "math_10k"}[recipe.suite]
    assert config.data.train == [f"ft-training_set/{rows}.json"]


def test_recipes_differ_only_in_keys_of_method_model_and_suite() -> None:
    own = OF_THE_METHOD | OF_THE_MODEL | OF_THE_SUITE
    assert all(without(recipe, own) == without(RECIPES[0], own) for recipe in RECIPES)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suites_recipes_have_the_same_rows_batches_and_evaluation(suite: str) -> None:
    own = OF_THE_METHOD | OF_THE_MODEL
    first, *others = [without(recipe, own) for recipe in RECIPES if recipe.suite == suite]
    assert all(other == first for other in others)


@pytest.mark.parametrize("model", MODELS)
def test_recipes_of_a_model_start_from_the_same_weights(model: str) -> None:
    assert len({recipe.config.model.path for recipe in RECIPES if recipe.model == model}) == 1


def test_recipes_of_a_method_differ_only_in_their_size() -> None:
    smt = [recipe.config for recipe in RECIPES if recipe.method == "smt"]
    assert all(config.warmup == smt[0].warmup for config in smt)
    sizes = {"budget": 0.01}
    assert len({config.selection.model_copy(update=sizes).model_dump_json() for config in smt}) == 1

    factors = [recipe.config.lora for recipe in RECIPES if recipe.method in ("lora", "dora")]
    assert all(lora.alpha == 2 * (lora.rank or 0) for lora in factors)
    sizes = {"rank": 1, "alpha": 2}
    assert len({lora.model_copy(update=sizes).model_dump_json() for lora in factors}) == 1


def test_shared_settings_are_the_published_ones() -> None:
    config = RECIPES[0].config
    training, data = config.training, config.data
    assert (training.batch_size, training.num_epochs, data.max_length) == (16, 3, 256)
    assert (training.lr_schedule, training.lr_warmup_steps) == ("linear", 100)
    assert (training.max_grad_norm, training.weight_decay) == (1.0, 0.0)
    assert training.adam_betas == (0.9, 0.999)
    assert (config.model.dtype, data.prompt, data.overlong) == ("bfloat16", "legacy", "truncate")
    assert not data.train_on_inputs
    evaluation = config.evaluation
    assert (evaluation.num_beams, evaluation.repetition_penalty) == (4, 1.1)
    assert (evaluation.max_new_tokens, evaluation.lower_case) == (256, True)
    assert evaluation.max_rows is None


@parametrize
def test_a_recipe_has_the_published_settings_of_its_method(recipe: Recipe) -> None:
    config = recipe.config
    expected = {**LEARNING_RATES, "dora": DORA_LEARNING_RATES[recipe.model]}[recipe.method]
    assert config.training.learning_rate == expected
    assert config.data.validation_rows == {"commonsense": 120, "math": 0}[recipe.suite]
    if recipe.method == "smt":
        assert (config.warmup.num_steps, config.warmup.mode) == (100, "base")
        assert config.warmup.target_modules == ["q_proj", "k_proj", "v_proj"]
        assert (config.selection.block_size, config.selection.score) == (256, "mean_of_abs")
        assert config.selection.scope == "global"
    if recipe.method in ("lora", "dora"):
        # In Table 2, the best DoRA on LLaMA2-7B has half the rank.
        best = 16 if recipe.path.stem == "llama2_7b_commonsense_dora" else 32
        assert (config.lora.rank, config.lora.dropout) == (best, 0.05)
        modules = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
        assert config.lora.target_modules == modules


@parametrize
def test_a_recipe_marks_unpublished_values_as_ours(recipe: Recipe) -> None:
    published = recipe.model in PUBLISHED.get((recipe.method, recipe.suite), set())
    assert ("# ours: " in recipe.text) != published
