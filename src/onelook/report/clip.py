"""Videos that a browser plays inside a page: WebM with VP8, as its bytes."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

import cv2
import numpy as np

from onelook.errors import UserError
from onelook.files import replacing

_CODEC = "VP80"


def check_webm() -> None:
    """UserError where OpenCV cannot write WebM, before the work that a video would be of."""
    with tempfile.TemporaryDirectory() as folder:
        writer = _writer(Path(folder) / "trial.webm", 25.0, (32, 32))
        writer.write(np.zeros((32, 32, 3), np.uint8))
        writer.release()


def write_webm(source: Path, target: Path) -> Path:
    """Writes the frames of a video as WebM, at its rate; returns the path. UserError where either is not possible."""
    capture = cv2.VideoCapture(str(source), cv2.CAP_FFMPEG)
    read, frame = capture.read()
    if not read:
        raise UserError(f"No frame can be read from '{source}'.", "Remove it, and start again.")
    with replacing(target, suffix=".webm") as beside:
        writer = _writer(beside, capture.get(cv2.CAP_PROP_FPS), (frame.shape[0], frame.shape[1]))
        while read:
            writer.write(frame)
            read, frame = capture.read()
        writer.release()
    capture.release()
    return target


def clip_figure(video: Path, caption: str) -> str:
    """The HTML of a video, with its bytes inside; it plays by itself, without sound, again and again."""
    content = base64.b64encode(video.read_bytes()).decode()
    return (
        '<figure class="clip"><video controls autoplay muted loop playsinline '
        f'src="data:video/webm;base64,{content}"></video><figcaption>{caption}</figcaption></figure>'
    )


def _writer(path: Path, fps: float, size: tuple[int, int]) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*_CODEC), fps, size[::-1])
    if not writer.isOpened():
        raise UserError(
            "This OpenCV cannot write WebM videos.", "Install one that can: pip install opencv-python-headless"
        )
    return writer
