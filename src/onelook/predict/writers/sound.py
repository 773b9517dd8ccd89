"""The sound of a video, put into the silent video that was written from it. Needs PyAV, the extra `video`."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onelook.errors import install_command
from onelook.predict.container import has_sound

_COPIED = frozenset(("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"))  # MP4 holds them; others become AAC
_SEEK_BEFORE = 1.0  # seconds; packets before the start are left out


def keep_sound(written: Path, source: str, begin: float, target: Path) -> tuple[bool, str]:
    """Writes `target`: the video that was written from a source, with the source's sound.

    begin: the time of its first frame in the source, in seconds after the source's first frame.

    Returns whether there is a target, and why sound was not kept, "" where the source has none.
    """
    if find_spec("av") is None:
        sound = has_sound(source)
        if sound is False:
            return False, ""
        what = f"The sound of '{source}'" if sound else f"Sound, if '{source}' has any,"
        return False, f"{what} is not in the written video: it needs PyAV, {install_command('video')}."
    import av

    try:
        return _remux(written, source, begin, target), ""
    except (av.FFmpegError, ValueError, OSError) as error:
        return False, f"The sound of '{source}' is not in the written video: {error}"


def _remux(written: Path, source: str, begin: float, target: Path) -> bool:
    """Copies the packets of the video, and beside them those of the sound; False where the source has no sound."""
    import av

    with av.open(str(written)) as silent, av.open(os.path.abspath(source)) as original:
        if not original.streams.audio or not original.streams.video:
            return False
        frames, sound, first = silent.streams.video[0], original.streams.audio[0], original.streams.video[0]
        length = float(frames.duration * frames.time_base)
        begin += float((first.start_time or 0) * first.time_base)
        if begin > _SEEK_BEFORE:
            original.seek(int((begin - _SEEK_BEFORE) * 1_000_000))  # microseconds
        with av.open(str(target), "w", format="mp4") as output:
            of_frames = output.add_stream_from_template(frames)
            packets = (packet for packet in silent.demux(frames) if packet.dts is not None)
            if sound.codec_context.name in _COPIED:
                of_sound = output.add_stream_from_template(sound)
                audio = _copied(original, sound, begin, length)
            else:
                context = sound.codec_context
                channels = context.layout.nb_channels  # PCM may leave unsaid which ones they are
                layout = {1: "mono", 2: "stereo"}.get(channels, context.layout.name)
                of_sound = output.add_stream("aac", rate=context.sample_rate, layout=layout)
                audio = _encoded(original, sound, of_sound, begin, length)
            output.start_encoding()
            both = heapq.merge(
                ((packet, of_frames) for packet in packets),
                ((packet, of_sound) for packet in audio),
                key=lambda pair: pair[0].dts * pair[0].time_base,
            )
            for packet, stream in both:
                packet.stream = stream
                output.mux(packet)
    return True


def _copied(original: Any, sound: Any, begin: float, length: float) -> Iterator[Any]:
    """The packets of the sound between two times, which then begin at 0."""
    shift, end = round(begin / sound.time_base), round((begin + length) / sound.time_base)
    for packet in original.demux(sound):
        if packet.dts is None or packet.pts is None or packet.pts < shift:
            continue
        if packet.pts >= end:
            return
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        yield packet


def _encoded(original: Any, sound: Any, target: Any, begin: float, length: float) -> Iterator[Any]:
    """The same sound as AAC, for codecs that MP4 does not hold."""
    shift = round(begin / sound.time_base)
    for frame in original.decode(sound):
        if frame.pts is None or frame.pts < shift:
            continue
        if frame.time >= begin + length:
            break
        frame.pts -= shift
        yield from (packet for packet in target.encode(frame) if packet.dts is not None)
    yield from (packet for packet in target.encode(None) if packet.dts is not None)
