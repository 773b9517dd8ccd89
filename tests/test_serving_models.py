"""Models are exchanged without a break, batches are formed, queues are bounded, requests have deadlines."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import onelook
from http_server import JPEG, HeldRuntime, client_of, held_repository, in_thread, repository_of, wait_until
from onelook.api.open import LoadOptions
from onelook.api.serve import open_servable
from onelook.errors import UserError
from onelook.serving.batching import Batcher, Job, QueueTimeout
from onelook.serving.options import ServerOptions
from onelook.serving.repository import Place, Repository
from onelook.serving.service_error import ServiceError
from onnx_models import write_model

INPUT = {"inputs": [{"name": "images", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": [0] * 3072}]}


def far() -> float:
    return time.monotonic() + 20


# --- batches ---------------------------------------------------------------------------------------------------------


def test_jobs_of_one_key_run_together_and_others_keep_their_order():
    entered, go, runs = threading.Event(), threading.Event(), []

    def run(jobs):
        if not runs:
            entered.set()
            go.wait(20)
        runs.append([job.inputs for job in jobs])
        return [job.inputs * 10 for job in jobs]

    batcher = Batcher(run, batch=3, max_wait=0.0)
    first = Job(0, "a", far())
    batcher.submit(first)
    assert entered.wait(20)
    jobs = [Job(number, key, far()) for number, key in enumerate("abaaa", 1)] + [
        Job(6, None, far()),
        Job(7, None, far()),
    ]
    for job in jobs:
        batcher.submit(job)
    go.set()
    assert [job.future.result(20).value for job in jobs] == [10, 20, 30, 40, 50, 60, 70]
    assert runs == [[0], [1, 3, 4], [2], [5], [6], [7]]
    batcher.close()
    batcher.join(20)
    assert batcher.stalled(1)


def test_the_oldest_job_waits_for_others_no_longer_than_it_may():
    batcher = Batcher(lambda jobs: [len(jobs)] * len(jobs), batch=2, max_wait=0.05)
    alone = Job(0, "a", far())
    batcher.submit(alone)
    result = alone.future.result(20)
    assert result.value == 1 and result.queue >= 0.05
    batcher.max_wait = 20.0
    together = [Job(0, "a", far()), Job(1, "a", far())]
    for job in together:
        batcher.submit(job)
    assert [job.future.result(20).value for job in together] == [2, 2]
    batcher.close()


def test_cancelled_and_late_jobs_leave_the_queue():
    entered, go, seen = threading.Event(), threading.Event(), []

    def run(jobs):
        entered.set()
        go.wait(20)
        seen.extend(job.inputs for job in jobs)
        return [None] * len(jobs)

    batcher = Batcher(run)
    jobs = [Job(0, None, far()), Job(1, None, far()), Job(2, None, time.monotonic()), Job(3, None, far())]
    batcher.submit(jobs[0])
    assert entered.wait(20)
    for job in jobs[1:]:
        batcher.submit(job)
    assert jobs[1].future.cancel() and len(batcher) == 2
    go.set()
    jobs[3].future.result(20)
    assert seen == [0, 3]
    with pytest.raises(ServiceError, match="deadline"):
        jobs[2].future.result(20)
    batcher.close()


def test_an_error_of_a_run_is_the_answer_and_the_thread_serves_on():
    def run(jobs):
        if jobs[0].inputs == "bad":
            raise UserError("bad")
        return [1] * len(jobs)

    batcher = Batcher(run)
    bad, good = Job("bad", None, far()), Job("good", None, far())
    batcher.submit(bad)
    batcher.submit(good)
    with pytest.raises(UserError):
        bad.future.result(20)
    assert good.future.result(20).value == 1 and not batcher.stalled(20)
    batcher.close()


def test_threads_of_a_model_run_at_the_same_time_and_all_end():
    together, used = threading.Barrier(2), []

    def run(jobs):
        together.wait(20)  # each run needs the other one
        used.append(threading.get_ident())
        return [None] * len(jobs)

    batcher = Batcher(run, run)
    jobs = [Job(number, None, far()) for number in range(4)]
    for job in jobs:
        batcher.submit(job)
    for job in jobs:
        job.future.result(20)
    assert len(set(used)) == 2 and not batcher.stalled(20)
    batcher.close()
    batcher.join(20)
    assert batcher.stalled(20)


def test_each_worker_has_a_model_of_its_own_and_runs_beside_the_other(tmp_path):
    opened = []

    def opener(path):
        opened.append(onelook.Predictor(runtime, batch=1))
        return opened[-1]

    runtime = HeldRuntime()
    repository = Repository(opener, ServerOptions(workers=2))
    repository.add(Place("held", "1", tmp_path))
    runtime.held = True
    assert len(opened) == 2 == repository.find().workers
    with client_of(repository) as client:
        accepted = [in_thread(lambda: client.post("/v1/detect", content=JPEG).status_code) for _ in range(2)]
        for _ in accepted:
            assert runtime.entered.acquire(timeout=20)  # both are in a run
        runtime.open.set()
        assert [value() for value in accepted] == [200, 200]


# --- queues, deadlines -----------------------------------------------------------------------------------------------


def test_beyond_the_queue_requests_are_refused_at_once():
    repository, runtime = held_repository(ServerOptions(queue=2))
    with client_of(repository) as client:
        accepted = [in_thread(lambda: client.post("/v1/detect", content=JPEG).status_code) for _ in range(2)]
        assert runtime.entered.acquire(timeout=20)
        wait_until(lambda: repository.find().admitted == 2)
        for address in ("/v1/detect", "/v1/detect?model=held", "/v2/models/held/infer"):
            refused = client.post(address, content=JPEG)
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert 'onelook_rejected_total{model="held",version="1"} 3.0' in client.get("/metrics").text
        runtime.open.set()
        assert [value() for value in accepted] == [200, 200]
        assert client.post("/v1/detect", content=JPEG).status_code == 200
        many = [("image", (str(number), JPEG)) for number in range(3)]
        assert client.post("/v1/detect", files=many).json()["error"]["code"] == "too_many_images"
        assert repository.find().admitted == 0


def test_an_image_that_waited_too_long_is_refused_and_one_that_would_is_not_admitted():
    repository, runtime = held_repository(ServerOptions(queue=8))
    model = repository.find()
    with client_of(repository) as client:
        first = in_thread(lambda: client.post("/v1/detect", content=JPEG).status_code)
        assert runtime.entered.acquire(timeout=20)
        second = in_thread(lambda: client.post("/v1/detect", content=JPEG))
        wait_until(lambda: len(model.batcher) == 1)
        model.longest_wait, model._seconds_an_image = 60.0, 45.0  # two are ahead: 90 s
        refused = client.post("/v1/detect", content=JPEG)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "60"
        model._seconds_an_image, model.longest_wait = 1.0, 0.0  # the next would wait too long wherever it is
        late = Job(None, "another", far(), time.monotonic())
        model.batcher.submit(late)
        runtime.open.set()
        assert first() == 200 and second().status_code == 200
        with pytest.raises(QueueTimeout):
            late.future.result(20)
        model._seconds_an_image = None
        for address, body in (("/v1/detect", {"content": JPEG}), ("/v2/models/held/infer", {"json": INPUT})):
            refused = client.post(address, **body)  # there is room, but its time is over before its run
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1", refused.text
        assert model.admitted == 0 and len(model.batcher) == 0
        model.longest_wait = 60.0
        assert client.post("/v2/models/held/infer", json=INPUT).status_code == 200


def test_a_request_whose_client_has_gone_leaves_the_queue():
    repository, runtime = held_repository(ServerOptions())
    model = repository.find()
    with client_of(repository) as client:
        first = in_thread(lambda: client.post("/v1/detect", content=JPEG).status_code)
        assert runtime.entered.acquire(timeout=20)
        assert asyncio.run(gone_while_it_waits(client.app, model.batcher)) == 499
        assert len(model.batcher) == 0 and model.admitted == 1
        runtime.open.set()
        assert first() == 200 and runtime.batches == [1]


async def gone_while_it_waits(app, batcher):
    """The status of a request whose client closes the connection when its image is in the queue."""
    scope = {"type": "http", "method": "POST", "path": "/v1/detect", "raw_path": b"/v1/detect", "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
    scope |= {"scheme": "http", "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"}}
    sent, bodies = [], [{"type": "http.request", "body": JPEG, "more_body": False}]

    async def receive():
        if bodies:
            return bodies.pop()
        while len(batcher) == 0:
            await asyncio.sleep(0.005)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), 20)
    return sent[0]["status"]


def test_images_of_several_requests_share_a_run():
    repository, runtime = held_repository(ServerOptions(batch=4, max_wait_ms=0))
    with client_of(repository) as client:
        first = in_thread(lambda: client.post("/v1/detect", content=JPEG).status_code)
        assert runtime.entered.acquire(timeout=20)
        files = [("image", ("a", JPEG)), ("image", ("b", JPEG))]
        others = [in_thread(lambda: client.post("/v1/detect", files=files).status_code) for _ in range(2)]
        wait_until(lambda: len(repository.find().batcher) == 4)
        runtime.open.set()
        assert [first(), *(value() for value in others)] == [200, 200, 200]
        assert runtime.batches == [1, 4]


def test_a_request_ends_at_its_deadline_and_its_place_is_free():
    repository, runtime = held_repository(ServerOptions())
    with client_of(repository) as client:
        answer = client.post("/v1/detect", content=JPEG, headers={"x-deadline-ms": "80"})
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"
        assert repository.find().admitted == 0
        late = client.post(
            "/v1/detect", content=JPEG, headers={"x-deadline-ms": "80"}
        )  # the thread is still at the first
        assert late.status_code == 504 and len(repository.find().batcher) == 0
        runtime.open.set()
        assert client.post("/v1/detect", content=JPEG).status_code == 200


def test_a_run_that_does_not_end_is_not_live():
    repository, runtime = held_repository(ServerOptions(stall=0.05))
    with client_of(repository) as client:
        assert client.get("/v2/health/live").status_code == 200
        client.post("/v1/detect", content=JPEG, headers={"x-deadline-ms": "100"})
        assert client.get("/v2/health/live").status_code == 503
        runtime.open.set()
        wait_until(repository.live)


# --- exchange --------------------------------------------------------------------------------------------------------


def test_requests_of_the_old_model_finish_while_the_new_one_serves(tmp_path):
    repository, runtime = held_repository(ServerOptions())
    with client_of(repository) as client:
        old = in_thread(lambda: client.post("/v1/detect", content=JPEG).json())
        assert runtime.entered.acquire(timeout=20)
        thread = repository.find().batcher
        repository._opener = lambda path: open_servable(path, LoadOptions())
        repository.add(Place("held", "1", write_model(tmp_path / "new.onnx")))
        assert (
            client.post("/v1/detect?threshold=0.1", content=JPEG).json()["results"][0]["detections"][1]["name"] == "dog"
        )
        runtime.open.set()
        assert old()["results"][0]["detections"][0]["score"] == 0.5
        wait_until(lambda: thread.stalled(100))  # its thread has ended


def test_exchanging_under_load_loses_no_request(tmp_path):
    repository = repository_of(tmp_path)
    with client_of(repository) as client:
        stop, statuses = threading.Event(), []

        def load():
            while not stop.is_set():
                statuses.append(client.post("/v1/detect", content=JPEG).status_code)

        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            answered = len(statuses)
            repository.reload("small")
            (tmp_path / "small.onnx").rename(tmp_path / "kept")
            (tmp_path / "small.onnx").write_bytes(b"damaged")
            with pytest.raises(UserError):
                repository.reload("small")
            (tmp_path / "kept").replace(tmp_path / "small.onnx")
            wait_until(lambda: len(statuses) >= answered + 2)  # noqa: B023 - called at once
        stop.set()
        for thread in threads:
            thread.join(20)
        assert set(statuses) == {200}


def test_a_model_that_fails_its_trial_run_does_not_serve(tmp_path):
    class Broken:
        def __init__(self, kind):
            self.kind = kind

        def __call__(self, batch, postprocess):
            if self.kind == "raises":
                raise UserError("It cannot run.")
            return []

    repository, runtime = held_repository(ServerOptions())
    runtime.held = False
    for kind in ("raises", "short"):
        bad = type("Bad", (Broken, type(runtime)), {})(kind)
        repository._opener = lambda path, bad=bad: onelook.Predictor(bad)
        with pytest.raises(UserError):
            repository.add(Place("bad", "1", tmp_path))
        with pytest.raises(UserError):
            repository.add(Place("held", "1", tmp_path))
    assert [one.state for one in repository.index()] == ["UNAVAILABLE", "READY"]
    assert not repository.ready() and repository.live()
    assert repository.find("held") is not None
    repository.close(5)


def test_versions_are_ordered_by_their_number(tmp_path):
    repository = repository_of(tmp_path, names=())
    for version in ("9", "10", "beta"):
        repository.add(Place("small", version, write_model(tmp_path / "a.onnx")))
    assert repository.find().version == "10" and repository.versions("small") == ["beta", "9", "10"]
    repository.remove("small", "10")
    assert repository.find("small").version == "9"
    repository.close(5)
