"""Detection and training from and to servers that speak the protocols of S3, Google Cloud Storage and Azure.

The servers are emulators on this machine: moto (S3), gcp-storage-emulator, and Azurite (npm, for Azure), each with the
fsspec package that users install. A test of a server that is not installed is skipped.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import onelook
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.reporter import SilentReporter
from onnx_models import write_model

fsspec = pytest.importorskip("fsspec", reason="needs the extra scale")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra scale")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of the stores' packages

QUIET = SilentReporter()
SHARD, IMAGES = 4, 10
# The account and the key that every Azurite has; they protect nothing.
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def s3(folder: Path, setenv: Callable[[str, str], None]) -> Iterator[str]:
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = pytest.importorskip("moto.server", reason="needs moto[server]").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        setenv(name, "testing")
    setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        yield "s3://bucket"
    finally:
        server.stop()


@contextmanager
def google(folder: Path, setenv: Callable[[str, str], None]) -> Iterator[str]:
    pytest.importorskip("gcsfs", reason="needs gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")
    port = free_port()
    server = emulator.create_server("127.0.0.1", port, in_memory=True)
    server.start()
    setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        yield "gs://bucket"
    finally:
        server.stop()


@contextmanager
def azure(folder: Path, setenv: Callable[[str, str], None]) -> Iterator[str]:
    pytest.importorskip("adlfs", reason="needs adlfs")
    if (program := shutil.which("azurite-blob")) is None:
        pytest.skip("needs azurite-blob (npm install azurite) on the PATH")
    port = free_port()
    command = [program, "--blobPort", str(port), "--location", str(folder), "--silent", "--skipApiVersionCheck"]
    with subprocess.Popen(command) as server:
        ends = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < ends and server.poll() is None, "Azurite did not start"
            time.sleep(0.1)
        setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURITE_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;",
        )
        try:
            yield "az://bucket"
        finally:
            server.terminate()


@pytest.fixture(scope="module", params=[s3, google, azure], ids=["s3", "gs", "az"])
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty bucket."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        address = stack.enter_context(request.param(tmp_path_factory.mktemp("server"), patch.setenv))
        fsspec.filesystem(address.partition(":")[0], skip_instance_cache=True).mkdir("bucket")
        yield address


def upload(folder: Path, address: str) -> Any:
    """Copies the files of a folder, and returns the file system."""
    system, root = fsspec.core.url_to_fs(address)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        system.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return system


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images, a damaged one among them."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(IMAGES):
        cv2.imwrite(str(folder / f"{number}.jpg"), rng.integers(0, 255, (40 + number, 60, 3), np.uint8))
    (folder / "3.jpg").write_bytes((folder / "3.jpg").read_bytes()[:200])
    return folder


@pytest.mark.parametrize("on", ["local", "ray,workers=2,cpus=0.5"])
def test_detection_from_a_store_to_a_store_is_that_on_a_disk(
    bucket: str, on: str, photos: Path, tmp_path: Path
) -> None:
    if on != "local":
        pytest.importorskip("ray", reason="needs the extra scale")
    model, place = write_model(tmp_path / "small.onnx"), f"{bucket}/{on[:3]}"
    system = upload(photos, f"{place}/photos")
    settings: dict[str, Any] = {"shard_size": SHARD, "threads": 1, "reporter": QUIET}
    result = onelook.detect_shards(model, f"{place}/photos", f"{place}/found", on=on, **settings)
    assert (result.images, result.errors, result.shards) == (IMAGES, 1, 3)
    onelook.detect_shards(model, photos, tmp_path / "found", on="local", **settings)

    def detections() -> Any:
        names = sorted(system.ls(f"{place}/found/detections", detail=False, refresh=True))
        tables = [parquet.read_table(system.open(name, "rb")) for name in names]
        return [row for table in tables for row in table.drop_columns(["source", "error"]).to_pylist()]

    expected = parquet.read_table(tmp_path / "found" / "detections").drop_columns(["source", "error"])
    assert detections() == expected.to_pylist()
    system.rm_file(sorted(system.ls(f"{place}/found/detections", detail=False, refresh=True))[1])
    again = onelook.detect_shards(model, f"{place}/photos", f"{place}/found", on=on, **settings)
    assert again.new_images == SHARD and detections() == expected.to_pylist()


def test_a_training_from_shards_in_a_store_is_that_from_the_disk(bucket: str, tmp_path: Path) -> None:
    data = write_synthetic(tmp_path / "data", Scenes(size=(64, 64)), {"train": 16, "val": 6})
    onelook.convert(data, to="shards", out=tmp_path / "shards", shard_size=20_000, reporter=QUIET)
    upload(tmp_path / "shards", f"{bucket}/shards")
    found = {}
    for name, place in {"disk": tmp_path / "shards", "store": f"{bucket}/shards"}.items():
        settings: Any = {"size": 64, "batch": 4, "epochs": 2, "device": "cpu", "workers": 1, "threads": 1}
        result = onelook.train("yolox-nano", place, out=tmp_path / name, **settings, reporter=QUIET)
        assert result.weights is not None
        found[name] = (weights_digest(result.weights), result.metrics)
    assert found["disk"] == found["store"]


def weights_digest(path: Path) -> str:
    from safetensors.torch import load_file

    tensors = [tensor.numpy().tobytes() for _, tensor in sorted(load_file(path).items())]
    return hashlib.sha256(b"".join(tensors)).hexdigest()
