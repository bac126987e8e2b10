"""LoRA and DoRA, with peft's layers and files; the rank may also be chosen by a budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from cachetools import LRUCache, cached
from safetensors.torch import load_file
from torch import nn

from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.file_rights import save_file
from smt_ray.methods.base_model import check_base, read_base, record_base, write_base
from smt_ray.methods.lora_check import adapter_problem, check_adapter
from smt_ray.methods.lora_targets import (
    choose_rank,
    default_alpha,
    find_targets,
    target_choices,
)
from smt_ray.methods.protocol import Counts, Fetch
from smt_ray.models.inspect import count_parameters
from smt_ray.smt.linears import is_transposed, linear_shapes
from smt_ray.smt.tensorfile import reading

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"

_PREFIX = "base_model.model."  # begins the names of parameters in peft's files


@dataclass(frozen=True)
class LoraSettings:
    """The settings of LoRA and DoRA; names and meanings are those of the config.

    Attributes:
        rank: The rank of the two factors.
        alpha: The numerator of the update's scale alpha / rank.
        dropout: The dropout rate before the first factor.
        target_modules: The last parts of the names of the adapted linears.
        use_dora: Whether the method is DoRA.
        seed: The seed of the initial factors, which do not depend on rank, device and dtype.
        layers: The first and the last layer of these linears, for display; None for all.
    """

    is_whole_model: ClassVar[bool] = False

    rank: int
    alpha: int
    dropout: float
    target_modules: Sequence[str]
    use_dora: bool
    seed: int
    layers: Sequence[int] | None = None

    @classmethod
    def check(
        cls,
        config: RunConfig,
        skeleton: Callable[[], nn.Module],
        probe: Probe,
        selection: str | None,
    ) -> LoraSettings:
        """Finds the target modules, and chooses the rank if a budget is given.

        Raises:
            UserError: A target matches no linear, peft would train something else, or no rank comes
                near the budget.
        """
        model = skeleton()
        lora, unused = config.lora, probe.unused_linears
        choices = target_choices(model, lora.target_modules, unused, lora.layers)
        problems = (_problem(model, tuple(choice), config.method == "dora") for choice in choices)
        chosen = next((c for c, p in zip(choices, problems, strict=True) if p is None), choices[-1])
        check_adapter(_problem(model, tuple(chosen), config.method == "dora"), chosen)
        return cls._of(config, model, chosen)

    @classmethod
    def _of(cls, config: RunConfig, model: nn.Module, targets: Sequence[str]) -> LoraSettings:
        lora, use_dora = config.lora, config.method == "dora"
        rank = lora.rank
        if rank is None:
            assert lora.budget is not None
            shapes = linear_shapes(find_targets(model, targets))
            rank = choose_rank(shapes, lora.budget, count_parameters(model), use_dora=use_dora)
        alpha = lora.alpha or default_alpha(rank)
        return cls(rank, alpha, lora.dropout, tuple(targets), use_dora, config.seed, lora.layers)

    @staticmethod
    def stage_inputs(config: RunConfig) -> dict[str, Any]:
        """The ``lora`` section."""
        return {"lora": config.lora.semantic()}

    def describe(self) -> dict[str, Any]:
        """The rank, alpha, the dropout rate and the target modules, with their layers."""
        settings = {"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout}
        if self.layers is None:
            return {**settings, "target_modules": list(self.target_modules)}
        kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in self.target_modules))
        first, last = self.layers
        return {**settings, "layers": f"{first} to {last}", "target_modules": kinds}

    def make(self, fetch: Fetch) -> LoraMethod:
        """The method."""
        return LoraMethod(self)


class LoraMethod:
    """Trains low-rank factors beside frozen linears and, with DoRA, magnitudes.

    Args:
        settings: The settings; None to load an adapter, which has its own.
    """

    def __init__(self, settings: LoraSettings | None = None) -> None:
        self._settings = settings

    def prepare(self, model: nn.Module) -> None:
        """Replaces linears by peft's layers, with parameters in the dtype of the base model."""
        from peft import LoraConfig, get_peft_model

        settings = self._settings
        assert settings is not None
        linears = find_targets(model, settings.target_modules)
        names = [f"{name}.weight" for name in linears]
        self._base: dict[str, Any] | None = record_base(model, names)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.target_modules),
            use_dora=settings.use_dora,
            task_type="CAUSAL_LM",
            fan_in_fan_out=any(is_transposed(module) for module in linears.values()),
        )
        # peft draws the factors on the CPU, in float32.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            # peft must not cast them to fp32, as the engine keeps fp32 copies.
            self._peft = get_peft_model(model, config, autocast_adapter_dtype=False)
        model.train(model.training)  # new layers are in training mode, with active dropout

    def count(self, model: nn.Module) -> Counts:
        """Counts the factors, and the model without them."""
        return Counts.of_adapter(model)

    def save(
        self, model: nn.Module, parameters: Mapping[str, torch.Tensor], directory: Path
    ) -> None:
        """Writes the files that ``PeftModel.from_pretrained`` reads, and our record of the base."""
        tensors = self._in_peft_form(
            {
                name: parameters[name].to(parameter.dtype).contiguous()
                for name, parameter in _trained(model)
            }
        )
        save_file(tensors, directory / TENSORS_FILE, {"format": "pt"})
        config = self._peft.peft_config["default"]
        config.inference_mode = True
        config.save_pretrained(str(directory))
        _sort_lists(directory / CONFIG_FILE)
        if self._base is not None:  # peft's own adapters have no record
            write_base(self._base, directory)

    def load(self, model: nn.Module, directory: Path, *, trainable: bool = False) -> None:
        """Puts an adapter in peft's format on its base model."""
        from peft import LoraConfig, PeftConfig, get_peft_model, set_peft_model_state_dict

        check_base(model, directory)
        with reading(directory / TENSORS_FILE, "peft adapter"):
            tensors = load_file(directory / TENSORS_FILE)
        with reading(directory / CONFIG_FILE, "LoRA adapter's config"):
            config = PeftConfig.from_pretrained(str(directory))
            if not isinstance(config, LoraConfig):
                raise ValueError(f"its peft_type is {config.peft_type}")
        config.inference_mode, config.base_model_name_or_path = not trainable, None
        self._base = read_base(directory)
        try:
            self._peft = get_peft_model(model, config, autocast_adapter_dtype=False)
        except ValueError as error:  # the adapter names modules that the model does not have
            raise _misfit(directory, str(error)) from error
        try:
            if wrong := _wrong_keys(set_peft_model_state_dict(self._peft, tensors)):
                raise RuntimeError(wrong[0])
        except RuntimeError as error:  # raised above, or by torch if sizes differ
            self._peft.unload()
            _forget(model)
            raise _misfit(directory, str(error)) from error
        model.train(model.training)

    def loading_problem(self, plain: nn.Module, prepared: nn.Module) -> str | None:
        """What is wrong with the adapter of a prepared model when it is loaded; None if nothing.

        Args:
            plain: The base model on the meta device, which is changed.
            prepared: The prepared model on the meta device.
        """
        from peft import get_peft_model, set_peft_model_state_dict

        tensors = self._in_peft_form(dict(_trained(prepared)))
        other = get_peft_model(plain, self._peft.peft_config["default"])
        wrong = _wrong_keys(set_peft_model_state_dict(other, tensors))
        return f"peft cannot load {wrong[0]} of its adapter" if wrong else None

    def merge(self, model: nn.Module) -> None:
        """Adds the product of the factors to the weights, as peft computes it."""
        self._peft.merge_and_unload()
        _forget(model)

    def _in_peft_form(self, trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Trained parameters by their names in the model, as the tensors of peft's file."""
        from peft import get_peft_model_state_dict

        # Otherwise peft asks the hub whether the vocabulary was resized, which it never is here.
        tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(
            self._peft,
            state_dict={_PREFIX + name: value for name, value in trained.items()},
            save_embedding_layers=False,
        )
        return tensors


@cached(LRUCache(maxsize=16))  # peft takes a second, and a grid has many runs of one model
def _problem(skeleton: nn.Module, targets: tuple[str, ...], use_dora: bool) -> str | None:
    """See :func:`adapter_problem`, which depends on neither rank nor seed."""
    settings = LoraSettings(1, 1, 0.0, targets, use_dora=use_dora, seed=0)
    return adapter_problem(LoraMethod(settings), targets, skeleton)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _wrong_keys(result: Any) -> list[str]:
    """The keys of an adapter that peft misses or does not know, from its answer on loading."""
    missing = [name for name in result.missing_keys if "lora_" in name]
    return [*missing, *result.unexpected_keys]


def _misfit(directory: Path, problem: str) -> UserError:
    return UserError(
        str(directory),
        "must fit the model that it is put on",
        got=problem.strip().rpartition("\n")[2].strip(),
        fix="load the base model on which it was trained",
    )


def _forget(model: nn.Module) -> None:
    """Removes peft's mark from a model without peft's layers."""
    model.__dict__.pop("peft_config", None)


def _sort_lists(path: Path) -> None:
    """Sorts the lists that peft writes in random order, so that equal adapters have equal bytes."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
