"""Claims about lm-evaluation-harness here: our workers find what the library finds by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smt_ray.config.model import ModelConfig
from smt_ray.data.rows import Prompt
from smt_ray.evaluation.batches import EXACT, Padding
from smt_ray.evaluation.harness import library
from smt_ray.evaluation.harness.requests import Answer, Requests
from smt_ray.evaluation.likelihood import candidate_log_likelihoods
from smt_ray.models.load import load_model, load_tokenizer

NO_PADDING = Padding(left=False, inside=False, right=False)


def load(file: Path) -> Any:
    return library.load_tasks([str(file)], library.catalogue([], published=False))


def reference(file: Path, model: Any, tokenizer: Any) -> Any:
    """The results of the library's own evaluation, in one process and one row at a time."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    return simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1),
        tasks=[str(file)],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=1000,
    )


def ask_workers(
    model: Any, tokenizer: Any, number: int, tokens: int, padding: Padding
) -> Callable[[Requests], list[Answer]]:
    def ask(asked: Requests) -> list[Answer]:
        shares = asked.shares(number)
        parts = [
            library.answer(model, tokenizer, asked.at(share), tokens, padding, lambda _: None)
            for share in shares
        ]
        return asked.joined(shares, parts)

    return ask


@pytest.mark.parametrize("form", ["choice", "text", "perplexity"])
@pytest.mark.parametrize(
    ("number", "tokens", "padding"), [(1, 4096, EXACT), (3, 64, EXACT), (2, 4096, NO_PADDING)]
)
def test_the_results_are_those_of_the_library(
    make_task: Any,
    model: Any,
    tokenizer: Any,
    form: str,
    number: int,
    tokens: int,
    padding: Padding,
) -> None:
    file = make_task(form)
    ask = ask_workers(model, tokenizer, number, tokens, padding)
    found = library.evaluate(load(file), ask, None)
    expected = reference(file, model, tokenizer)
    ours, theirs = found["results"][form], expected["results"][form]
    values = {key: value for key, value in theirs.items() if isinstance(value, int | float)}
    assert {key: ours[key] for key in values} == pytest.approx(values, rel=1e-5)
    assert ours.keys() == theirs.keys()
    # The library has no standard error for perplexities of words.
    assert any("_stderr," in key for key in values) == (form != "perplexity")
    for mine, own in zip(found["samples"][form], expected["samples"][form], strict=True):
        assert (mine["doc_id"], mine["target"]) == (own["doc_id"], own["target"])
        assert mine["arguments"] == own["arguments"]


@pytest.mark.parametrize(
    ("dtype", "quantization"), [("bfloat16", "none"), ("float32", "nf4"), ("float32", "int8")]
)
def test_a_model_keeps_its_dtype_and_its_quantised_weights(
    make_task: Any, dtype: str, quantization: str
) -> None:
    spec = ModelConfig.model_validate(
        {"builtin": "tiny", "dtype": dtype, "quantization": quantization}
    )
    model, tokenizer = load_model(spec), load_tokenizer(spec)
    before = {name: (p.dtype, p.detach().clone()) for name, p in model.named_parameters()}
    file = make_task()
    found = library.evaluate(load(file), ask_workers(model, tokenizer, 1, 1, EXACT), None)
    assert {name: p.dtype for name, p in model.named_parameters()} == {
        name: kind for name, (kind, _) in before.items()
    }
    assert all(torch.equal(p, before[name][1]) for name, p in model.named_parameters())
    expected = reference(file, model, tokenizer)
    # Batches of one row are those of the reference.
    assert found["results"]["choice"] == expected["results"]["choice"]


def test_a_second_evaluation_of_the_same_tasks_finds_the_same(
    make_task: Any, model: Any, tokenizer: Any
) -> None:
    loaded = load(make_task(more="num_fewshot: 2\nfewshot_split: test\n"))
    ask = ask_workers(model, tokenizer, 2, 4096, EXACT)
    first, second = (library.evaluate(loaded, ask, None) for _ in range(2))
    assert first["results"] == second["results"]
    assert first["n-shot"] == {"choice": 2}


def test_every_metric_has_its_standard_error_and_its_direction(
    make_task: Any, model: Any, tokenizer: Any
) -> None:
    ask = ask_workers(model, tokenizer, 1, 4096, EXACT)
    found = library.evaluate(load(make_task()), ask, 8)
    result = library.to_results(found)["choice"]
    assert (result.num_rows, result.num_fewshot) == (8, 0)
    values = found["results"]["choice"]
    for name in ("acc", "acc_norm"):
        metric = result.metric(name)
        assert metric is not None
        assert metric.value == values[f"{name},none"]
        assert metric.stderr == values[f"{name}_stderr,none"]
        assert metric.higher_is_better is True


def test_requests_of_one_context_stay_together_and_answers_return_in_order() -> None:
    asked = Requests("loglikelihood", [("a", "1"), ("a", "2"), ("b", "1"), ("a", "3"), ("c", "1")])
    shares = asked.shares(2)
    assert shares == [[0, 1, 3], [2, 4]]
    parts = [[f"answer {i}" for i in share] for share in shares]
    assert asked.joined(shares, parts) == [f"answer {i}" for i in range(5)]
    assert Requests("generate_until", [("a", {})]).shares(3) == [[0], [], []]


def test_a_stated_delimiter_gives_our_own_likelihoods_but_counts_the_newline(
    model: Any, tokenizer: Any
) -> None:
    """The boundary that the guide describes: a prompt's last newline belongs to the choice."""
    head, choices = "What is 2 plus 1?\nAnswer:", ["two", "three", "it is 4"]
    ours = candidate_log_likelihoods(
        model, tokenizer, [Prompt(f"{head}\n")], [choices], with_eos=False
    )[0]
    sums = [score * len(choice) for score, choice in zip(ours.scores, choices, strict=True)]
    requests = [(head, "\n"), *((head, f"\n{choice}") for choice in choices)]
    asked = Requests("loglikelihood", [*requests, (f"{head}\n", choices[0])])
    newline, *theirs = [
        value for value, _ in library.answer(model, tokenizer, asked, 4096, EXACT, lambda _: None)
    ]
    assert [value - newline for value in theirs[:3]] == pytest.approx(sums, rel=1e-4)
    assert theirs[3] == pytest.approx(theirs[0])  # an empty delimiter after the newline
