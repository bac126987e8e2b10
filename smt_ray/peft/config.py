"""The config of the tuner: which blocks of which linears are trained."""

from __future__ import annotations

import json
import os
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftType
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.smt.adapter_files import (
    CONFIG_FILE,
    FORMAT_VERSION,
    PEFT_TYPE,
    TENSORS_FILE,
    WRITTEN_PEFT_TYPE,
    check_kind,
    check_modules,
    describe_modules,
    dump,
    indices_of,
    other_tensors,
    read_tensors,
    shape_of,
    tensors_sha256,
)
from smt_ray.smt.scores import ScoreTable
from smt_ray.smt.selection import Selection, select_blocks

_BLOCK_DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass
class SmtConfig(PeftConfig):
    """The config of sparse matrix tuning in peft; make it with one of the ``from_`` methods.

    Attributes:
        block_size: The side L of a block in elements.
        modules: Module name -> its ``shape`` [out_features, in_features] and its ``blocks``. The
            number of block (row, col) is row * (in_features / L) + col. A name may be the last part
            of a module's name, if it is the only one.
        block_dtype: The dtype of the trained blocks; None for float32, or for that of the weight if
            it is wider. At usual learning rates, updates are lost in the rounding of bfloat16.
        modules_to_save: Other modules that are trained and saved as a whole.
        selection: The origin of the blocks, as JSON values.
        base: The hashes of the base model. They are set when the first adapter is made.
        check_base: Whether a base model is refused whose hashes differ.
        target_modules: The names in ``modules``, for peft.
        format_version: The version of the files.
    """

    block_size: int = 0
    modules: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    block_dtype: str | None = None
    modules_to_save: list[str] | None = None
    selection: dict[str, Any] = field(default_factory=dict)
    base: dict[str, str | None] = field(default_factory=dict)
    check_base: bool = True
    target_modules: list[str] | str | None = None
    format_version: int = FORMAT_VERSION
    tensors_sha256: InitVar[str | None] = None  # in the file, for from_json_file

    def __post_init__(self, tensors_sha256: str | None) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PeftType(PEFT_TYPE)
        if not self.modules:
            raise UserError(
                "SmtConfig.modules",
                "must name the blocks",
                fix="make the config with SmtConfig.from_selection, from_table or from_adapter",
            )
        check_modules(self.modules, self.block_size, field="SmtConfig.modules")
        if self.target_modules is not None and set(self.target_modules) != set(self.modules):
            raise UserError(
                "SmtConfig.target_modules",
                "must not be set: the selection says which modules are tuned",
                got=self.target_modules,
                fix="choose the modules when you select blocks",
            )
        self.target_modules = list(self.modules)
        if self.block_dtype not in (None, *_BLOCK_DTYPES):
            raise UserError(
                "SmtConfig.block_dtype",
                f"must be one of {', '.join(_BLOCK_DTYPES)} or None",
                got=self.block_dtype,
            )

    @classmethod
    def from_selection(
        cls, selection: Selection | str | os.PathLike[str], **options: Any
    ) -> SmtConfig:
        """The config that trains the blocks of a selection.

        Args:
            selection: The selection, or the path of a saved one.
            options: Other fields of the config, such as ``task_type`` and ``block_dtype``.
        """
        if not isinstance(selection, Selection):
            selection = Selection.load(selection)
        chosen = {n: module for n, module in selection.modules.items() if len(module.indices)}
        modules = describe_modules(
            {name: module.shape for name, module in chosen.items()},
            {name: module.indices for name, module in chosen.items()},
            selection.block_size,
        )
        return cls(
            block_size=selection.block_size, modules=modules, selection=selection.origin, **options
        )

    @classmethod
    def from_table(
        cls,
        table: ScoreTable | str | os.PathLike[str],
        *,
        task_type: str | None = None,
        block_dtype: str | None = None,
        **selecting: Any,
    ) -> SmtConfig:
        """The config that trains the best blocks of a score table.

        Args:
            table: The table, or the path of a saved one.
            task_type: peft's name of the task.
            block_dtype: The dtype of the blocks.
            selecting: The arguments of :func:`smt_ray.select_blocks`, such as ``budget``.
        """
        if not isinstance(table, ScoreTable):
            table = ScoreTable.load(table)
        selection = select_blocks(table, **selecting)
        return cls.from_selection(selection, task_type=task_type, block_dtype=block_dtype)

    @classmethod
    def from_adapter(cls, directory: str | os.PathLike[str], **options: Any) -> SmtConfig:
        """The config that trains the blocks of a saved adapter, from the base model's values.

        To continue from the adapter's values, load it with ``is_trainable=True`` instead.

        Args:
            directory: The folder of the adapter.
            options: Other fields of the config.
        """
        saved = cls.from_pretrained(os.fspath(directory))
        return cls(
            block_size=saved.block_size, modules=saved.modules, selection=saved.selection,
            **{"task_type": saved.task_type, **options},
        )  # fmt: skip

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Module name -> (out_features, in_features)."""
        return {name: shape_of(module) for name, module in self.modules.items()}

    def indices(self, name: str) -> Tensor:
        """The block indices (row, col) of a module, (M, 2) int32."""
        return indices_of(self.modules[name], self.block_size)

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the blocks; None for the default."""
        return None if self.block_dtype is None else getattr(torch, self.block_dtype)

    def find(self, module: str) -> str | None:
        """The name in ``modules`` that stands for a module of a model; None if there is none."""
        parts = module.split(".")
        names = (".".join(parts[start:]) for start in range(len(parts)))
        return next((name for name in names if name in self.modules), None)

    def save_pretrained(self, save_directory: str, **options: Any) -> None:
        """Writes the config beside the tensors, with their hash.

        Args:
            save_directory: The folder of the adapter.
            options: peft's ``auto_mapping_dict``.
        """
        directory, auto_mapping = Path(save_directory), options.pop("auto_mapping_dict", None)
        directory.mkdir(parents=True, exist_ok=True)
        values = self.to_dict() | {"peft_type": WRITTEN_PEFT_TYPE}
        del values["target_modules"]  # the names in modules
        if auto_mapping is not None:
            values["auto_mapping"] = auto_mapping
        if (directory / TENSORS_FILE).exists():
            values["tensors_sha256"] = tensors_sha256(read_tensors(directory))
        (directory / CONFIG_FILE).write_text(dump(values), encoding="utf-8")

    @classmethod
    def from_json_file(cls, path_json_file: str, **options: Any) -> dict[str, Any]:
        """Reads the values of a saved config, and checks that the tensors beside it are its own.

        Raises:
            UserError: The tensors are others, or the config has another version.
        """
        values: dict[str, Any] = json.loads(Path(path_json_file).read_text(encoding="utf-8"))
        check_kind(values, Path(path_json_file))
        tensors, expected = (
            Path(path_json_file).with_name(TENSORS_FILE),
            values.get("tensors_sha256"),
        )
        if not (expected and tensors.exists()):  # tensors on the hub lie elsewhere
            return values
        if tensors_sha256(read_tensors(tensors.parent)) != expected:
            raise other_tensors(tensors.parent)
        return values
