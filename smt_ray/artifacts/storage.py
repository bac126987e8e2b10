"""One root for everything that is kept: a local folder or any pyarrow/fsspec URI."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.documents.base import Document
from smt_ray.documents.stages import FileDigest
from smt_ray.errors import UserError

D = TypeVar("D", bound=Document)

# Object stores have no folders: creating one would only cost a request.
_OBJECT_STORES = ("s3", "gcs", "abfs")
_AT_ONCE, _CHUNK_BYTES = 8, 1 << 24


class Storage:
    """Files below one root.

    Args:
        root: A local folder (created when first written to) or a URI such as ``s3://bucket/prefix``.

    Raises:
        UserError: No file system serves the URI.
    """

    def __init__(self, root: str) -> None:
        if "://" in root:
            self._fs, self._base = _resolve(root)
        else:
            self._fs = pafs.LocalFileSystem()
            self._base = os.path.abspath(os.path.expanduser(root))
        self.is_local = isinstance(self._fs, pafs.LocalFileSystem)
        # What follows a ? are settings of the file system, such as ?endpoint_override=...
        place, mark, settings = (self._base, "", "") if self.is_local else root.partition("?")
        self._place, self._settings = place.rstrip("/"), mark + settings
        self.root = self.uri()

    def uri(self, *parts: str) -> str:
        """The absolute path, or the URI, of a place in the storage."""
        return "/".join([self._place, *parts]) + self._settings

    def key(self, *parts: str) -> str:
        """The path of a place as the file system names it."""
        return "/".join([self._base.rstrip("/"), *filter(None, parts)])

    def check_writable(self) -> None:
        """Raises a UserError where nothing can be written, before anything is computed."""
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(probe, b"")
            self._fs.delete_file(self.key(probe))
        except (OSError, ValueError) as error:
            raise UserError(
                "storage",
                f"must be writable ({error})",
                got=self.root,
                fix="choose another storage=..., or mend its permissions",
            ) from None

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self._fs.get_file_info(self.key(*parts)).type != pafs.FileType.NotFound)

    def read_bytes(self, *parts: str) -> bytes:
        """A file's content."""
        with self._fs.open_input_stream(self.key(*parts)) as stream:
            return bytes(stream.read())

    def write_bytes(self, path: str, content: bytes) -> None:
        """Writes a file whole or not at all."""
        self._write(path, io.BytesIO(content))

    def _write(self, path: str, source: IO[bytes]) -> None:
        target = self.key(path)
        if self._fs.type_name not in _OBJECT_STORES:
            self._fs.create_dir(os.path.dirname(target), recursive=True)
        # A local file appears by renaming; an object store shows only complete objects.
        written = f"{target}.{uuid.uuid4().hex[:8]}.part" if self.is_local else target
        with self._fs.open_output_stream(written) as stream:
            shutil.copyfileobj(source, stream, _CHUNK_BYTES)
        if self.is_local:
            os.replace(written, target)

    def read_json(self, *parts: str) -> Any:
        """A JSON file's value."""
        return json.loads(self.read_bytes(*parts))

    def read_document(self, kind: type[D], path: str, *, fix: str) -> D:
        """Reads a JSON document.

        Args:
            kind: The type of the document.
            path: The file.
            fix: What the user can do about a damaged file.

        Raises:
            UserError: The file is missing, no JSON, or no such document.
        """
        place = self.uri(path)
        try:
            value = self.read_json(path)
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(place, f"cannot be read ({reason})", fix=fix) from None
        return kind.from_json(value, place=place, fix=fix)

    def write_json(self, path: str, value: Any) -> None:
        """Writes a JSON file whole or not at all."""
        self.write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())

    def put_file(self, local: str | Path, path: str) -> None:
        """Copies a local file in; a no-op where it already lies there."""
        if self.is_local and os.path.abspath(local) == self.key(path):
            return
        with open(local, "rb") as source:
            self._write(path, source)

    @contextmanager
    def local(self, path: str, *, without: tuple[str, ...] = ()) -> Iterator[Path]:
        """A local path that holds a file or folder: itself, or a copy for the block's time.

        What was mapped into memory from a copy may be used after it is gone.

        Args:
            path: The file or folder.
            without: Endings of files in the folder that need not be copied.

        Raises:
            FileNotFoundError: There is nothing there, and it would have to be copied.
        """
        if self.is_local:
            yield Path(self.key(path))
            return
        with scratch_folder() as scratch:
            target = scratch / (os.path.basename(self.key(path)) or "root")
            if self._fs.get_file_info(self.key(path)).type == pafs.FileType.Directory:
                target.mkdir()
                files = [file for file in self.list_files(path) if not file.endswith(without)]
                with ThreadPoolExecutor(_AT_ONCE) as pool:
                    list(pool.map(lambda f: self._copy(self.key(path, f), target / f), files))
            else:
                self._copy(self.key(path), target)
            yield target

    def _copy(self, key: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._fs.open_input_stream(key) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)

    def list_files(self, path: str) -> list[str]:
        """Files below a folder, relative to it, sorted; none where the folder is missing."""
        selector = pafs.FileSelector(self.key(path), recursive=True, allow_not_found=True)
        prefix = self.key(path).rstrip("/") + "/"
        return sorted(
            info.path.removeprefix(prefix)
            for info in self._fs.get_file_info(selector)
            if info.type == pafs.FileType.File
        )

    def list_folders(self, path: str) -> list[str]:
        """Names of the folders directly below a folder."""
        selector = pafs.FileSelector(self.key(path), allow_not_found=True)
        return sorted(
            info.base_name
            for info in self._fs.get_file_info(selector)
            if info.type == pafs.FileType.Directory
        )

    def digest(self, path: str) -> FileDigest:
        """The size and the sha256 of a file."""
        sha256, size = hashlib.sha256(), 0
        with self._fs.open_input_stream(self.key(path)) as stream:
            while chunk := stream.read(1 << 22):
                sha256.update(chunk)
                size += len(chunk)
        return FileDigest(bytes=size, sha256=sha256.hexdigest())


@contextmanager
def local_copy(place: str, *, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """A local path that holds what a path or URI names; see :meth:`Storage.local`.

    Raises:
        UserError: No file system serves the URI.
        FileNotFoundError: There is nothing there, and it would have to be copied.
    """
    if "://" not in place:
        yield Path(place)
        return
    with Storage(place).local("", without=without) as path:
        yield path


def _resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    if urlsplit(uri).password is not None:  # the URI is logged, shown and kept with every run
        raise UserError(
            "storage",
            "must not hold keys",
            got=uri.partition("://")[0] + "://***@" + uri.partition("@")[2],
            fix="set them in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    reason: Exception
    try:
        fs, path = pafs.FileSystem.from_uri(uri)
        return fs, path
    except ValueError as error:
        reason = error  # pyarrow does not know the scheme, or not this form of it
    except OSError as error:
        raise UserError(
            "storage",
            f"cannot be reached ({error})",
            got=uri,
            fix="check the name of the bucket, AWS_REGION and, for a store other than AWS's,"
            " AWS_ENDPOINT_URL",
        ) from None
    try:
        import fsspec

        backend, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(
            "storage",
            f"no file system serves this URI ({error}; {reason})",
            got=uri,
            fix="use a local folder, s3://, gs://, or install the fsspec driver",
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(backend)), path
