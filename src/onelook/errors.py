"""Errors that a user can cause and fix. The command line prints them as one message, without a traceback."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable


class UserError(Exception):
    """An input of the user (a file, a setting, an argument) is invalid.

    The message names its place (file, line, key or id); `remedy` describes how to fix it. A subclass only allows a
    narrower `except` clause: message and remedy are always what is shown.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class DataError(UserError):
    """A data set, an annotation file or a results file is not valid."""


class ImageError(UserError):
    """An image or a video cannot be decoded, or is larger than the limits."""


class WeightsError(UserError):
    """A weights file is damaged, unsafe, or does not fit the model."""


class ConfigError(UserError):
    """A setting does not exist, or its value has the wrong type."""


class UsageError(ConfigError):
    """A command line has a wrong flag or a wrong `path=value` (exit code 2 instead of 1)."""


class OtherProcessError(UserError):
    """Another process of the same training failed and reports the error: this process ends without a message."""


class ExportError(UserError):
    """An exported file cannot be written or run, or its outputs differ from the model's."""


class MissingDependencyError(UserError):
    """An optional package is not installed; the remedy is the install command."""


class MissingNameError(MissingDependencyError, AttributeError):
    """A public name needs a package that is not installed: to `hasattr` and `help`, the name is not there."""


def reason_of(error: OSError) -> str:
    """The system's reason as a part of a sentence: "no such file or directory"."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


# The optional part of the installation that has a package, by its name of import; "" is the base installation.
EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "openvino": "openvino",
    "nncf": "int8",
    "ncnn": "ncnn",
    "pnnx": "export",
    "ai_edge_litert": "litert",
    "litert_torch": "litert-export",
    "tensorrt": "tensorrt",
    "cuda": "tensorrt",
    "tensorboard": "tensorboard",
    "mlflow-skinny": "mlflow",
    "wandb": "wandb",
    "optuna": "tune",
    "supervision": "supervision",
    "pandas": "pandas",
    "polars": "polars",
    "av": "video",
    "ray": "scale",
    "pyarrow": "parquet",
    "fsspec": "scale",
    "fastapi": "serve",
    "uvicorn": "serve",
    "httptools": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
    "onnxruntime": "",
    "hotcoco": "",
    "msgspec": "",
    "numpy": "",
    "cv2": "",
    "PIL": "",
    "yaml": "",
}
# Where pip has another name.
_INSTALLED_AS = {
    "cv2": "opencv-python-headless",
    "ai_edge_litert": "ai-edge-litert",
    "litert_torch": "litert-torch",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "cuda": "cuda-bindings",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
# Where one extra brings the packages of several.
_EXTRA_OF_WORK = {
    "export": "onnx",
    "search": "export",
    "int8": "int8",
    "detect --on": "scale",
    "tune": "tune",
    "litert-export": "litert-export",
}

IN_SOURCE = " (in the folder of Onelook's source)"  # ends an install command that is for there


def install_command(extra: str = "") -> str:
    """The pip command that installs Onelook with an optional part, from where this installation came.

    That place is a folder, or an address, as pip has recorded it (PEP 610); without a record it is the folder of the
    source.
    """
    import json
    import shlex
    from importlib import metadata
    from urllib.parse import unquote, urlsplit

    part = f"[{extra}]" if extra else ""
    try:
        record = metadata.distribution("onelook").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return f"pip install '.{part}'{IN_SOURCE}"
    if record is None:  # from a package index
        return f"pip install 'onelook{part}'"
    origin = json.loads(record)
    address = urlsplit(origin["url"])
    if address.scheme == "file" and "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}{shlex.quote(unquote(address.path) + part)}"
    prefix = f"{origin['vcs_info']['vcs']}+" if "vcs_info" in origin else ""
    return f"pip install 'onelook{part} @ {prefix}{origin['url']}'"


def missing_package(package: str, purpose: str, *, work: str = "") -> MissingDependencyError:
    """The error for a package of `EXTRAS` that is not installed: what needs it, and the install command.

    purpose: what needs it, the start of the message.  work: name of the function or command that needs it, if it is
    one that needs more than this package.
    """
    extra = _EXTRA_OF_WORK.get(work, EXTRAS[package])
    name = _INSTALLED_AS.get(package, package)
    return MissingDependencyError(
        f"{purpose} needs the package '{name}', which is not installed.",
        f"Install it with: {install_command(extra) if extra else f'pip install {name}'}",
    )


def is_address(text: str) -> bool:
    """Whether a text is an address (https://..., s3://..., filecache::s3://...), also where a path has made one slash.

    file:// is a path of this machine. One letter before the colon is a drive.
    """
    found = re.match(r"(?i)(?!file:)[a-z][a-z0-9+.-]+(::[a-z][a-z0-9+.-]+)*:/", text)
    return found is not None and ("://" in text or not os.path.exists(text))


def missing_weights(path: str) -> WeightsError:
    """The error for a weights file that does not exist; an address is not fetched."""
    if not is_address(path) and os.path.isfile(f"{path}.json"):
        return WeightsError(
            f"'{path}' does not exist, only its description '{path}.json'.",
            "Build a TensorRT engine with the trtexec command that its export has printed; export other files again.",
        )
    if not is_address(path):
        return WeightsError(f"The weights file '{path}' does not exist.", "Check the path.")
    address = re.sub(r"^(\w+):/+", r"\1://", path)
    return WeightsError(
        f"'{address}' is an address, and weights are read from files.",
        f"Download it first: curl -LO {address}; then give the file.",
    )


_SHORT = 3  # letters


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" with the known name that is most similar to `name`, or "" where none is similar."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    # Of so few letters, another one in front makes another word: gpu is not cpu.
    close = [one for one in close if len(name) > _SHORT or one[:1].lower() == name[:1].lower()]
    return f" Did you mean '{close[0]}'?" if close else ""
