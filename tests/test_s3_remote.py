"""Results pushed to storage with an S3 interface come back, by the commands of docs/sd15.md.

The storage is a server on this machine. The test needs `dvc-s3` and `moto[server]`, and is skipped without them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.extras import need_packages

_, boto3, moto_server = need_packages("dvc_s3", "boto3", "moto.server")


@pytest.fixture
def address() -> Generator[str]:
    """The server's, with the bucket `results`."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="results")
    yield f"http://{host}:{port}"
    server.stop()


def test_results_that_were_pushed_are_pulled_on_another_machine(address: str, tmp_path: Path) -> None:
    def dvc(folder: Path, *arguments: str) -> None:
        settings = {
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    dvc(one, "init", "--no-scm")
    dvc(one, "remote", "add", "--default", "storage", "s3://results/naruto-add")
    dvc(one, "remote", "modify", "storage", "endpointurl", address)
    dvc(one, "remote", "modify", "--local", "storage", "access_key_id", "key")
    dvc(one, "remote", "modify", "--local", "storage", "secret_access_key", "secret")
    (one / "weights").write_bytes(bytes(range(256)) * 1000)
    dvc(one, "add", "weights")
    dvc(one, "push")

    shutil.copytree(one, other, ignore=shutil.ignore_patterns("cache", "weights", "site", "tmp"))
    assert not (other / "weights").exists()
    dvc(other, "pull")
    assert (other / "weights").read_bytes() == (one / "weights").read_bytes()
