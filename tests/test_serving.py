"""The server answers people and programs: detection, models, metadata, tensors, errors, tokens, hosts."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from pathlib import Path

import pytest
from PIL import Image

import onelook
from encoded_images import PLAIN, encoded, noise
from http_server import BASE, JPEG, client_of, repository_of
from onelook.errors import UserError
from onelook.serving.detect_routes import chosen_labels, wanted_type
from onelook.serving.logs import JsonFormatter
from onelook.serving.networks import FAMILIES
from onelook.serving.options import ServerOptions
from onelook.serving.service_error import ServiceError, without_paths

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    repository = repository_of(folder, names=("small", "other"))
    with client_of(repository) as client:
        yield client, folder


def wanted(folder: Path, content: bytes, **settings):
    found = onelook.load(folder / "small.onnx").detect(content, **settings).to_dict()
    return found["detections"]


def test_a_raw_image_is_answered_with_what_the_local_detector_finds(served):
    client, folder = served
    answer = client.post("/v1/detect?threshold=0.1", content=JPEG).json()
    assert answer["model"] == "small" and answer["version"] == "1"
    (result,) = answer["results"]
    assert (result["source"], result["width"], result["height"]) == ("0", 320, 240)
    assert result["detections"] == wanted(folder, JPEG, confidence=0.1) and len(result["detections"]) == 2
    assert set(answer["timings_ms"]) == {"decode", "queue", "inference", "total"}


FORMS = {
    "multipart": {"files": [("image", ("my dog.jpg", JPEG)), ("image", ("b.png", encoded(PLAIN, "PNG")))]},
    "base64": {
        "json": {"images": [{"base64": base64.b64encode(JPEG).decode(), "name": "my dog.jpg"}]},
    },
    "data address": {"json": {"image": "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()}},
    "wrong type": {"content": JPEG, "headers": {"content-type": "text/plain"}},
}


@pytest.mark.parametrize("form", FORMS)
def test_images_come_in_every_form(served, form):
    client, folder = served
    results = client.post("/v1/detect?threshold=0.1", **FORMS[form]).json()["results"]
    assert results[0]["detections"] == wanted(folder, JPEG, confidence=0.1)
    names = {"multipart": ["my dog.jpg", "b.png"], "base64": ["my dog.jpg"]}.get(form, ["0"])
    assert [one["source"] for one in results] == names


def test_query_values_choose_threshold_classes_and_model(served):
    client, _ = served

    def labels(query):
        (result,) = client.post(f"/v1/detect?{query}", content=JPEG).json()["results"]
        return [one["name"] for one in result["detections"]]

    assert labels("threshold=0.1") == ["cat", "dog"]
    assert labels("threshold=0.1&classes=dog") == ["dog"] == labels("threshold=0.1&classes=1")
    assert labels("threshold=0.99") == []
    assert client.post("/v1/detect?model=other&version=1", content=JPEG).json()["model"] == "other"


@pytest.mark.parametrize(("kind", "format"), [("image/jpeg", "JPEG"), ("image/png", "PNG")])
def test_a_drawn_image_is_returned_by_accept(served, kind, format):
    client, _ = served
    answer = client.post("/v1/detect?threshold=0.1", content=encoded(noise(300, 400), "PNG"), headers={"accept": kind})
    assert answer.headers["content-type"] == kind
    drawn = Image.open(io.BytesIO(answer.content))
    assert (drawn.format, drawn.size) == (format, (400, 300))
    two = [("image", ("a", JPEG))] * 2
    assert client.post("/v1/detect", files=two, headers={"accept": kind}).json()["error"]["code"] == "one_image_only"


def test_models_are_listed_as_the_page_expects_them(served):
    client, _ = served
    first, second = client.get("/v1/models").json()["models"]
    assert first == {
        "name": "small",
        "version": "1",
        "versions": ["1"],
        "default": True,
        "family": "yolox-nano",  # the small model does not say its architecture
        "variant": "yolox-nano",
        "size": [64, 64],
        "classes": ["cat", "dog"],
        "runtime": first["runtime"],
        "precision": "float32",
        "threshold": 0.25,
        "ready": True,
    }
    assert first["runtime"].startswith("ONNX Runtime") and second["default"] is False


def test_families_have_the_names_of_their_papers():
    variants = pytest.importorskip("onelook.networks.variants").VARIANTS.values()
    assert {type(one.architecture).__name__: one.family for one in variants} == FAMILIES


WRONG = {
    "no body": ("", {}, 400, "no_image"),
    "no image": ("", {"content": b"hello"}, 422, "bad_image"),
    "truncated": ("", {"content": JPEG[:-100]}, 422, "bad_image"),
    "broken JSON": ("", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "bad_json"),
    "deep JSON": ("", {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "bad_json"),
    "no base64": ("", {"json": {"image": "!!"}}, 400, "bad_base64"),
    "an address": ("", {"json": {"image": "http://localhost/a.jpg"}}, 403, "address_not_allowed"),
    "broken form": ("", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "bad_form"),
    "threshold": ("?threshold=2", {"content": JPEG}, 400, "bad_setting"),
    "iou": ("?iou=x", {"content": JPEG}, 400, "bad_setting"),
    "class": ("?classes=bird", {"content": JPEG}, 400, "unknown_class"),
    "model": ("?model=smal", {"content": JPEG}, 404, "unknown_model"),
    "version": ("?version=9", {"content": JPEG}, 404, "unknown_version"),
    "accept": ("", {"content": JPEG, "headers": {"accept": "text/html"}}, 406, "not_acceptable"),
    "deadline": ("", {"content": JPEG, "headers": {"x-deadline-ms": "soon"}}, 400, "bad_deadline"),
    "compressed": ("", {"content": JPEG, "headers": {"content-encoding": "gzip"}}, 415, "compressed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_gets_a_status_a_code_and_a_remedy(served, case):
    client, folder = served
    query, request, status, code = WRONG[case]
    answer = client.post(f"/v1/detect{query}", **request)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert error["message"][-1] in ".?" and error["remedy"] and str(folder) not in answer.text


def test_addresses_that_do_not_exist_are_errors_in_the_same_form(served):
    client, _ = served
    assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"
    assert client.get("/v1/detect").json()["error"]["code"] == "wrong_method"
    assert client.get("/v2/models/none").json()["error"].startswith("There is no model 'none'.")


def test_limits_of_bytes_pixels_and_images_are_kept(tmp_path):
    options = ServerOptions(max_bytes=20_000, max_pixels=5000, max_images=2)
    with client_of(repository_of(tmp_path, options)) as client:

        def codes(**request):
            return client.post("/v1/detect", **request).json()["error"]["code"]

        assert codes(content=bytes(20_001)) == "too_large"
        assert codes(content=(bytes(9000) for _ in range(3))) == "too_large"  # no length is given
        assert codes(content=encoded(noise(80, 80), "JPEG")) == "too_many_pixels"
        assert codes(files=[("image", ("a", b"x"))] * 3) == "too_many_images"
        assert codes(json={"images": ["eA=="] * 3}) == "too_many_images"


# --- security --------------------------------------------------------------------------------------------------------


def test_with_tokens_everything_but_health_needs_one(tmp_path):
    with client_of(repository_of(tmp_path, ServerOptions(tokens=("another-one-of-them", TOKEN)))) as client:
        right = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/v2/health/ready").status_code == 200
        for address in ("/v1/models", "/metrics", "/v2", "/openapi.json"):
            refused = client.get(address)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            assert client.get(address, headers=right).status_code == 200
        for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", TOKEN):
            assert client.post("/v1/detect", content=JPEG, headers={"authorization": wrong}).status_code == 401
        assert client.post("/v1/detect", content=JPEG, headers=right).status_code == 200


def test_loading_needs_a_token(served, tmp_path):
    client, _ = served
    for work in ("load", "unload"):
        assert client.post(f"/v2/repository/models/small/{work}").status_code == 403
    right = {"authorization": f"Bearer {TOKEN}"}
    with client_of(repository_of(tmp_path, ServerOptions(tokens=(TOKEN,)))) as client:
        assert client.post("/v2/repository/models/small/unload").status_code == 401
        assert client.post("/v2/repository/models/small/unload", headers=right).status_code == 200
        assert client.get("/v2/models/small", headers=right).status_code == 404
        index = client.post("/v2/repository/index", headers=right).json()
        assert index == [{"name": "small", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
        assert client.get("/v2/health/ready").status_code == 503
        assert client.post("/v2/repository/models/small/load", headers=right).status_code == 200
        assert client.post("/v2/repository/models/none/load", headers=right).status_code == 404
        (tmp_path / "small.onnx").write_bytes(b"damaged")
        refused = client.post("/v2/repository/models/small/load", headers=right)
        assert refused.status_code == 400 and str(tmp_path) not in refused.text and "small.onnx" in refused.text
        (entry,) = client.post("/v2/repository/index", headers=right).json()
        assert entry["state"] == "READY" and entry["reason"] and str(tmp_path) not in entry["reason"]
        assert client.post("/v1/detect", content=JPEG, headers=right).status_code == 200


def test_a_local_server_answers_to_local_names_and_to_no_other_site(served):
    client, _ = served
    assert client.get("/v1/models", headers={"host": "evil.example"}).json()["error"]["code"] == "wrong_host"
    assert client.get("/v1/models", headers={"host": "127.0.0.1:8000"}).status_code == 200
    other = client.post("/v1/detect", content=JPEG, headers={"origin": "https://evil.example"})
    assert other.status_code == 403 and "access-control-allow-origin" not in other.headers
    assert client.post("/v1/detect", content=JPEG, headers={"origin": BASE}).status_code == 200


def test_an_allowed_origin_may_read_answers(tmp_path):
    page = {"origin": "https://a.example"}
    with client_of(repository_of(tmp_path, ServerOptions(allow_origin=("https://a.example",)))) as client:
        answer = client.post("/v1/detect", content=JPEG, headers=page)
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == page["origin"]
        asks = {**page, "access-control-request-method": "POST"}
        assert client.options("/v1/detect", headers=asks).status_code == 200
        assert client.options("/v1/detect", headers={**asks, "origin": "https://b.example"}).status_code == 400


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'/srv/models/a b/c.onnx' is empty.", "'c.onnx' is empty."),
        ("cannot open /etc/x/y.bin: gone", "cannot open y.bin: gone"),
        (r"'C:\models\a.onnx' is bad", "'a.onnx' is bad"),
        ("a/b of 3/4 at https://example.org/x", "a/b of 3/4 at https://example.org/x"),
    ],
)
def test_paths_are_taken_out_of_answers(text, shown):
    assert without_paths(text) == shown


# --- to watch --------------------------------------------------------------------------------------------------------


def test_requests_have_ids_and_are_logged_as_json(served):
    client, _ = served
    records = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("onelook.serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        assert (
            client.post("/v1/detect", content=JPEG, headers={"x-request-id": "abc-1"}).headers["x-request-id"]
            == "abc-1"
        )
        made = client.get("/v1/models", headers={"x-request-id": "no spaces\t"}).headers["x-request-id"]
    finally:
        logger.removeHandler(handler)
    assert re.fullmatch("[0-9a-f]{32}", made)
    entry = json.loads(JsonFormatter().format(records[0]))
    assert (entry["request_id"], entry["status"], entry["model"], entry["path"]) == (
        "abc-1",
        200,
        "small",
        "/v1/detect",
    )
    assert entry["level"] == "info" and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])


def test_metrics_count_requests_batches_and_stages(served):
    client, _ = served
    client.post("/v1/detect", content=JPEG)
    client.get("/v1/never-seen")
    text = client.get("/metrics").text
    for words in (
        'onelook_requests_total{model="small",route="/v1/detect",status="200",version="1"}',
        'onelook_queue_images{model="small",version="1"} 0.0',
        'onelook_model_ready{model="other",version="1"} 1.0',
        'onelook_batch_size_bucket{le="1.0",model="small",version="1"}',
        *(
            f'onelook_stage_seconds_count{{model="small",stage="{stage}",version="1"}}'
            for stage in ("decode", "queue", "inference", "total")
        ),
    ):
        assert words in text
    assert "never-seen" not in text


def test_openapi_describes_every_route_and_its_answers(served):
    client, _ = served
    schema = client.get("/openapi.json").json()
    assert {"/v1/detect", "/v1/models", "/v2/models/{model}/infer", "/metrics", "/v2/repository/index"} <= set(
        schema["paths"]
    )
    known = schema["components"]["schemas"].keys()
    assert {one.rpartition("/")[2] for one in re.findall(r'"\$ref": "([^"]+)"', json.dumps(schema))} <= known
    for path, methods in schema["paths"].items():
        for method in methods.values():
            assert method["summary"] and method["description"], path
            assert method["responses"]["200"].get("content"), path
    body = schema["paths"]["/v1/detect"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/json", "image/jpeg"} <= set(body)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("image/*", "image/jpeg"),
        ("text/html, image/png;q=0.5, */*;q=0.1", "image/png"),
        ("application/json;q=0.9, image/jpeg", "image/jpeg"),
        ("image/png;q=x, application/*", "application/json"),
    ],
)
def test_the_best_accepted_type_is_chosen(accept, kind):
    assert wanted_type(accept) == kind


def test_classes_are_names_or_numbers():
    assert chosen_labels("dog, 0", ("cat", "dog")).tolist() == [1, 0]
    assert chosen_labels(None, ()) is None and chosen_labels("7", ()).tolist() == [7]
    for text in ("2", "x", "-1", "cat,"):
        with pytest.raises(ServiceError, match="no class"):
            chosen_labels(text, ("cat", "dog"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue": 0},
        {"queue_ms": 0},
        {"workers": 0},
        {"workers": 65},
        {"deadline": 0},
        {"batch": 40},
        {"allow_url": ("http://x",)},
        {"allow_origin": ("*",)},
        {"max_wait_ms": -1},
    ],
)
def test_wrong_options_are_errors_with_a_remedy(wrong):
    with pytest.raises(UserError) as caught:
        ServerOptions(**wrong)
    assert caught.value.remedy
