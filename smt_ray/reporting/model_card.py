"""The model card of a merged model: a README with the metadata that the Hugging Face hub reads.

A card is read by others, so it names no folder of the machine that made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from smt_ray.documents.run import Dataset, Environment, RunMetrics
from smt_ray.reporting.text.lm_eval import LM_EVAL_LEGEND, lm_eval_cells
from smt_ray.reporting.text.losses import training_text
from smt_ray.reporting.text.run import LEGEND, accuracy_cells, facts
from smt_ray.reporting.text.tables import Cells, escape, markdown_table
from smt_ray.reporting.text.values import STARTS_FROM

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_METHODS = {
    "smt": "Sparse Matrix Tuning (SMT), which trains {shape} of the weights{choice}",
    "lora": "LoRA, whose low-rank products are merged into the weights",
    "dora": "DoRA, whose low-rank products and magnitudes are merged into the weights",
    "sift": "SIFT, which trains {shape} of the weights{choice}",
    "full": "full fine-tuning, which trains every weight",
}
_SHAPES = {"square": "blocks", "column": "input columns", "element": "single elements"}
_OF_ELEMENTS = {"sift"}
_CHOICES = {
    "random": " that were drawn at random",
    "magnitude": " with the largest weights",
    "lift": " with the largest weights in an approximation of low rank",
    "activation": " with the largest inputs in a short warm-up",
    "saliency": " with the largest products of weight and gradient in a short warm-up",
}
_BY_GRADIENT = " with the largest gradients in a short warm-up"
_TAGS = {"smt": "sparse-matrix-tuning"}
_LIBRARIES = ("smt-ray", "torch", "transformers", "peft", "deepspeed")
# Facts that are places on the machine, or that have a section of their own.
_LEFT_OUT = (
    "model", "rows", "run", "report", "adapter", "adapter's base", "mlflow", "mlflow run",
    STARTS_FROM,
)  # fmt: skip
_LOAD = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("{name}")
{prompt}
inputs = {inputs}
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""
_CHAT = 'messages = [{"role": "user", "content": "QUESTION"}]'
_CHAT_INPUTS = (
    "tokenizer.apply_chat_template(\n    messages, add_generation_prompt=True, return_dict=True,"
    ' return_tensors="pt"\n)'
)
_TEXT_INPUTS = 'tokenizer(prompt, return_tensors="pt")'


@dataclass(frozen=True)
class CardContents:
    """What a card shows.

    Attributes:
        title: The name of the model's folder.
        base: The base model, as its configuration names it.
        is_hub_base: Whether that is a name on the Hugging Face hub.
        prompt_form: The form of the prompts; None if it is not known.
        prompt: The prompt of the question ``QUESTION``, for other forms than chat.
        config: The complete configuration as plain values.
    """

    title: str
    base: str
    is_hub_base: bool
    metrics: RunMetrics
    config: Mapping[str, Any]
    datasets: Sequence[Dataset] = ()
    environment: Environment = field(default_factory=Environment)
    prompt_form: str | None = None
    prompt: str = ""


def model_card(contents: CardContents) -> str:
    """The text of README.md."""
    from huggingface_hub import ModelCard

    sections = [_head(contents), _use(contents), _results(contents.metrics), _making(contents)]
    text = "\n\n".join(section for section in sections if section)
    return str(ModelCard(f"---\n{_metadata(contents).to_yaml()}\n---\n\n{text}\n"))


def _metadata(contents: CardContents) -> ModelCardData:
    from huggingface_hub import ModelCardData

    method = contents.metrics.method
    tags = ["smt-ray", _TAGS.get(method or "", method)]
    hub = (dataset.source.removeprefix("hub:") for dataset in contents.datasets)
    datasets = sorted({name for name in hub if _is_hub_name(name)})
    results = _eval_results(contents.metrics)
    return ModelCardData(
        base_model=contents.base if contents.is_hub_base else None,
        base_model_relation="finetune" if contents.is_hub_base else None,
        datasets=datasets or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[tag for tag in tags if tag],
        model_name=contents.title if results else None,
        eval_results=results or None,
    )


def _is_hub_name(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _eval_results(metrics: RunMetrics) -> list[EvalResult]:
    """The figures of the tuned model, as the hub lists them."""
    from huggingface_hub import EvalResult

    found = [
        (task, "accuracy", "accuracy", results.tuned.accuracy)
        for task, results in metrics.tasks.items()
        if results.tuned
    ]
    for task, harness in metrics.lm_eval.items():
        for metric in harness.tuned.metrics if harness.tuned else ():
            if metric.value is not None:
                name = f"{metric.key} (lm-evaluation-harness)"
                found.append((task, metric.name, name, metric.value))
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=task,
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 6),
        )
        for task, kind, name, value in found
    ]


def _head(contents: CardContents) -> str:
    return (
        f"# {contents.title}\n\nThis model is {contents.base}, tuned by"
        f" {_method(contents.metrics)}. The tuned weights are merged into the model, so it is"
        " loaded and served like its base. The licences of the base model and of the data apply."
    )


def _method(metrics: RunMetrics) -> str:
    """The method in words: what was trained, and how it was chosen."""
    method, selection = metrics.method or "", metrics.selection
    if selection is None:  # training started from an adapter
        shape, choice = _SHAPES["element"] if method in _OF_ELEMENTS else "selected parts", ""
    else:
        shape = "the " + _SHAPES[selection.block_shape]
        choice = _CHOICES.get(selection.score or "", _BY_GRADIENT)
    return _METHODS.get(method, method).format(shape=shape, choice=choice)


def _use(contents: CardContents) -> str:
    form = contents.prompt_form
    if form == "chat":
        prompt, inputs = _CHAT, _CHAT_INPUTS
        words = "It was trained on conversations in the chat template of its tokenizer."
    else:
        prompt, inputs = f"prompt = {contents.prompt or 'QUESTION'!r}", _TEXT_INPUTS
        words = f"It was trained on prompts of the form `{form}`, as below." if form else ""
    code = _LOAD.format(name=contents.title, prompt=prompt, inputs=inputs)
    return "\n\n".join(filter(None, ["## Use", words, code]))


def _results(metrics: RunMetrics) -> str:
    parts = []
    if cells := accuracy_cells(metrics):
        parts += [markdown_table(cells), f"*{LEGEND}*"]
    if cells := lm_eval_cells(metrics):
        parts += [markdown_table(cells), f"*{LM_EVAL_LEGEND}*"]
    return "\n\n".join(["## Results", *parts]) if parts else ""


def _making(contents: CardContents) -> str:
    metrics, model = contents.metrics, contents.config["model"]
    number = metrics.model.num_parameters
    parameters = f", {number:,} parameters" if number else ""
    pairs = [
        ("base model", f"{contents.base}{parameters}, {model['dtype']}"),
        ("method", metrics.method or ""),
        ("budget", _budget(contents)),
        ("training", training_text(metrics, contents.config)),
        ("start", "an earlier adapter" if "init_adapter" in metrics.method_settings else ""),
        *((name, text) for name, text in facts(metrics) if name not in _LEFT_OUT),
        ("made with", _versions(contents.environment)),
    ]
    lines = "\n".join(f"- {name}: {escape(text)}" for name, text in pairs if text)
    parts = ["## How it was made", lines]
    if contents.datasets:
        parts += ["### Data", markdown_table(_data_cells(contents.datasets))]
    return "\n\n".join(parts)


def _budget(contents: CardContents) -> str:
    selection = contents.metrics.selection
    if selection is None:
        return ""
    section = "sift" if selection.block_shape == "element" else "selection"
    budget = contents.config[section]["budget"]
    return f"{budget:g} of the base model's parameters" if budget else ""


def _versions(environment: Environment) -> str:
    packages = environment.packages
    known = [f"{name} {packages[name]}" for name in _LIBRARIES if packages.get(name)]
    commit = f"commit {environment.commit}" if environment.commit else ""
    return ", ".join(filter(None, [*known, commit]))


def _data_cells(datasets: Sequence[Dataset]) -> Cells:
    rows = [
        (each.name, f"{each.num_rows:,}", each.context, _public(each.source), each.digest[:12])
        for each in datasets
    ]
    return Cells(("rows", "number", "purpose", "source", "digest"), tuple(rows), 1)


def _public(source: str) -> str:
    """A source without folders of the machine: names on the hub, and names of files."""
    parts = (part.strip() for part in source.split(","))
    return ", ".join(
        part if part.startswith(("hub:", "builtin")) else PurePath(part).name for part in parts
    )
