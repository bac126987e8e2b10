"""One root for everything that is kept: a local folder or any pyarrow/fsspec URI."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from smt_ray.errors import UserError


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
        self.root = (self._base if self.is_local else root).rstrip("/")

    def uri(self, *parts: str) -> str:
        """The absolute path, or the URI, of a place in the storage."""
        return "/".join([self.root, *parts])

    def key(self, *parts: str) -> str:
        """The path of a place as the file system names it."""
        return "/".join([self._base.rstrip("/"), *parts])

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
        self._fs.create_dir(os.path.dirname(self.key(path)), recursive=True)
        # A local file appears by renaming; an object store shows only complete objects.
        target = self.key(path)
        written = f"{target}.{uuid.uuid4().hex[:8]}.part" if self.is_local else target
        with self._fs.open_output_stream(written) as stream:
            stream.write(content)
        if self.is_local:
            os.replace(written, target)

    def read_json(self, *parts: str) -> Any:
        """A JSON file's value."""
        return json.loads(self.read_bytes(*parts))

    def write_json(self, path: str, value: Any) -> None:
        """Writes a JSON file whole or not at all."""
        self.write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())

    def put_file(self, local: str | Path, path: str) -> None:
        """Copies a local file in; a no-op where it already lies there."""
        if self.is_local and os.path.abspath(local) == self.key(path):
            return
        self.write_bytes(path, Path(local).read_bytes())

    def fetch(self, path: str) -> Path:
        """A local path that holds the file or folder: itself, or a fresh copy of a remote one."""
        if self.is_local:
            return Path(self.key(path))
        target = Path(tempfile.mkdtemp(prefix="smt_ray_")) / os.path.basename(path)
        if self._fs.get_file_info(self.key(path)).type == pafs.FileType.Directory:
            target.mkdir()  # copying makes the folders within it alone
        pafs.copy_files(self.key(path), str(target), source_filesystem=self._fs)
        return target

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

    def digest(self, path: str) -> dict[str, Any]:
        """A file's size in bytes and its sha256."""
        sha256, size = hashlib.sha256(), 0
        with self._fs.open_input_stream(self.key(path)) as stream:
            while chunk := stream.read(1 << 22):
                sha256.update(chunk)
                size += len(chunk)
        return {"bytes": size, "sha256": sha256.hexdigest()}


def _resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        fs, path = pafs.FileSystem.from_uri(uri)
        return fs, path
    except (ValueError, OSError):
        pass
    try:
        import fsspec

        backend, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(
            "storage",
            f"no file system serves this URI ({error})",
            got=uri,
            fix="use a local folder, s3://, gs://, or install the fsspec driver",
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(backend)), path
