"""Any method that starts from an adapter (``training.init_adapter``) in the place of a new one."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from smt_ray.artifacts.storage import local_copy
from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.methods.adapters import find_method, method_name
from smt_ray.methods.protocol import Counts, Fetch, Method

_FIELD = "training.init_adapter"


@dataclass(frozen=True)
class ContinuedSettings:
    """The settings of a method that starts from an adapter.

    Attributes:
        adapter: The folder or URI of the adapter.
    """

    is_whole_model: ClassVar[bool] = False

    adapter: str

    @classmethod
    def check(
        cls,
        config: RunConfig,
        skeleton: Callable[[], nn.Module],
        probe: Probe,
        selection: str | None,
    ) -> ContinuedSettings:
        """Checks that the adapter is one of the config's method and of the model's architecture."""
        settings = cls(_place(config))
        with _opened(settings.adapter) as directory:
            if (found := method_name(directory)) != config.method:
                raise UserError(
                    _FIELD,
                    f"must be an adapter of method {config.method}",
                    got=f"{settings.adapter}, which is one of {found}",
                    fix=f"set method={found}",
                )
        return settings

    @staticmethod
    def stage_inputs(config: RunConfig) -> dict[str, Any]:
        """The contents of the adapter, whatever its place."""
        digest = hashlib.sha256()
        with _opened(_place(config)) as directory:
            for file in sorted(directory.iterdir()):
                with file.open("rb") as content:
                    of_file = hashlib.file_digest(content, "sha256").hexdigest()
                digest.update(f"{file.name} {of_file}\n".encode())
        return {"init_adapter": digest.hexdigest()}

    def describe(self) -> dict[str, Any]:
        """The place of the adapter."""
        return {"init_adapter": self.adapter}

    def make(self, fetch: Fetch) -> ContinuedMethod:
        """The method."""
        return ContinuedMethod(self.adapter)


class ContinuedMethod:
    """Trains the parameters of an adapter further.

    Args:
        adapter: The folder or URI of the adapter.
    """

    def __init__(self, adapter: str) -> None:
        self._adapter = adapter

    def prepare(self, model: nn.Module) -> None:
        """Puts the adapter on the model, and makes exactly its parameters trainable."""
        with _opened(self._adapter) as directory, warnings.catch_warnings():
            # A plan puts the adapter on a model without weights.
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
            self._method: Method = find_method(directory)
            self._method.load(model, directory, trainable=True)

    def count(self, model: nn.Module) -> Counts:
        """Counts as the adapter's method does."""
        return self._method.count(model)

    def save(
        self, model: nn.Module, parameters: Mapping[str, torch.Tensor], directory: Path
    ) -> None:
        """Writes an adapter of the same kind."""
        self._method.save(model, parameters, directory)

    def load(self, model: nn.Module, directory: Path, *, trainable: bool = False) -> None:
        """Puts an adapter on its base model."""
        self._method = find_method(directory)
        self._method.load(model, directory, trainable=trainable)

    def merge(self, model: nn.Module) -> None:
        """Merges as the adapter's method does."""
        self._method.merge(model)


@contextmanager
def _opened(place: str) -> Iterator[Path]:
    """A local path of an adapter's folder; missing ones are a user's error."""
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(local_copy(place))
        except FileNotFoundError as error:
            raise _no_folder(place) from error
        if not directory.is_dir():
            raise _no_folder(place)
        yield directory


def _no_folder(place: str) -> UserError:
    return UserError(
        _FIELD,
        "must be the folder of an adapter",
        got=place,
        fix="the table of a run names its adapter's folder",
    )


def _place(config: RunConfig) -> str:
    """The place of the adapter, whose relative paths are those of the driver."""
    place = config.training.init_adapter
    assert place is not None
    return place if "://" in place else str(Path(place).expanduser().resolve())
