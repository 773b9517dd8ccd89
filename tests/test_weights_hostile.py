"""Hostile files: each ends in one clear error, nothing runs, and memory and time stay bounded."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from counting import error_and_calls, num_calls
from hostile_torch import SIX, STATE, state_of, storage, tensor, torch_bytes, with_pickle
from hostile_weights import CONV, IMAGES, all_hostile, onnx_bytes, onnx_tensor, outside, safetensors_bytes
from onelook.errors import WeightsError
from onelook.networks.build import build
from onelook.weights import load_weights, read_checkpoint, save_weights

NAMES = sorted(all_hostile(Path("touched")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every hostile file; `touched` beside them is what none of them may make."""
    place = tmp_path_factory.mktemp("hostile")
    (place / "files").mkdir()
    for index, (_, content) in enumerate(sorted(all_hostile(place / "touched").items())):
        (place / "files" / f"{index}.pth").write_bytes(content)
    (place / "files" / "beside.bin").write_bytes(bytes(24))
    (place / "secret.bin").write_bytes(bytes(24))
    return place


@pytest.mark.parametrize("word", NAMES)
def test_hostile_file_ends_in_one_error(word: str, folder: Path) -> None:
    path = folder / "files" / f"{NAMES.index(word)}.pth"
    error, calls = error_and_calls(WeightsError, lambda: read_checkpoint(path))
    assert calls < 100_000 + 10 * path.stat().st_size  # what is nested a million times takes no square of it
    message = str(error)
    assert str(path) in message
    assert error.remedy
    assert len(message) < 1000
    assert all(letter.isprintable() or letter == "\n" for letter in message)
    assert not (folder / "touched").exists()


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("zip: posix.system", "posix.system"),
        ("plain: eval, protocol 4", "builtins.eval"),
        ("zip: builtins.getattr by stack", "builtins.getattr"),
        ("zip: hidden in the hooks", "os.system"),
        ("zip: a repository's class", "models.yolo.Model"),
        ("zip: state for a list", "list"),
    ],
)
def test_refusal_names_what_was_asked_for(word: str, name: str, folder: Path) -> None:
    with pytest.raises(WeightsError, match=name):
        read_checkpoint(folder / "files" / f"{NAMES.index(word)}.pth")


def test_damage_at_any_place_is_an_error_or_harmless(tmp_path: Path) -> None:
    rng = random.Random(0)
    exported = onnx_bytes(b"")
    originals = [
        torch_bytes(),
        torch_bytes(_use_new_zipfile_serialization=False),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}),
        exported,
    ]
    path = tmp_path / "weights.bin"
    for _ in range(1_000):
        content = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            read_checkpoint(path)
        except WeightsError as error:
            assert str(path) in str(error)


def test_many_tensors_of_one_storage_take_no_memory(tmp_path: Path) -> None:
    count = 2_000_000
    data = bytes(4 * count)
    entries = b"".join(b"X\x04\x00\x00\x00%04d" % index + b"h\x07" for index in range(5_000))
    made = tensor((count,), (1,), count=b"J" + count.to_bytes(4, "little"))
    program = b"\x80\x02" + made + b"q\x070}(" + entries + b"u."
    path = tmp_path / "x.pth"
    path.write_bytes(with_pickle(program, d0=data))
    sizes: list[int] = []
    calls = num_calls(lambda: sizes.append(len(read_checkpoint(path).tensors)))
    assert sizes == [5_000] and calls < 500_000


def test_storage_of_two_types_is_an_error(tmp_path: Path) -> None:
    program = state_of(tensor(), b"0" + storage("HalfStorage") + b"0" + tensor())
    (tmp_path / "x.pth").write_bytes(with_pickle(program, d0=SIX))
    with pytest.raises(WeightsError, match="two types"):
        read_checkpoint(tmp_path / "x.pth")


def test_enormous_files_are_refused_at_once(tmp_path: Path) -> None:
    with open(tmp_path / "x.safetensors", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(WeightsError, match=r"1\.1 TB"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_truncated_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    for content in (torch_bytes(), torch_bytes(_use_new_zipfile_serialization=False)):
        for length in range(0, len(content) - 1, 7):
            path.write_bytes(content[:length])
            with pytest.raises(WeightsError, match=r"weights\.bin"):
                read_checkpoint(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device"])
def test_what_is_no_file_is_an_error(kind: str, tmp_path: Path) -> None:
    path = {"missing": tmp_path / "none.pth", "folder": tmp_path, "device": Path("/dev/zero")}.get(kind, tmp_path / "p")
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(WeightsError, match=str(path)):
        read_checkpoint(path)


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "secret.bin")
    graph = IMAGES + CONV + onnx_tensor(b"b", (2,), bytes(8)) + onnx_tensor(raw=None, more=outside(location="link.bin"))
    path = tmp_path / "model" / "x.onnx"
    path.write_bytes(onnx_bytes(graph))
    with pytest.raises(WeightsError, match="outside the model's folder"):
        read_checkpoint(path)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    values = torch.arange(6.0)
    (tmp_path / "data.bin").write_bytes(bytes(8) + values.numpy().tobytes())
    stored = outside(location="data.bin", offset="8", length="24")
    graph = IMAGES + CONV + onnx_tensor(b"b", (2,), bytes(8)) + onnx_tensor(raw=None, more=stored)
    (tmp_path / "x.onnx").write_bytes(onnx_bytes(graph))
    assert torch.equal(read_checkpoint(tmp_path / "x.onnx").tensors["w"].flatten(), values)


def test_values_that_are_not_finite_leave_the_model_as_it_was(tmp_path: Path) -> None:
    model = build("yolox-nano")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    broken = build("yolox-nano")
    with torch.no_grad():
        broken.head.levels[2].boxes.weight[0, 0] = float("nan")
    save_weights(broken, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="not finite"):
        load_weights(model, tmp_path / "x.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


LIMITED = """
import resource, sys
from pathlib import Path
import onelook.weights
from onelook.errors import WeightsError
from onelook.weights import read_checkpoint
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()  # addresses, what RLIMIT_AS counts
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_checkpoint(path)
        assert path.name == "beside.bin", path
    except WeightsError:
        pass
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory limits are Linux's")
def test_all_hostile_files_fit_in_little_memory(folder: Path) -> None:
    """Reading them asks for less than 400 MB of addresses beyond those in use before: the system refuses more.

    One thread and one arena: the stacks and arenas of others would count, by the machine's number of cores.
    """
    (folder / "files" / "beside.bin").unlink(missing_ok=True)
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    environment = {**os.environ, **alone, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    command = [sys.executable, "-c", LIMITED, str(folder / "files")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_ordinary_file_still_loads(tmp_path: Path) -> None:
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        path = tmp_path / "x.pth"
        path.write_bytes(torch_bytes({"model": STATE, "optimizer": {"state": {}, "lr": 0.1}}, **options))
        tensors = read_checkpoint(path).tensors
        assert tensors.keys() == STATE.keys()
        assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)
