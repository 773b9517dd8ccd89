"""The open inference protocol v2: metadata, tensors as JSON and as bytes, errors in its own words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import onelook
from http_server import JPEG, client_of, repository_of
from onelook.serving.repository import Place
from onnx_models import describe


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    with client_of(repository_of(folder)) as client:
        yield client, folder


def local_outputs(path: Path, images: np.ndarray) -> list[np.ndarray]:
    return onelook.load(path).runtime.run(["boxes", "scores"], {"images": images})


def test_metadata_describes_the_server_and_its_models(served):
    client, _ = served
    assert "binary_tensor_data" in client.get("/v2").json()["extensions"]
    found = client.get("/v2/models/small/versions/1").json()
    assert found["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 64, 64]}]
    assert [one["name"] for one in found["outputs"]] == ["boxes", "scores"]
    for address in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/small/ready",
        "/v2/models/small/versions/1/ready",
    ):
        assert client.get(address).status_code == 200
    assert client.get("/v2/models/none/ready").status_code == 404


def test_inference_by_json_returns_the_local_outputs(served):
    client, folder = served
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 64)).astype(np.float32)
    tensor = {"name": "images", "shape": [2, 3, 64, 64], "datatype": "FP32", "data": images.tolist()}
    answer = client.post(
        "/v2/models/small/infer", json={"id": "x", "inputs": [tensor], "outputs": [{"name": "scores"}]}
    )
    (output,) = answer.json()["outputs"]
    assert answer.json()["id"] == "x" and output["shape"] == [2, 2, 2]
    scores = np.array(output["data"], np.float32).reshape(2, 2, 2)
    assert scores.tobytes() == local_outputs(folder / "small.onnx", images)[1].tobytes()


def binary(images: np.ndarray, **parameters) -> dict:
    """A request with binary tensor data; parameters: of the tensor, in the place of the right ones."""
    size = {"binary_data_size": images.nbytes, **parameters}
    tensor = {"name": "images", "shape": list(images.shape), "datatype": "FP32", "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return {"content": head + images.tobytes(), "headers": {"inference-header-content-length": str(len(head))}}


def test_inference_by_binary_data_returns_the_local_bytes(served):
    client, folder = served
    images = np.random.default_rng(1).uniform(0, 255, (1, 3, 64, 64)).astype(np.float32)
    answer = client.post("/v2/models/small/infer", **binary(images))
    length = int(answer.headers["inference-header-content-length"])
    assert [one["parameters"]["binary_data_size"] for one in json.loads(answer.content[:length])["outputs"]] == [32, 16]
    assert answer.content[length:] == b"".join(one.tobytes() for one in local_outputs(folder / "small.onnx", images))


PIXELS = np.zeros((1, 3, 64, 64), np.float32)
BAD_TENSORS = {
    "shape": (binary(PIXELS[:, :, :32]), "shape"),
    "size": (binary(PIXELS, binary_data_size=8), "49152 bytes"),
    "short": ({**binary(PIXELS), "content": binary(PIXELS)["content"][:-4]}, "bytes"),
    "long": ({**binary(PIXELS), "content": binary(PIXELS)["content"] + b"1234"}, "4 bytes at the end"),
    "header": ({"content": b"{}", "headers": {"inference-header-content-length": "99"}}, "has 2 bytes"),
    "no inputs": ({"json": {}}, "inputs"),
    "no JSON": ({"content": b"\xff"}, "not JSON"),
    "type": ({"json": {"inputs": [{"name": "images", "shape": [1], "datatype": "INT8", "data": [1]}]}}, "takes FP32"),
    "name": ({"json": {"inputs": [{"name": "image"}]}}, "model has: images"),
    "missing": ({"json": {"inputs": []}}, "missing"),
    "count": (
        {"json": {"inputs": [{"name": "images", "shape": [1, 3, 64, 64], "datatype": "FP32", "data": [1]}]}},
        "has 1 numbers",
    ),
    "output": ({"json": {"inputs": [], "outputs": 3}}, "missing|list"),
    "shared memory": (binary(PIXELS, shared_memory_region="x"), "Shared memory"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_wrong_tensor_is_an_error_in_the_words_of_the_protocol(served, case):
    client, _ = served
    request, words = BAD_TENSORS[case]
    answer = client.post("/v2/models/small/infer", **request)
    assert answer.status_code == 400 and re.search(words, answer.json()["error"])


def test_a_file_with_nms_inside_takes_its_optional_inputs(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    names = {"count": np.array([2], np.int64), "boxes": np.ones((1, 2, 4), np.float32)}
    names |= {"labels": np.zeros((1, 2), np.int64), "base": np.array([[0.9, 0.5]], np.float32)}
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["base", "nothing"], ["level"]),
        helper.make_node("Mul", ["level", "confidence"], ["part"]),
        helper.make_node("Add", ["part", "iou"], ["scores"]),
        *(helper.make_node("Identity", [f"{name}_"], [name]) for name in ("count", "boxes", "labels")),
    ]
    info = helper.make_tensor_value_info
    constants = {"zero": np.zeros(1, np.float32), "base": names["base"]}
    constants |= {f"{name}_": names[name] for name in ("count", "boxes", "labels")}
    constants |= {"confidence": np.array(0.25, np.float32), "iou": np.array(0.45, np.float32)}
    graph = helper.make_graph(
        nodes,
        "inside",
        [
            info("images", TensorProto.FLOAT, [1, 3, 64, 64]),
            info("confidence", TensorProto.FLOAT, []),
            info("iou", TensorProto.FLOAT, []),
        ],
        [
            info("count", TensorProto.INT64, [1]),
            info("boxes", TensorProto.FLOAT, [1, 2, 4]),
            info("scores", TensorProto.FLOAT, [1, 2]),
            info("labels", TensorProto.INT64, [1, 2]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    nms = {"confidence": 0.25, "iou": 0.45, "agnostic": False, "multi_label": False, "limit": 2}
    text = json.dumps(describe(outputs="detections", nms=nms, batch=1))
    helper.set_model_props(model, {"onelook": text})
    onnx.save(model, str(tmp_path / "inside.onnx"))
    repository = repository_of(tmp_path, names=())
    repository.add(Place("inside", "1", tmp_path / "inside.onnx"))
    with client_of(repository) as client:
        tensor = {"name": "images", "shape": [1, 3, 64, 64], "datatype": "FP32", "data": PIXELS.ravel().tolist()}
        more = {"name": "confidence", "shape": [1], "datatype": "FP32", "data": [0.5]}
        outputs = [{"name": "scores"}]
        for inputs, scores in (([tensor], [0.675, 0.575]), ([tensor, more], [0.9, 0.7])):
            answer = client.post("/v2/models/inside/infer", json={"inputs": inputs, "outputs": outputs}).json()
            assert np.allclose(answer["outputs"][0]["data"], scores)
        assert len(client.post("/v1/detect", content=JPEG).json()["results"][0]["detections"]) == 2
        assert [one["name"] for one in client.get("/v2/models/inside").json()["inputs"]] == [
            "images",
            "confidence",
            "iou",
        ]
