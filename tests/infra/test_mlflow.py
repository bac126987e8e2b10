"""Claims about the tracking server's compose file: its schema, its versions and its names."""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compose_spec
import pytest

from tests.infra.files import read_lock


def read_compose(text: str) -> dict[str, Any]:
    """Parses a file by the Compose specification; unknown fields and missing names are errors."""
    compose = compose_spec.PyOptions(apply_merge=True).from_yaml(text)
    compose.validate()
    return compose.to_dict()


@pytest.fixture(scope="module")
def text(infra: Path) -> str:
    return (infra / "mlflow" / "compose.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def services(text: str) -> dict[str, Any]:
    found: dict[str, Any] = read_compose(text)["services"]
    return found


def test_the_compose_file_fits_the_specification(services: dict[str, Any]) -> None:
    assert list(services) == ["postgres", "minio", "bucket", "mlflow"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("healthcheck:", "healthchek:", 1),
        lambda text: text.replace("internal: true", "internal: 3"),
        lambda text: text.replace("[inside, outside]", "[inside, elsewhere]"),
        lambda text: text.replace("service_healthy", "service_helthy", 1),
        lambda text: text.replace("127.0.0.1:5000:5000", "127.0.0.1:5000:http"),
    ],
)
def test_a_mistake_in_the_compose_file_is_an_error(text: str, edit: Callable[[str], str]) -> None:
    assert edit(text) != text
    with pytest.raises(ValueError, match=r"\w"):
        read_compose(edit(text))


def test_mounted_volumes_are_declared(text: str, services: dict[str, Any]) -> None:
    mounted = [volume for service in services.values() for volume in service.get("volumes", [])]
    names = {str(volume).partition(":")[0] for volume in mounted}
    assert names == set(read_compose(text)["volumes"]) == {"postgres", "minio"}


def test_services_wait_until_the_services_that_they_call_are_healthy(
    services: dict[str, Any],
) -> None:
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            ends = services[other]["restart"] == "no"
            wanted = "service_completed_successfully" if ends else "service_healthy"
            assert how["condition"] == wanted
            assert ends or services[other]["healthcheck"]["test"]
    assert set(services["mlflow"]["depends_on"]) == {"postgres", "bucket"}


def test_the_server_finds_its_database_and_its_bucket(
    services: dict[str, Any], infra: Path
) -> None:
    database, server = services["postgres"]["environment"], services["mlflow"]
    name = database["POSTGRES_DB"]
    # For postgresql:// alone, SQLAlchemy would choose a driver that is not installed.
    address = f"postgresql+psycopg2:///{name}"
    assert f"--backend-store-uri={address}" in server["command"]
    logins = configparser.ConfigParser()
    logins.read(infra / "mlflow" / "basic_auth.ini")
    assert logins["mlflow"]["database_uri"] == address
    assert server["environment"]["PGHOST"] == "postgres"
    assert server["environment"]["PGUSER"] == database["POSTGRES_USER"]
    assert server["environment"]["PGPASSWORD"] == database["POSTGRES_PASSWORD"]
    bucket = services["bucket"]["environment"]
    assert f"--artifacts-destination=s3://{bucket['S3_BUCKET']}/artifacts" in server["command"]
    for client in (bucket, server["environment"]):
        assert client["MLFLOW_S3_ENDPOINT_URL"] == "http://minio:9000"
        store = services["minio"]["environment"]
        assert client["AWS_ACCESS_KEY_ID"] == store["MINIO_ROOT_USER"]
        assert client["AWS_SECRET_ACCESS_KEY"] == store["MINIO_ROOT_PASSWORD"]


def test_the_example_names_every_variable_of_the_compose_file(text: str, infra: Path) -> None:
    example = (infra / "mlflow" / ".env.example").read_text(encoding="utf-8")
    names = set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    assert names == set(re.findall(r"\$\{(\w+)[:}]", text))


def test_the_server_has_the_version_of_the_client_and_is_locked(
    services: dict[str, Any], infra: Path, locked: dict[str, str]
) -> None:
    server = read_lock(infra / "mlflow" / "requirements.txt")
    assert {n: v for n, v in server.items() if locked.get(n, v) != v} == {}
    assert {"mlflow", "flask-wtf", "psycopg2-binary", "boto3"} <= set(server)
    cloud = read_lock(infra / "docker" / "cloud-requirements.txt")
    assert {n for n, v in cloud.items() if server.get(n, v) != v} == set()
    for name in ("mlflow", "bucket"):
        assert services[name]["image"] == f"smt-ray-mlflow:{locked['mlflow']}"


def test_the_files_that_the_image_copies_exist(infra: Path) -> None:
    dockerfile = (infra / "mlflow" / "Dockerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (\S+) \S+$", dockerfile, re.MULTILINE)
    assert len(copied) == 3
    assert all((infra / "mlflow" / name).is_file() for name in copied)
