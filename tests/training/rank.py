"""One rank of a gloo group, which trains by the product's own assembly and watches it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from smt_ray.config.model import ModelConfig
from smt_ray.data.encoding.stored import load_tokens
from smt_ray.errors import UserError
from smt_ray.methods.full import FullMethod
from smt_ray.methods.lora import LoraMethod, LoraSettings
from smt_ray.methods.placed import PlacedMethod
from smt_ray.methods.protocol import Method
from smt_ray.methods.smt import SmtMethod
from smt_ray.models.load import load_model
from smt_ray.places.selection import PlaceSelection
from smt_ray.probe.probe import probe_skeleton
from smt_ray.smt.layers.partial import PartialLinear
from smt_ray.smt.selection import Selection
from smt_ray.training.assembly import RankTraining, TrainingSettings
from smt_ray.training.engine_settings import EngineSettings
from smt_ray.training.loop import Callbacks, LoopSettings
from smt_ray.training.state import load_state, save_state

NUM_STEPS, HALF, BATCH_SIZE = 6, 3, 7
FOUR_ROWS = 80  # tokens of a micro-batch; rows have at most 19
LORA = LoraSettings(4, 8, 0.0, ("q_proj", "v_proj", "down_proj"), use_dora=False, seed=3)
IN_PLACE = ("smt", "columns", "sift")  # the methods whose trained values live in the weights
EVERYWHERE = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}


class Rank:
    """One rank, and the facts that it found.

    Args:
        folder: The folder with the model, the rows and the selection.
        rank: The number of this rank.
        num_ranks: The number of all ranks.
    """

    def __init__(self, folder: Path, rank: int, num_ranks: int) -> None:
        self.folder, self.rank, self.num_ranks = folder, rank, num_ranks
        self.training = load_tokens(folder / "tokens.safetensors", "training")
        self.validation = load_tokens(folder / "tokens.safetensors", "validation")
        self.facts: dict[str, Any] = {}
        self.last_loss: float | None = None

    def trained_by(
        self,
        stage: int,
        *,
        method_name: str = "smt",
        dtype: str = "float32",
        quantization: str = "none",
        dropout: float = 0.0,
        clip: float = 0.0,
        start: Path | None = None,
        max_tokens: int = FOUR_ROWS,
        num_steps: int = NUM_STEPS,
        recompute: bool = False,
        prepare: Callable[[Any], None] = lambda _: None,
        preempted: Callable[[], bool] | None = None,
    ) -> Trained:
        """Trains, from a checkpoint if one is given; ``prepare`` changes the prepared model."""
        model = self.base(dtype, quantization)
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = dropout
        run = Trained()
        settings = TrainingSettings(
            EngineSettings(
                zero_stage=stage,
                dtype=dtype,
                betas=(0.9, 0.999),
                epsilon=1e-8,
                weight_decay=0.1,
                max_grad_norm=clip,
                extra=EVERYWHERE if stage == 3 else {},
            ),
            LoopSettings(
                num_steps=num_steps,
                seed=3,
                learning_rate=1e-2,
                lr_schedule="linear",
                lr_warmup_steps=2,
                batching="prefix_packed",
                max_tokens=max_tokens,
                train_on_inputs=False,
                log_every_steps=1,
                validate_every_steps=None,
                checkpoint_every_steps=None if preempted else HALF if num_steps > 1 else 1,
            ),
            BATCH_SIZE,
            activation_checkpointing=recompute,
        )
        callbacks = Callbacks(run.record, run.checkpoint)
        if method_name in IN_PLACE:
            run.remember(model)  # the dense weights: afterwards the blocks are parameters

        def after_prepare(model: Any) -> None:
            prepare(model)
            if method_name not in IN_PLACE:
                run.remember(model)

        run.training = RankTraining(
            model,
            self.method(method_name, dropout),
            self.training,
            self.validation,
            settings,
            probe_skeleton(model),
            replace(callbacks, preempted=preempted) if preempted else callbacks,
            torch.device("cpu"),
            after_prepare=after_prepare,
        )
        run.go(start)
        return run

    def method(self, name: str, dropout: float) -> Method:
        """A method that is not prepared yet."""
        if name == "smt":
            return SmtMethod(Selection.load(self.folder / "selection.safetensors"))
        if name == "sift":
            return PlacedMethod(PlaceSelection.load(self.folder / "elements.safetensors"))
        if name == "columns":
            return PlacedMethod(PlaceSelection.load(self.folder / "columns.safetensors"))
        if name == "full":
            return FullMethod()
        return LoraMethod(replace(LORA, dropout=dropout, use_dora=name == "dora"))

    def base(self, dtype: str, quantization: str = "none") -> Any:
        """The base model in a dtype, perhaps quantised."""
        path = str(self.folder / "model")
        return load_model(ModelConfig(path=path, dtype=dtype, quantization=quantization))

    def keep(self, name: str, state: dict[str, torch.Tensor], num_steps: int) -> Path:
        """Writes a checkpoint on rank 0, which others may wait for."""
        place = self.folder / "states" / name
        if self.rank == 0:
            place.mkdir(parents=True)
            save_state(place, state, num_steps)
            (place / "ready").touch()
        return place

    def wait_for(self, name: str) -> Path:
        """Waits for the checkpoint of another group."""
        place, deadline = self.folder / "states" / name, time.monotonic() + 400
        while not (place / "ready").exists():
            assert time.monotonic() < deadline, f"{name} was not written"
            time.sleep(0.1)
        return place

    def finish(self, part: str) -> None:
        """Writes this rank's facts."""
        text = json.dumps(self.facts, indent=1)
        (self.folder / f"{part}-{self.rank}.json").write_text(text)


class Trained:
    """A training with its states, metrics and error."""

    training: RankTraining

    def __init__(self) -> None:
        self.original: dict[str, torch.Tensor] = {}
        self.states: dict[int, dict[str, torch.Tensor]] = {}
        self.metrics: dict[int, dict[str, float]] = {}
        self.error: UserError | None = None

    def remember(self, model: Any) -> None:
        """Keeps the parameters from before the training."""
        self.original = {n: p.detach().clone() for n, p in model.named_parameters()}

    def record(self, done: int, metrics: Any) -> None:
        """Keeps what rank 0 records of a step; step 0 is the loss before training."""
        if done:
            self.metrics[done] = dict(metrics)

    def checkpoint(self, done: int, _metrics: Any) -> None:
        """Keeps the state, as a checkpoint would."""
        assert done not in self.states
        self.states[done] = self.training.engine.export_state()

    def go(self, start: Path | None) -> None:
        """Runs from a checkpoint or the beginning to the end, or to a user's error."""
        done = 0
        if start is not None:
            state, done = load_state(start)
            self.training.engine.import_state(state, done)
        try:
            self.training.loop.run(done)
        except UserError as error:
            self.error = error

    def first_gradient(self) -> dict[str, torch.Tensor]:
        """The gradient of the first step; Adam's first moment is then (1 - beta1) x gradient."""
        return {
            name.removesuffix("/exp_avg"): value / (1 - 0.9)
            for name, value in self.states[1].items()
            if name.endswith("/exp_avg")
        }

    def losses(self) -> list[float]:
        """Training losses by step."""
        return [m["train/loss"] for _, m in sorted(self.metrics.items())]

    def trainables(self, done: int) -> dict[str, torch.Tensor]:
        """The trained parameters by the model's names, as they were after a step."""
        return {
            name.removeprefix("model.").removesuffix("/param"): value
            for name, value in self.states[done].items()
            if name.endswith("/param")
        }

    def changes(self) -> dict[str, bool]:
        """Whether all frozen parameters were kept, and all trained ones changed."""
        import deepspeed

        trained, kept = self.trainables(NUM_STEPS), True
        for name, before in self.original.items():
            if name not in trained:
                parameter = self.training.model.get_parameter(name)
                with deepspeed.zero.GatheredParameters(
                    [parameter], enabled=self.training.engine.zero_stage == 3
                ):
                    kept &= torch.equal(parameter, before)
        changed = all(not torch.equal(v, self.original[n].float()) for n, v in trained.items())
        return {"kept": kept, "changed": changed}

    def unselected(self) -> dict[str, bool]:
        """Whether everything but the selected values was kept, and those of each layer changed."""
        import deepspeed

        modules = self.training.model.named_modules()
        layers = {name: module for name, module in modules if isinstance(module, PartialLinear)}
        sparse = {f"{name}.weight": layer for name, layer in layers.items()}
        kept, changed = True, True
        for name, before in self.original.items():
            parameter = self.training.model.get_parameter(name)
            with deepspeed.zero.GatheredParameters(
                [parameter], enabled=self.training.engine.zero_stage == 3
            ):
                now = parameter.detach().clone()
            chosen = torch.zeros(before.shape, dtype=torch.bool)
            if layer := sparse.get(name):
                everything = torch.ones(layer.original_blocks.shape)
                layer.layout.scatter_(chosen, layer.layout.make_indices(), everything)
            kept &= torch.equal(now[~chosen], before[~chosen])
        for name, layer in layers.items():
            moved = self.states[NUM_STEPS][f"model.{name}.blocks/param"]
            changed &= not torch.equal(moved, layer.original_blocks.float())
        return {"kept": kept, "changed": changed}
