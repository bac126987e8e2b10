"""Claims about the files of the cluster launcher, which Ray itself checks and completes here."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FILES = ["aws.yaml", "gcp.yaml"]
Launchers = dict[str, dict[str, Any]]
# Made-up names and ids: each must be marked as one that the reader must replace.
PLACEHOLDER = re.compile(r"-0{17}|::0{12}:|registry\.example\.com|example-project|10\.0\.0\.2")


def prepare(config: dict[str, Any]) -> dict[str, Any]:
    """Completes and checks a config as ``ray up`` does before it calls the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("file", FILES)
def test_ray_accepts_a_launcher_file(launchers: Launchers, file: str) -> None:
    prepared = prepare(launchers[file])
    assert prepared["available_node_types"]["gpu"]["max_workers"] == prepared["max_workers"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config.update(idle_timeout=5),
        lambda config: config["docker"].update(run_option=[]),
        lambda config: config["available_node_types"]["gpu"].pop("node_config"),
        lambda config: config["available_node_types"]["gpu"].update(min_workers="1"),
        lambda config: config["provider"].pop("type"),
    ],
)
def test_ray_refuses_a_mistake(launchers: Launchers, edit: Callable[[Any], Any]) -> None:
    config = copy.deepcopy(launchers["aws.yaml"])
    edit(config)
    with pytest.raises((jsonschema.ValidationError, KeyError)):
        prepare(config)


@pytest.mark.parametrize("file", FILES)
def test_ray_adds_no_default_command(launchers: Launchers, file: str) -> None:
    prepared, given = prepare(launchers[file]), launchers[file]
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert prepared[key] == given[key] == []
    for key in ("head_start_ray_commands", "worker_start_ray_commands", "initialization_commands"):
        assert prepared[key] == given[key] != []
    assert set(prepared["available_node_types"]) == {"head", "gpu"}
    assert given["head_node_type"] == "head"


@pytest.mark.parametrize("file", FILES)
def test_the_container_gets_the_tokens_and_files_that_the_machine_fetched(
    launchers: Launchers, file: str
) -> None:
    config = launchers[file]
    options = dict(option.split("=", 1) for option in config["docker"]["run_options"][:1])
    home = f"/home/{config['auth']['ssh_user']}"
    before = "\n".join(config["initialization_commands"])
    assert options["--env-file"].replace(home, "~") in before
    assert "umask 077" in before
    assert "--volume=/shared:/shared" in config["docker"]["run_options"]
    assert " /shared" in before
    # The image's user, who is not root, writes there.
    assert (
        "install -d -o 1000 -g 1000 /shared/smt_ray /shared/huggingface /shared/LLM-Adapters"
        in before
    )


@pytest.mark.parametrize("file", FILES)
def test_machines_run_the_image_that_the_dockerfile_builds(
    launchers: Launchers, file: str, image: str
) -> None:
    docker = launchers[file]["docker"]
    assert docker["image"] == image
    assert not {key for key in docker if key.endswith("image")} - {"image"}


@pytest.mark.parametrize("file", FILES)
def test_values_that_the_reader_must_replace_are_marked(infra: Path, file: str) -> None:
    lines = (infra / "ray-cluster" / file).read_text(encoding="utf-8").splitlines()
    found = 0
    for number, line in enumerate(lines):
        if PLACEHOLDER.search(line):
            around = lines[max(0, number - 5) : number + 1]
            assert any("YOURS" in near for near in around) or "secrets" in "".join(around), line
            found += 1
    assert found >= 4


def test_both_clouds_start_ray_in_the_same_way(launchers: Launchers) -> None:
    for key in ("head_start_ray_commands", "worker_start_ray_commands", "docker"):
        assert yaml.safe_dump(launchers["aws.yaml"][key]) == yaml.safe_dump(
            launchers["gcp.yaml"][key]
        )
