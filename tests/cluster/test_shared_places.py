"""Local files must be visible on every node, and every node gets the driver's variables."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smt_ray.cluster import shared_places
from smt_ray.cluster.shared_places import check_shared, local_places, refuse_unshared
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from tests import processes

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_local_storage_and_an_sqlite_file_outside_it_are_local_places(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    assert local_places(make_config()) == {"storage": storage}
    database = f"tracking.uri=sqlite:///{tmp_path}/other/m.db"
    assert local_places(make_config(database)) == {
        "storage": storage,
        "tracking.uri": tmp_path / "other",
    }
    assert local_places(make_config(database, "tracking.enabled=false")) == {"storage": storage}


def test_an_object_store_and_a_server_are_not_local_places(make_config: MakeConfig) -> None:
    remote = "storage=memory://bucket/runs"
    assert not local_places(make_config(remote, "tracking.uri=http://there:5000"))
    assert not local_places(make_config(remote, "tracking.enabled=false"))
    assert not local_places(make_config(remote), tracks=False)  # an evaluation is not tracked


@pytest.mark.parametrize(
    ("field", "fix"), [("storage", "object store"), ("tracking.uri", "server")]
)
def test_a_place_that_nodes_do_not_see_is_refused_with_the_fix(field: str, fix: str) -> None:
    places = {"storage": Path("/runs"), "tracking.uri": Path("/tracking")}
    with pytest.raises(UserError, match="2 of 3 do not see it") as caught:
        refuse_unshared(places, {field: ["node-b", "node-c"]}, 3)
    assert (caught.value.field, caught.value.got) == (field, str(places[field]))
    assert fix in caught.value.fix


def test_places_that_all_nodes_see_are_accepted() -> None:
    refuse_unshared({"storage": Path("/shared")}, {"storage": []}, 3)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [((), "storage/mlflow.db"), (("tracking.uri=sqlite:////shared/m.db",), "/shared/m.db")],
)
def test_an_sqlite_file_is_refused_for_a_search_on_several_nodes_even_if_all_see_it(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], name: str
) -> None:
    monkeypatch.setattr(shared_places, "_other_nodes", lambda: ["node-b"])
    monkeypatch.setattr(shared_places, "find_missed", lambda nodes, probes: {})
    remote = ("storage=memory://bucket/runs",) if overrides else ()
    config = make_config(*overrides, *remote)
    with pytest.raises(UserError, match="must be a server for a search on 2 nodes") as raised:
        check_shared(config, searches=True)
    assert raised.value.field == "tracking.uri"
    assert str(raised.value.got).endswith(name)
    assert "infra/mlflow" in raised.value.fix
    for other in ("tracking.uri=http://there:5000", "tracking.enabled=false"):
        check_shared(make_config(*remote, other), searches=True)


def test_an_sqlite_file_that_only_the_drivers_node_writes_is_accepted(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_places, "find_missed", lambda nodes, probes: {})
    monkeypatch.setattr(shared_places, "_other_nodes", list)
    check_shared(make_config(), searches=True)  # all trials are on the one node
    monkeypatch.setattr(shared_places, "_other_nodes", lambda: ["node-b"])
    check_shared(make_config())


CANARY = "canary51d2e8"
DRIVERS = {
    "HF_TOKEN": f"hf_{CANARY}",
    "AWS_SECRET_ACCESS_KEY": f"aws_{CANARY}",
    "MLFLOW_TRACKING_PASSWORD": f"mlflow_{CANARY}",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "HF_HOME": "/cache",
    "HF_HUB_OFFLINE": "1",
}
OF_THE_JOB = {"HF_HOME": "/of/the/job"}  # it takes precedence over the driver's
NOT_INHERITED = {*DRIVERS, "RAY_ADDRESS"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, as the paths of Ray's sockets must be short."""
    path = Path(tempfile.mkdtemp(prefix="smt", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
def test_another_node_gets_the_drivers_secrets_without_logs_and_reports_files_it_does_not_see(
    folder: Path,
) -> None:
    script, log = Path(__file__).with_name("two_nodes.py"), folder / "driver.log"
    environment = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    job = {"runtime_env": {"env_vars": OF_THE_JOB}, "metadata": {}}
    environment |= {
        "OF_THE_DRIVER": json.dumps(DRIVERS | {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}),
        "ASKED": json.dumps(list(DRIVERS)),
        "RAY_TMPDIR": str(folder),
    }
    driver = processes.start([sys.executable, script, folder], log, environment)
    try:
        assert driver.wait(timeout=300) == 0, log.read_text()
    finally:
        processes.kill(driver)
    (line,) = [text for text in log.read_text().splitlines() if text.startswith("{")]
    answer = json.loads(line)
    assert answer["environment"] == DRIVERS | OF_THE_JOB
    assert answer["missed"] == {"storage": 0, "tracking.uri": 1}
    written = [p for p in folder.rglob("*") if p.is_file() and p != log and not p.is_symlink()]
    assert any(path.name.startswith("worker") for path in written)
    assert not [path for path in written if CANARY.encode() in path.read_bytes()]
