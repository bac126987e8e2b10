"""How ranks meet: on a single machine, on the loopback interface only."""

from __future__ import annotations

import importlib
import socket
from typing import Any

import psutil
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from smt_ray.cluster.session import is_alone

_WAITING = 1024  # connections that wait to be accepted, at most one for each rank


class LoopbackConfig(TorchConfig):  # type: ignore[misc]
    """The process group of ranks on one machine."""

    @property
    def backend_cls(self) -> type[LoopbackBackend]:
        """The backend of Ray Train."""
        return LoopbackBackend


class LoopbackBackend(_TorchBackend):  # type: ignore[misc]
    """Starts the process group as Ray does, but other machines cannot reach its store."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Called by Ray Train once the processes of the ranks have started."""
        worker_group.execute(_listen_on_loopback)
        super().on_start(worker_group, backend_config)


def process_group() -> TorchConfig:
    """How the ranks of this session meet."""
    return LoopbackConfig() if is_alone() else TorchConfig()


def interfaces() -> dict[str, str]:
    """The variables of ranks that name the network interface of their collectives."""
    if not is_alone():
        return {}
    (loopback, *_) = (
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.address == "127.0.0.1" for address in addresses)
    )
    return {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}


def _listen_on_loopback() -> None:
    """Makes the store of this process's group listen on the loopback interface.

    torch's own stores listen on all interfaces, whatever the address is.
    """
    # The package has a function of the same name.
    rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    class LoopbackStore(TCPStore):
        def __init__(
            self, host_name: str, port: int, world_size: int | None, is_master: bool, *args: Any,
            **kwargs: Any,
        ) -> None:  # fmt: skip
            if is_master:
                listener = socket.socket()
                listener.bind((host_name, port))
                listener.listen(_WAITING)
                kwargs["master_listen_fd"] = listener.detach()
            super().__init__(host_name, port, world_size, is_master, *args, **kwargs)

    rendezvous.TCPStore = LoopbackStore
