"""Claims about KubeRay's manifests: they fit the CRDs and each other."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.load import load_config, validate_config
from smt_ray.config.search import load_search
from tests.infra.structural_schema import at, find_errors, served_schema, strict

KINDS = {"RayCluster", "RayJob", "Pod", "PersistentVolumeClaim", "ConfigMap"}
METADATA = {"name", "namespace", "labels", "annotations"}
POD_TEMPLATE = ("spec", "headGroupSpec", "template", "spec")
CLAIM = ("volumes", "[]", "ephemeral", "volumeClaimTemplate", "spec")
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="session")
def schemas(crds: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Kind -> strict schema. The CRDs contain the schemas of Kubernetes' pods and volume claims."""
    found = {kind: served_schema(crd, "ray.io/v1") for kind, crd in crds.items()}
    pod = at(found["RayCluster"], *POD_TEMPLATE)
    return {kind: strict(schema) for kind, schema in found.items()} | {
        "Pod": strict(pod),
        "PersistentVolumeClaim": strict(at(pod, *CLAIM)),
    }


def errors_of(manifest: dict[str, Any], schemas: dict[str, dict[str, Any]]) -> list[str]:
    if manifest["apiVersion"] == "ray.io/v1":
        return find_errors(schemas[manifest["kind"]], manifest)
    return find_errors(schemas[manifest["kind"]], manifest["spec"])


def test_every_manifest_has_a_kind_that_is_checked(manifests: dict[str, dict[str, Any]]) -> None:
    assert {manifest["kind"] for manifest in manifests.values()} == KINDS
    for name, manifest in manifests.items():
        own = manifest["kind"].startswith("Ray")
        assert manifest["apiVersion"] == ("ray.io/v1" if own else "v1"), name
        assert set(manifest["metadata"]) <= METADATA, name


def test_manifests_fit_their_schemas(
    manifests: dict[str, dict[str, Any]], schemas: dict[str, dict[str, Any]]
) -> None:
    checked = [m for m in manifests.values() if m["kind"] != "ConfigMap"]
    assert len(checked) == 5
    assert {m["metadata"]["name"]: errors_of(m, schemas) for m in checked} == {
        m["metadata"]["name"]: [] for m in checked
    }


def test_config_maps_hold_only_strings(manifests: dict[str, dict[str, Any]]) -> None:
    found = [m for m in manifests.values() if m["kind"] == "ConfigMap"]
    for manifest in found:
        assert set(manifest) == {"apiVersion", "kind", "metadata", "data"}
        assert all(isinstance(value, str) for value in manifest["data"].values())
    assert found


def head(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["headGroupSpec"]["template"]["spec"]["containers"][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: spec.update(entryPoint="a misspelt field"),
        lambda spec: spec["authOptions"].update(mode="tokens"),
        lambda spec: spec["authOptions"].update(secret="no such field"),
        lambda spec: spec["workerGroupSpecs"][0].update(maxReplicas="8"),
        lambda spec: spec["workerGroupSpecs"][0].pop("template"),
        lambda spec: head(spec)["resources"]["limits"].update(memory="16 GB"),
        lambda spec: head(spec)["securityContext"].update(runAsNonroot=True),
        lambda spec: head(spec)["volumeMounts"].append({"name": "no path"}),
        lambda spec: head(spec)["env"].append({"name": "A", "valueFrom": {"secretRef": {}}}),
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    ],
)
def test_a_field_that_a_cluster_would_refuse_or_drop_is_an_error(
    manifests: dict[str, dict[str, Any]], schemas: dict[str, dict[str, Any]], edit: Edit
) -> None:
    # JSON has no anchors, so an edit of the copy changes only one place.
    manifest = json.loads(json.dumps(manifests["RayCluster/smt-ray"]))
    edit(manifest["spec"])
    assert len(errors_of(manifest, schemas)) == 1


def test_a_version_that_is_not_served_is_an_error(crds: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(LookupError, match=r"not served as ray\.io/v2"):
        served_schema(crds["RayJob"], "ray.io/v2")


def test_all_clusters_are_equal_except_for_the_number_of_workers(
    clusters: dict[str, dict[str, Any]],
) -> None:
    alike = []
    for spec in copy.deepcopy(list(clusters.values())):
        spec["autoscalerOptions"].pop("idleTimeoutSeconds")
        for group in spec["workerGroupSpecs"]:
            low, now, high = (group.pop(k) for k in ("minReplicas", "replicas", "maxReplicas"))
            assert low <= now <= high
        alike.append(spec)
    assert len(alike) == 3
    assert all(spec == alike[0] for spec in alike)


def test_pods_run_the_image_that_the_dockerfile_builds(
    pods: dict[str, dict[str, Any]], image: str
) -> None:
    for name, pod in pods.items():
        assert [c["image"] for c in pod["containers"]] == [image], name


def test_clusters_name_the_locked_version_of_ray(
    clusters: dict[str, dict[str, Any]], locked: dict[str, str]
) -> None:
    assert {spec["rayVersion"] for spec in clusters.values()} == {locked["ray"]}


def test_the_volumes_that_pods_mount_exist(
    pods: dict[str, dict[str, Any]], manifests: dict[str, dict[str, Any]]
) -> None:
    for name, pod in pods.items():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounts = [m["name"] for c in pod["containers"] for m in c.get("volumeMounts", [])]
        assert sorted(mounts) == sorted(volumes), name
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert f"PersistentVolumeClaim/{claim['claimName']}" in manifests, name


def references(pods: dict[str, dict[str, Any]], kind: str) -> set[tuple[str, str]]:
    found = [
        variable["valueFrom"][kind]
        for pod in pods.values()
        for container in pod["containers"]
        for variable in container.get("env", [])
        if kind in variable["valueFrom"]
    ]
    return {(reference["name"], reference["key"]) for reference in found}


def test_the_keys_that_variables_refer_to_exist(
    pods: dict[str, dict[str, Any]], manifests: dict[str, dict[str, Any]], infra: Path
) -> None:
    settings = manifests["ConfigMap/smt-ray-settings"]["data"]
    assert references(pods, "configMapKeyRef") == {("smt-ray-settings", key) for key in settings}
    example = (infra / "kuberay" / "secrets.env.example").read_text(encoding="utf-8").splitlines()
    keys = {line.partition("=")[0] for line in example if not line.startswith("#")}
    assert references(pods, "secretKeyRef") == {("smt-ray-secrets", key) for key in keys}


def test_shared_memory_fits_the_memory_limit(
    pods: dict[str, dict[str, Any]],
) -> None:
    checked = 0
    for pod in pods.values():
        for volume in pod.get("volumes", []):
            if "emptyDir" in volume:
                limits = pod["containers"][0]["resources"]["limits"]
                size = volume["emptyDir"]["sizeLimit"]
                assert size.endswith("Gi")
                assert limits["memory"].endswith("Gi")
                # Ray's objects take 30% of a container's memory by default.
                assert 0.3 < int(size[:-2]) / int(limits["memory"][:-2]) < 0.5
                checked += 1
    assert checked == 6


def test_jobs_have_a_gpu_for_every_rank(
    manifests: dict[str, dict[str, Any]], clusters: dict[str, dict[str, Any]], root: Path
) -> None:
    def command(job: str) -> list[str]:
        return shlex.split(manifests[job]["spec"]["entrypoint"])

    finetune, tune = command("RayJob/smt-ray-finetune"), command("RayJob/smt-ray-tune")
    search = load_search(root / tune[2], tune[3:])
    config = load_config(root / finetune[2], finetune[3:])
    trial = validate_config(search.run | {"name": "trial"})
    runs = {"RayJob/smt-ray-finetune": config, "RayJob/smt-ray-tune": trial}
    assert set(runs) == {name for name in manifests if name.startswith("RayJob/")}
    for job, run in runs.items():
        (group,) = clusters[job]["workerGroupSpecs"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == 1
        # The number is fixed: an idle worker could be removed before its trial or rank starts.
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
        assert group["replicas"] % run.resources.num_workers == 0
        assert run.resources.use_gpu is True
        assert run.resources.cpus_per_worker <= int(limits["cpu"])
        assert run.warmup.num_shards <= run.resources.num_workers
