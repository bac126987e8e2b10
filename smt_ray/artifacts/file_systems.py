"""The file systems that serve the URIs of storages."""

from __future__ import annotations

from urllib.parse import urlsplit

import pyarrow.fs as pafs

from smt_ray.errors import UserError


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI, by pyarrow or else by fsspec, and the path in it.

    Raises:
        UserError: The URI holds keys, its store cannot be reached, or no file system serves it.
    """
    if urlsplit(uri).password is not None:  # the URI is logged, shown and stored with every run
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
        reason = error  # pyarrow does not know the scheme, or cannot read this form of it
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
