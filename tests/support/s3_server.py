"""A real S3 server on loopback: moto's, in a process of its own. Run as a script it serves until it is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4


@contextmanager
def s3_server() -> Iterator[str]:
    """Starts a server; yields its address."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def s3_options(endpoint: str) -> dict[str, Any]:
    """Arguments of s3fs for that server."""
    return {
        "key": "k",
        "secret": "s",
        "client_kwargs": {"endpoint_url": endpoint, "region_name": "eu-west-1"},
        "config_kwargs": {"retries": {"max_attempts": 1}},
    }


def new_bucket(endpoint: str) -> str:
    """Makes an empty bucket; returns the URI of a folder in it."""
    import s3fs

    bucket = f"ramole-{uuid4().hex[:12]}"
    s3fs.S3FileSystem(**s3_options(endpoint)).mkdir(bucket)
    return f"s3://{bucket}/store"


def serve() -> None:
    """Serves on a free port, which is written to standard output."""
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    serve()
