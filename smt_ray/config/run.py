"""The configuration of one run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from smt_ray.config.data import DataConfig
from smt_ray.config.fields import FolderName, Section, execution, semantic
from smt_ray.config.method import (
    AUTO,
    LoraConfig,
    SelectionConfig,
    SiftConfig,
    WarmupConfig,
)
from smt_ray.config.model import ModelConfig
from smt_ray.config.running import (
    BatchingConfig,
    DeepSpeedConfig,
    EvaluationConfig,
    ResourcesConfig,
    TrackingConfig,
)
from smt_ray.config.training import TrainingConfig

# The methods that a section is for. It may be set with every method, so that the runs of a
# comparison differ in one key, and it has no effect with other methods.
_SECTIONS_OF = {
    "warmup": ("smt", "sift"),
    "selection": ("smt",),
    "sift": ("sift",),
    "lora": ("lora", "dora"),
}


class RunConfig(Section):
    """The configuration of one run, which is the content of one YAML file."""

    name: FolderName = execution()
    """The name of the run in MLflow and of its folder in ``<storage>/runs``. By default it is made
    of the config file's name and a hash of the semantic keys."""
    storage: str = execution("smt_ray_storage")
    """The place of all results: a local folder, or a URI of pyarrow or fsspec such as
    s3://bucket/prefix."""
    seed: int = semantic(0, ge=0, lt=2**16)
    """The seed of the order of rows, of the held-out rows and of dropout."""
    method: Literal["smt", "lora", "dora", "sift", "full"] = semantic("smt")
    """What is trained: selected blocks (smt), peft's LoRA or DoRA factors, single elements of the
    weights (sift), or every weight (full)."""
    model: ModelConfig = semantic()
    data: DataConfig = semantic()
    warmup: WarmupConfig = semantic(WarmupConfig())
    selection: SelectionConfig = semantic(SelectionConfig())
    sift: SiftConfig = semantic(SiftConfig())
    lora: LoraConfig = semantic(LoraConfig())
    training: TrainingConfig = semantic(TrainingConfig())
    batching: BatchingConfig = execution(BatchingConfig())
    deepspeed: DeepSpeedConfig = semantic(DeepSpeedConfig())
    resources: ResourcesConfig = execution(ResourcesConfig())
    evaluation: EvaluationConfig = semantic(EvaluationConfig())
    tracking: TrackingConfig = execution(TrackingConfig())

    def semantic_tree(self) -> dict[str, Any]:
        """The semantic keys by section, without sections that have no effect."""
        tree: dict[str, Any] = {"seed": self.seed, "method": self.method}
        for name in type(self).model_fields:
            section = getattr(self, name)
            if name in self.idle_sections:
                continue
            if isinstance(section, Section) and (values := section.semantic()):
                tree[name] = values
        return tree

    @property
    def idle_sections(self) -> tuple[str, ...]:
        """The sections that have no effect: those for other methods, or for a new adapter."""
        continues = self.training.init_adapter is not None
        return tuple(
            name
            for name, methods in _SECTIONS_OF.items()
            if continues or self.method not in methods
        )

    @property
    def selects_blocks(self) -> bool:
        """Whether blocks are selected, which are then trained."""
        return self.method == "smt" and self.training.init_adapter is None

    @property
    def selects_columns(self) -> bool:
        """Whether these blocks are whole columns."""
        return self.selects_blocks and self.selection.block_shape == "column"

    @property
    def selects_elements(self) -> bool:
        """Whether single elements are selected."""
        return self.method == "sift" and self.training.init_adapter is None

    @property
    def warmup_keeps(self) -> Literal["gradients", "columns", "activations"] | None:
        """What the warm-up keeps besides its table: whole gradients, or sums of each column."""
        if self.selects_elements:
            return "gradients"
        if not self.selects_columns or not self.selection.needs_warmup:
            return None
        return "activations" if self.selection.score == "activation" else "columns"

    @property
    def has_selection(self) -> bool:
        """Whether a stage selects what is trained."""
        return self.selects_blocks or self.selects_elements

    @property
    def base_warmup(self) -> bool:
        """Whether the selection needs what is computed at the base weights."""
        by_warmup = self.selects_blocks and self.selection.needs_warmup
        return (by_warmup or self.selects_elements) and not self.trained_warmup

    @property
    def sums_of_steps(self) -> bool:
        """Whether the warm-up also sums what the scores of single steps need."""
        wanted = self.warmup.per_step or self._scores_steps
        blocks = self.selects_blocks and not self.selects_columns
        return blocks and wanted and not self.trained_warmup

    @property
    def _scores_steps(self) -> bool:
        return self.selection.score.startswith("step_")

    @property
    def trained_warmup(self) -> bool:
        """Whether training continues from weights that the warm-up updated."""
        return self.selects_blocks and self.warmup.mode == "trained"

    @property
    def has_warmup(self) -> bool:
        """Whether anything is computed before the selection."""
        return self.base_warmup or self.trained_warmup

    @property
    def first_step(self) -> int:
        """The number of training steps that a trained warm-up has already done."""
        is_start = self.trained_warmup and self.warmup.starts_training
        return self.warmup.num_steps if is_start else 0

    @property
    def warmup_learning_rate(self) -> float:
        """The peak learning rate of a trained warm-up."""
        return self.warmup.learning_rate or self.training.learning_rate

    @property
    def warmup_lr_warmup_steps(self) -> int:
        """The number of steps of a trained warm-up's ramp."""
        own = self.warmup.lr_warmup_steps
        return self.training.lr_warmup_steps if own is None else own

    @model_validator(mode="after")
    def _selection_within_warmup(self) -> RunConfig:
        scored = self.warmup.target_modules
        for section in ("selection", "sift"):
            wanted = getattr(self, section).target_modules or []
            # What auto stands for is only known with the model.
            outside = [name for name in wanted if scored != AUTO and name not in scored]
            if outside:
                raise ValueError(
                    f"{section}.target_modules must be among warmup.target_modules"
                    f" {self.warmup.target_modules}; got {outside}"
                )
        return self

    @model_validator(mode="after")
    def _full_starts_from_a_model(self) -> RunConfig:
        if self.training.init_adapter is not None and self.method == "full":
            raise ValueError(
                "training.init_adapter is for methods with an adapter: to continue full"
                " fine-tuning, set model.path to the folder of smt-ray merge; got"
                f" {self.training.init_adapter}"
            )
        return self

    @model_validator(mode="after")
    def _elements_and_columns_need_whole_gradients(self) -> RunConfig:
        if not (self.selects_elements or self.selects_columns):
            return self
        what = "method sift" if self.selects_elements else "selection.block_shape column"
        if self.warmup.reduction == "score":
            raise ValueError(
                f"{what} needs warmup.reduction gradient, since the sums of square blocks do not"
                " show it; got score"
            )
        if self.warmup.mode == "trained":
            raise ValueError(f"{what} needs warmup.mode base; got trained")
        return self

    @model_validator(mode="after")
    def _steps_are_summed_at_the_base_weights(self) -> RunConfig:
        if self._scores_steps and self.trained_warmup:
            raise ValueError(
                "warmup.mode trained sums no gradients of single steps: use another"
                f" selection.score; got {self.selection.score}"
            )
        return self

    @model_validator(mode="after")
    def _activations_are_summed_by_shards(self) -> RunConfig:
        if self.warmup_keeps == "activations" and self.warmup.processes == "ranks":
            raise ValueError(
                "selection.score activation needs warmup.processes shards, since it computes no"
                " gradient; got ranks (warmup.gpus_per_shard spreads the layers of a large model)"
            )
        return self

    @model_validator(mode="after")
    def _quantised_weights_are_frozen_and_whole(self) -> RunConfig:
        trains_weights = self.method in ("full", "sift") or self.trained_warmup
        problems = {
            "methods full and sift, and warmup.mode trained, update the weights": trains_weights,
            "selection.block_shape column updates the weights": self.selects_columns,
            "deepspeed.zero_stage 3 partitions the weights": self.deepspeed.zero_stage == 3,
            "gpus_per_shard and gpus_per_worker spread whole layers in full precision": max(
                self.warmup.gpus_per_shard, self.evaluation.gpus_per_worker
            )
            > 1,
        }
        for reason, holds in problems.items():
            if holds and self.model.quantization != "none":
                raise ValueError(
                    f"model.quantization {self.model.quantization} cannot be used, because"
                    f" {reason}: set it to none, or change that key"
                )
        return self

    @model_validator(mode="after")
    def _validation_has_rows(self) -> RunConfig:
        if self.training.validate_every_steps and not self.data.has_validation:
            raise ValueError(
                "training.validate_every_steps has no effect without validation rows: set"
                " data.validation_rows or data.validation, too"
            )
        return self
