"""Fixtures that read the files of infra/; nothing is started."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.files import read_lock

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def infra() -> Path:
    return INFRA


@pytest.fixture(scope="session")
def locked() -> dict[str, str]:
    """constraints.txt: package -> version."""
    return read_lock(ROOT / "constraints.txt")


@pytest.fixture(scope="session")
def image() -> str:
    """The image that infra/docker builds, tagged as the package's version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"registry.example.com/smt_ray:{project['version']}"


@pytest.fixture(scope="session")
def manifests() -> dict[str, dict[str, Any]]:
    """``kind/name`` -> every manifest of infra/kuberay."""
    files = sorted((INFRA / "kuberay").glob("*.yaml"))
    documents = [d for file in files for d in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    found = {f"{d['kind']}/{d['metadata']['name']}": d for d in documents}
    assert len(found) == len(documents), "two manifests of one kind have the same name"
    return found


@pytest.fixture(scope="session")
def clusters(manifests: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Manifest -> its RayClusterSpec, for the permanent cluster and for each job."""
    return {
        name: m["spec"] if m["kind"] == "RayCluster" else m["spec"]["rayClusterSpec"]
        for name, m in manifests.items()
        if m["kind"] in ("RayCluster", "RayJob")
    }


@pytest.fixture(scope="session")
def pods(
    manifests: dict[str, dict[str, Any]], clusters: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Manifest and role -> the spec of every pod: heads, workers, submitters and single pods."""
    found = {name: m["spec"] for name, m in manifests.items() if m["kind"] == "Pod"}
    for name, manifest in manifests.items():
        if manifest["kind"] == "RayJob":
            found[f"{name} submitter"] = manifest["spec"]["submitterPodTemplate"]["spec"]
    for name, spec in clusters.items():
        found[f"{name} head"] = spec["headGroupSpec"]["template"]["spec"]
        for group in spec["workerGroupSpecs"]:
            found[f"{name} {group['groupName']}"] = group["template"]["spec"]
    assert len(found) == 9
    return found


@pytest.fixture(scope="session")
def launchers() -> dict[str, dict[str, Any]]:
    """File name -> every launcher YAML of infra/ray-cluster."""
    files = sorted((INFRA / "ray-cluster").glob("*.yaml"))
    assert [file.stem for file in files] == ["aws", "gcp"]
    return {file.name: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


@pytest.fixture(scope="session")
def crds() -> dict[str, dict[str, Any]]:
    """Kind -> KubeRay's CRD, which is not part of the repository.

    A folder that the environment names must exist, as in CI. The default folder may be missing.
    """
    named = os.environ.get("SMT_RAY_KUBERAY_CRDS")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "kuberay"
    if not named and not folder.is_dir():
        pytest.skip(f"needs KubeRay's CRDs: no {folder} (set SMT_RAY_KUBERAY_CRDS)")
    # The C parser takes half a second; the Python parser takes seven.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    files = [folder / "ray.io_rayclusters.yaml", folder / "ray.io_rayjobs.yaml"]
    documents = [yaml.load(file.read_text(encoding="utf-8"), Loader=loader) for file in files]
    return {d["spec"]["names"]["kind"]: d for d in documents}
