"""A small real run by the command line, in a session of its own, that a fault is injected into."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import yaml

from smt_ray.artifacts.layout import RECORDS
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import to_yaml
from smt_ray.config.run import RunConfig
from tests import processes

_PATIENCE_S = 240.0


@dataclass
class Scene:
    """The place of a run and its drivers.

    Attributes:
        folder: A folder of its own, for the config and the logs.
        config: The config of the run.
        environment: Variables beside those of this process.
        until: The last stage.
        command: The command; for others than ``run``, the config is its key ``run``.
        around: The other keys of the command's file.
        driver: The latest driver.
        logs: The logs of all drivers.
    """

    folder: Path
    config: RunConfig
    environment: Mapping[str, str] = field(default_factory=dict)
    until: str | None = "training"
    command: str = "run"
    around: Mapping[str, Any] = field(default_factory=dict)
    driver: Popen[bytes] | None = None
    logs: list[Path] = field(default_factory=list)

    def start(self, *overrides: str) -> None:
        """Starts the command; the same one each time."""
        place = self.folder / "config.yaml"
        place.write_text(self._file())
        self.logs.append(self.folder / f"driver-{len(self.logs)}.log")
        command = [sys.executable, "-m", "smt_ray", self.command, place, *overrides]
        command += ["--until", self.until] if self.until else []
        inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        self.driver = processes.start(command, self.logs[-1], inherited | dict(self.environment))

    def _file(self) -> str:
        if self.command == "run":
            return to_yaml(self.config)
        run = yaml.safe_load(to_yaml(self.config))
        return yaml.safe_dump({"name": run.pop("name"), "run": run, **self.around})

    def ends(self) -> int:
        """Waits for the driver; returns its exit code. All its processes are ended."""
        assert self.driver is not None
        try:
            return self.driver.wait(timeout=_PATIENCE_S)
        finally:
            processes.kill(self.driver)

    def said(self) -> str:
        """What the latest driver printed."""
        return self.logs[-1].read_text()

    def last_line(self) -> str:
        """The last line that the latest driver printed."""
        return self.said().rstrip().splitlines()[-1]

    def wait_for(self, happens: Callable[[], bool], what: str) -> None:
        """Waits until something happens in the run."""
        assert self.driver is not None
        deadline = time.monotonic() + _PATIENCE_S
        while not happens():
            assert self.driver.poll() is None, f"ended without {what}: {self.said()}"
            assert time.monotonic() < deadline, f"no {what}: {self.said()}"
            time.sleep(0.02)

    def kill(self, name: str, signal: int, *, number: int = 1) -> None:
        """Sends a signal to processes of the run, as soon as there are any of that name."""
        found: list[psutil.Process] = []

        def are_there() -> bool:
            found[:] = self._named(name)
            return len(found) >= number

        self.wait_for(are_there, name)
        for process in found[:number]:
            process.send_signal(signal)

    def _named(self, name: str) -> list[psutil.Process]:
        assert self.driver is not None
        members = []
        for pid in processes.members(self.driver.pid):
            try:
                process = psutil.Process(pid)
                if process.name().startswith(name) and process.status() != psutil.STATUS_ZOMBIE:
                    members.append(process)
            except psutil.NoSuchProcess:
                continue
        return sorted(members, key=lambda process: process.pid)

    def trains(self, step: int = 10) -> None:
        """Waits until the checkpoint of a step is begun; the one before it is complete."""
        self.wait_for(lambda: self.reached() >= step, f"checkpoint {step}")

    def reached(self) -> int:
        """The step of the latest checkpoint."""
        return max((int(p.name.split("-")[1]) for p in self.checkpoints()), default=0)

    def checkpoints(self) -> Sequence[Path]:
        """The folders of the checkpoints, in their order."""
        return sorted(Path(self.config.storage).glob("stages/training-*/checkpoints/step-*"))

    def stage(self, key: str) -> Path:
        """A finished stage's folder."""
        stages = RunFolder.open(Storage(self.config.storage), self.config.name).manifest().stages
        return Path(self.config.storage) / "stages" / stages[key].stage

    def adapter(self) -> dict[str, bytes]:
        """The adapter's files."""
        return files(self.stage("training") / "adapter")

    def losses(self) -> dict[int, float]:
        """Step -> the loss in its record; each step has one record."""
        lines = (self.stage("training") / RECORDS).read_text().splitlines()
        found = [json.loads(line) for line in lines]
        losses = {r["step"]: r["metrics"]["train/loss"] for r in found if r["step"]}
        assert len(losses) == len([r for r in found if r["step"]])
        return losses


def files(folder: Path) -> dict[str, bytes]:
    """The contents of the files of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
