"""Claims about all files below infra/: tags, secrets, addresses and users."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.files import tracked_files

IMAGE = re.compile(r"^\s*(?:-\s*)?(?:FROM|image:|COPY --from=)\s*(\S+)", re.MULTILINE)
EXACT_TAG = re.compile(r"[\w./-]+:(?=[^:]*\d)[\w.-]+\Z")
SECRET_NAME = re.compile(r"TOKEN|PASSWORD|SECRET|CREDENTIAL|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
# These names look like secrets, but the values are a user name and a mode.
NO_SECRETS = {("AWS_ACCESS_KEY_ID", "mlflow"), ("RAY_AUTH_MODE", "token")}
# The beginnings of well-known tokens and keys, and addresses that contain a password.
LITERAL_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{10}|AKIA[A-Z0-9]{8}|ghp_\w{8}|-----BEGIN|://[^/\s:@$]+:[^@\s/$]+@"
)
Documents = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def texts(infra: Path) -> dict[str, str]:
    files = tracked_files(infra)
    assert len(files) > 15
    return {str(file.relative_to(infra)): file.read_text(encoding="utf-8") for file in files}


@pytest.fixture(scope="module")
def services(infra: Path) -> Documents:
    """compose.yaml's services by name."""
    found: Documents = yaml.safe_load((infra / "mlflow" / "compose.yaml").read_text())["services"]
    return found


@pytest.fixture(scope="module")
def dockerfiles(texts: dict[str, str]) -> dict[str, str]:
    found = {name: text for name, text in texts.items() if name.endswith("Dockerfile")}
    assert len(found) == 3
    return found


def test_every_image_has_an_exact_tag(texts: dict[str, str]) -> None:
    stages = {s for text in texts.values() for s in re.findall(r"^FROM \S+ AS (\S+)", text, re.M)}
    images = {image for text in texts.values() for image in IMAGE.findall(text)} - stages
    assert len(images) >= 6
    assert not [image for image in images if not EXACT_TAG.match(image) or "latest" in image]


@pytest.mark.parametrize("image", ["ray", "ray:latest", "ray:nightly", "a.b:5000/ray"])
def test_an_inexact_tag_is_found(image: str) -> None:
    assert not EXACT_TAG.match(image)


def assignments(node: Any) -> Iterator[tuple[str, object]]:
    """All (name, value) pairs of a document: NAME: value, name/value and NAME=value."""
    if isinstance(node, dict):
        if isinstance(node.get("name"), str) and "value" in node:
            yield node["name"], node["value"]
        for key, value in node.items():
            if not isinstance(value, dict | list):
                yield str(key), value
            yield from assignments(value)
    elif isinstance(node, list):
        for item in node:
            yield from assignments(item)
    elif isinstance(node, str):
        yield from re.findall(r"(?:^|[\s=])([A-Z][A-Z0-9_]+)=(\S+)", node)


def test_no_document_holds_a_secret(texts: dict[str, str]) -> None:
    for file, text in texts.items():
        assert not LITERAL_SECRET.search(text), file
        if file.endswith(".yaml"):
            for name, value in assignments(list(yaml.safe_load_all(text))):
                fetched = str(value).startswith("${") and ":?" in str(value)
                if re.fullmatch(r"[A-Z0-9_]+", name) and SECRET_NAME.search(name) and not fetched:
                    assert (name, value) in NO_SECRETS, f"{file}: {name}"


def test_examples_of_secrets_are_empty_and_git_ignores_their_copies(
    texts: dict[str, str], infra: Path
) -> None:
    examples = {name: text for name, text in texts.items() if name.endswith(".example")}
    assert len(examples) == 3
    copies = [name.removesuffix(".example") for name in examples]
    seen = subprocess.run(
        ["git", "check-ignore", *copies], cwd=infra, capture_output=True, text=True, check=False
    )
    assert seen.stdout.splitlines() == copies
    for text in examples.values():
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert lines
        assert all(re.fullmatch(r"[A-Z0-9_]+=", line) for line in lines)


def test_dockerfiles_take_no_secrets(dockerfiles: dict[str, str]) -> None:
    for text in dockerfiles.values():
        names = re.findall(r"^(?:ARG|ENV) +(\w+)", text, re.MULTILINE)
        assert not [name for name in names if SECRET_NAME.search(name)]


def test_ray_requires_a_token(clusters: Documents, launchers: Documents) -> None:
    for spec in clusters.values():
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"].get("serviceType", "ClusterIP") == "ClusterIP"
    for config in launchers.values():
        assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]


def test_servers_listen_only_on_loopback_or_behind_a_login(
    texts: dict[str, str], launchers: Documents, services: Documents
) -> None:
    wide = {file for file, text in texts.items() if re.search(r"host\S*0\.0\.0\.0", text)}
    assert wide == {"mlflow/compose.yaml"}
    assert "--app-name=basic-auth" in services["mlflow"]["command"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(str(port).startswith("127.0.0.1:") for port in published)
    assert not [service for service in services.values() if "network_mode" in service]
    for config in launchers.values():
        (head,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
        assert "--dashboard-host=127.0.0.1" in head


def test_no_pod_is_root_or_can_become_it(pods: Documents, clusters: Documents) -> None:
    for name, pod in pods.items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] == security["runAsGroup"] == 1000, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
    containers = [c for pod in pods.values() for c in pod["containers"]]
    for container in [*containers, *(spec["autoscalerOptions"] for spec in clusters.values())]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_no_other_container_is_root(
    dockerfiles: dict[str, str], services: Documents, launchers: Documents
) -> None:
    for name, text in dockerfiles.items():
        users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
        assert users[-1] == "1000:1000", name
    for name, service in services.items():
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.get("privileged"), name
    for config in launchers.values():
        options = config["docker"]["run_options"] + config["docker"]["worker_run_options"]
        assert "--security-opt=no-new-privileges" in options
        assert not [o for o in options if o.startswith(("--user", "--privileged", "--cap-add"))]


def test_a_submitted_working_directory_contains_no_secrets(infra: Path, tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    work = tmp_path / "work"
    shutil.copytree(infra, work / "infra", ignore=shutil.ignore_patterns("*.env"))
    (work / "infra" / "kuberay" / "secrets.env").write_text("HF_TOKEN=x")
    (work / "infra" / "mlflow" / ".env").write_text("POSTGRES_PASSWORD=x")
    for directory in (work, work / "infra"):
        package = tmp_path / f"{directory.name}.zip"
        create_package(str(directory), package, include_gitignore=True)
        names = zipfile.ZipFile(package).namelist()
        assert any(name.endswith("raycluster.yaml") for name in names)
        assert not [name for name in names if name.endswith(".env")]
