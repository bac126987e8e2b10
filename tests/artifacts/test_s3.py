"""A storage in a bucket works with a real S3 server on loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from smt_ray.artifacts.storage import Storage
from smt_ray.errors import UserError
from tests.object_store import BUCKET, s3_server


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    with s3_server() as variables:
        yield variables


@pytest.fixture(autouse=True)
def _environment(addresses: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in addresses.items():
        monkeypatch.setenv(name, value)


def test_written_files_are_listed_and_read_and_make_no_folders() -> None:
    storage = Storage(f"s3://{BUCKET}/one")
    storage.check_writable()
    assert storage.list_files("") == []
    storage.write_bytes("a/b/empty", b"")
    storage.write_json("a/value.json", {"x": 1})
    assert Storage(f"s3://{BUCKET}").list_files("one") == ["a/b/empty", "a/value.json"]
    assert storage.read_json("a", "value.json") == {"x": 1}
    assert storage.exists("a/b")
    assert not storage.exists("a/c")
    assert storage.list_folders("a") == ["b"]
    with storage.local("a") as folder:
        assert (folder / "b" / "empty").read_bytes() == b""


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize("region", ["us-east-1", "auto", None])
def test_the_store_is_the_one_that_the_usual_variables_name(
    addresses: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, region: str | None
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv(name, addresses["AWS_ENDPOINT_URL"])
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    if region:
        monkeypatch.setenv("AWS_REGION", region)
    storage = Storage(f"s3://{BUCKET}/two")
    storage.write_bytes("file", b"x")
    assert storage.read_bytes("file") == b"x"


def test_every_uri_keeps_the_settings_of_the_store(
    addresses: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    host = addresses["AWS_ENDPOINT_URL"].removeprefix("http://")
    settings = f"?endpoint_override={host}&scheme=http"
    storage = Storage(f"s3://{BUCKET}/three/{settings}")
    storage.write_bytes("stages/file", b"x")
    assert storage.uri("stages") == f"s3://{BUCKET}/three/stages{settings}"
    assert Storage(storage.uri("stages")).read_bytes("file") == b"x"
    assert Storage(storage.root).list_files("") == ["stages/file"]


def test_a_missing_bucket_is_reported() -> None:
    with pytest.raises(UserError, match="specified bucket does not exist"):
        Storage("s3://nobodys-bucket/x").check_writable()


def test_keys_in_the_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match=r"^storage: must not hold keys") as caught:
        Storage(f"s3://me:canary@{BUCKET}/x")
    assert "canary" not in str(caught.value)
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.fix


def test_sizes_times_and_deletions_are_those_of_the_bucket() -> None:
    storage = Storage(f"s3://{BUCKET}/four")
    for place in ("stages/a/one", "stages/a/b/two", "stages/c/three", "top"):
        storage.write_bytes(place, place.encode())
    assert storage.sizes("stages") == {"a/one": 12, "a/b/two": 14, "c/three": 14}
    assert storage.sizes("", recursive=False) == {"top": 3}
    assert storage.sizes("nothing") == {}
    assert abs(storage.changed_s("top") - time.time()) < 60
    storage.delete_folder("stages/a")
    storage.delete_folder("stages/nothing")
    storage.delete_file("top")
    assert storage.list_files("") == ["stages/c/three"]
    with pytest.raises(FileNotFoundError):
        storage.changed_s("top")
