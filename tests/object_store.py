"""A real S3 server on loopback, and the environment variables of its clients."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BUCKET = "bucket"


class S3Server:
    """An S3 server on loopback with one bucket, which can go away and come back as it was.

    Attributes:
        variables: The environment variables that clients need.
    """

    def __init__(self, access_key: str, secret_key: str) -> None:
        import boto3

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # hides the line of each request
        self._server: Any = None
        self._port = 0
        self.start()
        self.variables = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        boto3.client(
            "s3",
            endpoint_url=self.variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name="us-east-1",
        ).create_bucket(Bucket=BUCKET)

    def start(self) -> None:
        """Answers from now on, at the same address as before."""
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        """Answers no more; the objects are kept."""
        self._server.stop()


@contextmanager
def s3_server(
    access_key: str = "somebody", secret_key: str = "something"
) -> Iterator[dict[str, str]]:
    """Serves S3 with an empty bucket while the context is open.

    Yields:
        The environment variables that clients need.
    """
    server = S3Server(access_key, secret_key)
    try:
        yield server.variables
    finally:
        server.stop()
