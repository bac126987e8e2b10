"""What every model type of transformers does with each part of the product.

    python -m benchmarks.models                # all types, to docs/models.md
    python -m benchmarks.models llama qwen3    # some types, to the terminal

Each type is built small, with random weights, from its default config. Numbers are relative errors
against the plain way: dense autograd, one row at a time, one prompt at a time.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from benchmarks.measuring import ROOT, markdown_table
from benchmarks.model_types import OVERRIDES
from smt_ray.data.batches import step_micro_batches
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.evaluation.batches import Padding
from smt_ray.evaluation.generate import generate_texts
from smt_ray.evaluation.likelihood import candidate_log_likelihoods
from smt_ray.methods.adapters import find_method
from smt_ray.methods.lora import LoraMethod, LoraSettings
from smt_ray.methods.lora_check import adapter_problem
from smt_ray.methods.lora_targets import target_choices
from smt_ray.methods.smt import SmtMethod
from smt_ray.models.config import model_class
from smt_ray.models.inspect import count_parameters, find_eligible
from smt_ray.probe.probe import probe_skeleton, small_model
from smt_ray.probe.shrink import shrunk
from smt_ray.probe.steps import relative_error, rows
from smt_ray.smt.controls import random_scores
from smt_ray.smt.grid import common_block_size
from smt_ray.smt.linears import linear_shapes
from smt_ray.smt.model import sparse_modules
from smt_ray.smt.selection import Selection, select_by_scores
from smt_ray.training.batching_mode import BatchingMode, choose_mode
from smt_ray.training.loss.supervised import SupervisedLoss

_NUM_BLOCKS = 9
_PROMPTS = ("sun", "a much longer prompt than the others are", "two words", "x", "sun and moon")
_CANDIDATES = ("yes", "no, never", "perhaps")
_NUM_NEW = 12
TABLE = ROOT / "docs" / "models.md"


@dataclass(frozen=True)
class Row:
    """What one type does; a text that begins with "refused" or "fails" says why.

    Attributes:
        modules: The linears that ``target_modules: auto`` stands for.
        gradient: The error of the block gradient against dense autograd.
        batching: The mode that ``prefix_packed`` comes to, with the error of its step.
        saving: Whether an adapter is saved, loaded and merged with the same logits.
        lora: The linears that LoRA adapts by default.
        generation: Whether texts of a batch are those of single prompts.
        likelihood: The same for the likelihoods of candidates.
    """

    modules: str = ""
    gradient: str = ""
    batching: str = ""
    saving: str = ""
    lora: str = ""
    generation: str = ""
    likelihood: str = ""


def survey(model_type: str) -> Row:
    """Tries one type."""
    try:
        trial = Trial(model_type)
        _ = trial.probe
    except Exception as error:  # the classes of transformers fail in many ways
        return Row(modules=_failed(error))
    try:
        _ = trial.mode
    except UserError as error:  # as a run says before it computes anything
        return Row(modules=f"refused: {error}")
    row = Row()
    for name in ("modules", "gradient", "batching", "saving", "lora", "generation", "likelihood"):
        row = replace(row, **{name: _attempt(getattr(trial, f"try_{name}"))})
    return row


def _attempt(part: Callable[[], str]) -> str:
    try:
        return part()
    except UserError as error:
        return f"refused: {error}"
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"fails: {type(error).__name__} {lines[-1].strip()}"[:120]


class Trial:
    """A small model of one type, and what is done with it."""

    def __init__(self, model_type: str) -> None:
        from transformers import CONFIG_MAPPING

        config = CONFIG_MAPPING[model_type](**OVERRIDES.get(model_type, {}))
        self._config = shrunk(config)
        auto = model_class(config)
        with torch.device("meta"):
            self._skeleton: Any = auto.from_config(self._config)
        self._skeleton.tie_weights()
        self._logits_of = torch.arange(4, 34)[None]

    def model(self) -> Any:
        """The same small model every time."""
        return small_model(self._skeleton)

    @cached_property
    def probe(self) -> Probe:
        """What the architecture allows."""
        return probe_skeleton(self._skeleton)

    @cached_property
    def selection(self) -> Selection:
        """A few blocks, drawn from the default modules."""
        eligible = find_eligible(self._skeleton, "auto", unused=self.probe.unused_linears)
        shapes = linear_shapes(eligible)
        size = min(8, common_block_size(shapes))
        return select_by_scores(
            random_scores(shapes, size, seed=5),
            block_size=size,
            score="random",
            num_blocks=_NUM_BLOCKS,
            num_base_parameters=count_parameters(self._skeleton),
        )

    @cached_property
    def mode(self) -> BatchingMode:
        """How rows are batched by default."""
        return choose_mode(self._skeleton, "prefix_packed", self.probe, training=False)

    def try_modules(self) -> str:
        """The last parts of the names of the default modules."""
        return " ".join(dict.fromkeys(n.rpartition(".")[2] for n in self.selection.modules))

    def try_gradient(self) -> str:
        """The block gradient against dense autograd."""
        dense, sparse = self.model(), self.model()
        SmtMethod(self.selection).prepare(sparse)
        for model in (dense, sparse):
            self._loss(model).backward()
        expected, found = [], []
        for name, layer in sparse_modules(sparse).items():
            gradient = dense.get_submodule(name).get_parameter("weight").grad
            expected.append(layer.grid.gather(gradient, layer.indices))
            found.append(layer.blocks.grad)
        return f"{relative_error(found, expected):.0e}"

    def _loss(self, model: Any) -> Tensor:
        logits = model(input_ids=self._logits_of, use_cache=False).logits[0]
        return F.cross_entropy(logits[:-1].float(), self._logits_of[0, 1:])

    def try_batching(self) -> str:
        """The mode that is chosen, and the error of its step with sparse layers."""
        encoded, everything = rows(), list(range(len(rows())))
        gradients = []
        for mode, narrow in ((self.mode.mode, self.mode.narrows), ("one_row", False)):
            model = self.model()
            SmtMethod(self.selection).prepare(model)
            loss = SupervisedLoss(model, narrow=narrow)
            for batch in step_micro_batches(
                encoded, everything, mode=mode, max_tokens=160, train_on_inputs=False
            ):
                loss(batch).backward()
            gradients.append([layer.blocks.grad for layer in sparse_modules(model).values()])
        return f"{self.mode.mode} {relative_error(*gradients):.0e}"

    def try_saving(self) -> str:
        """An adapter is saved, loaded and merged; a saved model is loaded again."""
        model = self.model()
        method = SmtMethod(self.selection)
        method.prepare(model)
        with torch.no_grad():
            for layer in sparse_modules(model).values():
                layer.blocks.add_(0.05 * torch.randn(layer.blocks.shape))
        expected = self._logits(model)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            blocks = {f"{n}.blocks": m.blocks.data for n, m in sparse_modules(model).items()}
            model.save_pretrained(place / "plain")
            method.save(model, blocks, place)
            fresh = self.model()
            loaded = find_method(place)
            loaded.load(fresh, place)
            loaded.merge(fresh)
            again, info = type(fresh).from_pretrained(place / "plain", output_loading_info=True)
            if any(info.values()):
                return f"fails: {info}"[:120]
            found = [self._logits(fresh), self._logits(again.eval())]
        if not all(torch.allclose(one, expected, rtol=1e-4, atol=1e-5) for one in found):
            return "fails: other logits"
        return "ok"

    def _logits(self, model: Any) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(input_ids=self._logits_of, use_cache=False).logits
        return logits

    def try_lora(self) -> str:
        """The linears of ``lora.target_modules: auto``."""
        problems = []
        for targets in target_choices(self._skeleton, "auto", self.probe.unused_linears):
            method = LoraMethod(LoraSettings(4, 8, 0.0, tuple(targets), use_dora=False, seed=0))
            problem = adapter_problem(method, targets, self._skeleton)
            if problem is None:
                return " ".join(dict.fromkeys(name.rpartition(".")[2] for name in targets))
            problems.append(problem)
        return f"refused: {problems[-1]}"

    def try_generation(self) -> str:
        """Texts of a batch against those of single prompts."""
        model, tokenizer = self.model(), _tokenizer()

        def texts(prompts: Sequence[str]) -> list[str]:
            found = generate_texts(
                model, tokenizer, prompts, max_new_tokens=_NUM_NEW, padding=Padding.of(self.probe)
            )
            return [text.text for text in found]

        alone = [texts([prompt])[0] for prompt in _PROMPTS]
        if texts(_PROMPTS) != alone:
            return "fails: texts depend on the batch"
        return "batches" if self.probe.pads_left else "batches of one length"

    def try_likelihood(self) -> str:
        """Likelihoods of a batch against those of single prompts."""
        model, tokenizer = self.model(), _tokenizer()

        def scores(prompts: Sequence[str]) -> Tensor:
            found = candidate_log_likelihoods(
                model, tokenizer, prompts, [_CANDIDATES] * len(prompts),
                padding=Padding.of(self.probe),
            )  # fmt: skip
            return torch.tensor([row.scores for row in found])

        alone = torch.cat([scores([prompt]) for prompt in _PROMPTS])
        if not torch.allclose(scores(_PROMPTS), alone, rtol=1e-3, atol=1e-4):
            return "fails: likelihoods depend on the batch"
        return "ok"


def _tokenizer() -> Any:
    """One token for each printable character, within every small model's vocabulary."""
    from transformers import PreTrainedTokenizerFast

    alphabet = [*map(chr, range(33, 127)), "Ġ", "Ċ"]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Surveys the types, and prints or writes the table."""
    parser = argparse.ArgumentParser(description="Surveys model types.")
    parser.add_argument("types", nargs="*", help="model types; by default all causal ones")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    table = []
    for model_type in options.types or all_types():
        row = survey(model_type)
        print(model_type, *vars(row).values(), sep=" | ", flush=True)
        table.append([f"`{model_type}`", *(text.replace("|", "/") for text in vars(row).values())])
    if not options.types:
        TABLE.write_text(_page(table), encoding="utf-8")


def all_types() -> list[str]:
    """The causal model types of transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _page(table: Sequence[Sequence[str]]) -> str:
    import transformers

    header = ["type", "modules", "block gradient", "batching", "save, load, merge", "LoRA",
              "generation", "likelihood"]  # fmt: skip
    return _INTRODUCTION.format(
        version=transformers.__version__, table=markdown_table(header, table)
    )


_INTRODUCTION = """# Model types

What each causal model type of transformers {version} does, built small with random weights from its
default config. `python -m benchmarks.models` makes this page. Before a run computes anything, it
tries the architecture of its own model in the same way, so what counts is what your run says.

- **modules**: the linears that `warmup.target_modules: auto` stands for.
- **block gradient**: its relative error against dense autograd.
- **batching**: what `batching.mode: prefix_packed` comes to, and the error of its step against one
  row at a time.
- **LoRA**: the linears that `lora.target_modules: auto` stands for.
- **generation**: whether prompts of different lengths are generated together.
- *refused* is an error before anything is computed; *fails* means that transformers or peft fails.

{table}
"""

if __name__ == "__main__":
    main()
