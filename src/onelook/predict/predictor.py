"""From images of any kind to detections: resize, run the network, postprocess, map the boxes back."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, overload

import numpy as np

from onelook.augment.letterbox import Resize, ResizeTransform
from onelook.config import check_arguments
from onelook.data.images import decode_image
from onelook.ops.merge import MergeKind
from onelook.ops.nms import Postprocess, RawDetections, clips, with_thresholds
from onelook.ops.tile_grid import OVERLAP
from onelook.predict.frames import batches_of, read_frames
from onelook.predict.given_image import ImageLike, are_several, check_array, name_of, read_image
from onelook.predict.runtime import Runtime
from onelook.predict.sources import WHOLE, Excerpt, PreparedImage, Source, UnreadableSource, find_sources
from onelook.predict.tiles import MERGE, PreparedView, Tiles, chosen_tiles, without_too_many_tiles
from onelook.predict.track import Result, track_results
from onelook.reporter import PlainReporter, Reporter
from onelook.tracking.tracker import ForecastName, Tracker, TrackerName, named_tracker
from onelook.types import Detections

if TYPE_CHECKING:
    from onelook.predict.live import LiveDetections

BATCH = 8


class Predictor:
    """A detector that is ready to detect.

    runtime: runs the network.  frame: how images are fitted into its input, and boxes mapped back; None is the
    runtime's.  postprocess: how its output becomes detections; None is the runtime's.  batch: most images in one run;
    the runtime of an exported file is told, which then runs for the time of one image or for the rate of many.
    """

    def __init__(
        self,
        runtime: Runtime,
        frame: Resize | None = None,
        postprocess: Postprocess | None = None,
        *,
        batch: int = BATCH,
    ) -> None:
        self.runtime = runtime
        self.frame = runtime.frame if frame is None else frame
        self.postprocess = runtime.postprocess if postprocess is None else postprocess
        self.batch = batch

    @property
    def batch(self) -> int:
        """Most images in one run."""
        return self._batch

    @batch.setter
    def batch(self, batch: int) -> None:
        self._batch = batch
        if (expect_batches := getattr(self.runtime, "expect_batches", None)) is not None:
            expect_batches(batch)

    def __repr__(self) -> str:
        (height, width), count = self.size, len(self.class_names)
        return f"{type(self).__name__}({type(self.runtime).__name__}, {height}x{width}, {count} class names)"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by label; empty where they are unknown."""
        return tuple(self.runtime.class_names)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.runtime.size

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """The detections in (H, W, 3) uint8 RGB images of any sizes, with the settings of `postprocess`."""
        return self._detect(images, self.postprocess)

    @overload
    def detect(  # type: ignore[overload-overlap]  # a text is a sequence of texts as well; it is taken as a path
        self,
        source: ImageLike,
        confidence: float = ...,
        iou: float = ...,
        *,
        agnostic: bool | None = ...,
        tile: int | None = ...,
        overlap: float = ...,
        tile_merge: MergeKind = ...,
        bgr: bool = ...,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        source: Sequence[ImageLike],
        confidence: float = ...,
        iou: float = ...,
        *,
        agnostic: bool | None = ...,
        tile: int | None = ...,
        overlap: float = ...,
        tile_merge: MergeKind = ...,
        bgr: bool = ...,
    ) -> list[Detections]: ...
    def detect(
        self,
        source: ImageLike | Sequence[ImageLike],
        confidence: float = 0.25,
        iou: float = 0.45,
        *,
        agnostic: bool | None = None,
        tile: int | None = None,
        overlap: float = OVERLAP,
        tile_merge: MergeKind = MERGE,
        bgr: bool = False,
    ) -> Detections | list[Detections]:
        """The detections in an image; for a list of images, a list.

        source: a path, an (H, W, 3) uint8 RGB array, a PIL image, or the bytes of an image file; or a list of these.
        confidence: least score, inclusive.  iou: boxes that overlap a better one by more are dropped.  agnostic:
        whether boxes of different classes suppress each other; None is the predictor's setting.  tile: side in pixels
        of the tiles that larger images are cut into; None is no tiles.  overlap: share of a tile that neighbours have
        in common.  tile_merge: of boxes that overlap, the best is kept; with "nmm" (non-maximum merging), a box that a
        tile's border has cut is joined with the others.  bgr: whether arrays have OpenCV's order of colours, as
        `cv2.imread` returns them; the image of a result is RGB.

        Results of a single image, and of arrays, hold the image; results of a list of paths read it again when they are
        drawn. Boxes are pixels of the (upright) original, not clipped unless `postprocess` says so. For folders, videos
        and cameras see `stream`.

        Raises ImageError for a file that cannot be decoded and for arrays that are no 8-bit RGB images.
        """
        postprocess, tiles = self.settings(confidence, iou, agnostic), chosen_tiles(tile, overlap, tile_merge)
        if not are_several(source):
            return replace(self._detect([read_image(source, bgr=bgr)], postprocess, tiles)[0], source=name_of(source))
        images, found = list(source), list[Detections]()
        step = self.batch if tiles is None else 1
        for start in range(0, len(images), step):
            pixels = [read_image(one, bgr=bgr) for one in images[start : start + step]]
            for given, result in zip(images[start : start + step], self._detect(pixels, postprocess, tiles)):
                path = name_of(given)
                reader = None if path is None else partial(decode_image, path)
                kept = result.image if path is None else None
                found.append(replace(result, source=path, image=kept, read_image=reader))
        return found

    def stream(
        self,
        sources: str | os.PathLike[str] | int | Sequence[str | os.PathLike[str] | int],
        confidence: float = 0.25,
        iou: float = 0.45,
        *,
        agnostic: bool | None = None,
        tile: int | None = None,
        overlap: float = OVERLAP,
        tile_merge: MergeKind = MERGE,
        keep_images: bool = False,
        reporter: Reporter | None = None,
    ) -> Iterator[Detections]:
        """The detections in every image and frame of files, folders, globs, videos, cameras and streams, in order.

        sources: one, or a list; a number is a camera.  keep_images: whether results hold their image.  reporter:
        receives a warning for each damaged file; None prints plain lines on standard error.  agnostic, tile, overlap,
        tile_merge: as in `detect`.

        One batch is in memory at a time; files are decoded while the network runs. Damaged files in folders and lists
        are left out with a warning; a damaged file given alone is an ImageError.
        """
        given = [sources] if isinstance(sources, str | os.PathLike | int) else list(sources)
        listed = find_sources([str(one) if isinstance(one, int) else os.fspath(one) for one in given])
        postprocess, tiles = self.settings(confidence, iou, agnostic), chosen_tiles(tile, overlap, tile_merge)
        with closing(self.stream_sources(listed, postprocess, keep_images=keep_images, tiles=tiles)) as results:
            yield from _found(results, reporter)

    def track(
        self,
        sources: str | os.PathLike[str] | int | Sequence[str | os.PathLike[str] | int],
        confidence: float = 0.25,
        iou: float = 0.45,
        *,
        tracker: Tracker | TrackerName = "bytetrack",
        tile: int | None = None,
        overlap: float = OVERLAP,
        tile_merge: MergeKind = MERGE,
        keep_images: bool = False,
        reporter: Reporter | None = None,
    ) -> Iterator[Detections]:
        """The detections in every frame of videos and cameras, with the identities of the objects in `tracks`.

        confidence: least score of a detection that starts a track; ByteTrack continues tracks with scores from 0.1 on.
        tracker: "bytetrack", "ocsort", or a tracker with settings of its own, which then choose the scores. The other
        arguments are those of `stream`. Identities count from 1 in every video; detections that belong to no track yet
        are left out.
        """
        chosen = named_tracker(tracker, confidence)
        given = [sources] if isinstance(sources, str | os.PathLike | int) else list(sources)
        listed = find_sources([str(one) if isinstance(one, int) else os.fspath(one) for one in given])
        postprocess, tiles = self.settings(chosen.detects_from(), iou), chosen_tiles(tile, overlap, tile_merge)
        results = self.stream_sources(listed, postprocess, keep_images=keep_images, tiles=tiles)
        with closing(track_results(results, chosen, confidence)) as tracked:
            yield from _found(tracked, reporter)

    def live(
        self,
        source: str | os.PathLike[str] | int,
        confidence: float = 0.25,
        iou: float = 0.45,
        *,
        tracker: Tracker | TrackerName | None = None,
        forecast: ForecastName = "kalman",
        reconnect: float = 60.0,
        tile: int | None = None,
        overlap: float = OVERLAP,
        tile_merge: MergeKind = MERGE,
        keep_images: bool = False,
        reporter: Reporter | None = None,
    ) -> Iterator[LiveDetections]:
        """The detections of a camera, a stream or a file in real time, always of the newest frame.

        source: the number of a camera, the address of a stream, or a video file, which is played at its own rate.
        tracker: gives the objects identities, as in `track`.  forecast: how the boxes of tracked objects are moved to
        the frame that is the newest when they are there: "linear", "kalman", or "none".  reconnect: for how many
        seconds a camera or a stream that stalls or ends is opened again; 0 is not at all, `math.inf` without end.
        tile, overlap, tile_merge: how larger frames are cut, as in `detect`; with more tiles, more frames are dropped.
        keep_images: whether results hold the frame that their boxes are for.  reporter: receives a warning for each
        stall.

        One frame is in memory, however slow the caller is: those in between are dropped and counted. Ends with a file;
        raises ImageError where a camera or a stream cannot be opened, or has ended for good.
        """
        from onelook.predict.live import live_results, live_source, open_feed, warnings_to  # few commands need it

        chosen = None if tracker is None else named_tracker(tracker, confidence)
        tiles = chosen_tiles(tile, overlap, tile_merge)
        found = live_source(find_sources([str(source) if isinstance(source, int) else os.fspath(source)]))
        postprocess = self.settings(confidence if chosen is None else chosen.detects_from(), iou)
        feed = open_feed(found, reconnect=reconnect, notify=warnings_to(reporter or PlainReporter()))
        with closing(feed):
            detect = partial(self.detect_prepared, postprocess=postprocess, source=found, tiles=tiles)
            for _, result in live_results(feed, detect, tracker=chosen, forecast=forecast, keep_images=keep_images):
                yield result
        if feed.error is not None:
            raise feed.error

    def detect_prepared(
        self, image: np.ndarray, postprocess: Postprocess, source: Source, tiles: Tiles | None = None
    ) -> tuple[PreparedImage, Detections]:
        """The prepared image and the detections of an (H, W, 3) uint8 RGB frame of a source."""
        pixels, placement = self.frame(image, self.size)
        item = PreparedImage(pixels, placement, source)
        if tiles is not None:
            return item, self.detect_tiles(image, postprocess, tiles)
        return item, self.run([pixels], [placement], postprocess)[0]

    def stream_sources(
        self,
        sources: Sequence[Source],
        postprocess: Postprocess,
        *,
        keep_images: bool = False,
        excerpt: Excerpt = WHOLE,
        tiles: Tiles | None = None,
        report: Callable[[PreparedImage, float], object] | None = None,
        read: Callable[[str], np.ndarray] | None = None,
    ) -> Generator[tuple[PreparedImage, Detections] | tuple[UnreadableSource, None], None, None]:
        """Each image and frame of the sources with its detections, in order; UnreadableSource for what cannot be read.

        excerpt: the frames of videos that are used.  tiles: how large images are cut; one image at a time is then
        detected while the next is decoded.  report: called with the share of an image's tiles that is done.  read:
        decodes the image of a path; None is `decode_image`.

        An image of a camera or a stream does not wait for others; elsewhere `batch` images run together. Closing it
        stops the threads that decode.
        """
        one_by_one = tiles is not None or any(source.kind == "live" for source in sources)
        ahead = None if tiles is None else 1
        keep = keep_images or tiles is not None
        frames = read_frames(
            sources,
            self.frame,
            self.size,
            keep=keep,
            workers=ahead,
            excerpt=excerpt,
            ahead=ahead,
            read=read or decode_image,
        )
        with closing(batches_of(frames, 1 if one_by_one else self.batch)) as groups:
            for items in groups:
                items[:] = [without_too_many_tiles(item, tiles) for item in items]
                results = iter(self._run_items(items, postprocess, tiles, report))
                while items:
                    item = items.pop(0)
                    if isinstance(item, UnreadableSource):
                        yield item, None
                    else:
                        item = item if keep_images else replace(item, image=None)
                        yield item, item.attach(next(results))
                    del item  # a large image is not held while the next are decoded

    def _run_items(
        self,
        items: Sequence[PreparedImage | UnreadableSource],
        postprocess: Postprocess,
        tiles: Tiles | None,
        report: Callable[[PreparedImage, float], object] | None,
    ) -> list[Detections]:
        """The detections of those items that are images."""
        images = [item for item in items if isinstance(item, PreparedImage)]
        if tiles is None:
            return self.run([one.pixels for one in images], [one.placement for one in images], postprocess)
        found = []
        for one in images:
            assert one.image is not None  # it was kept to be cut
            told = None if report is None else partial(report, one)
            found.append(self.detect_tiles(one.image, postprocess, tiles, told))
        return found

    def detect_tiles(
        self,
        image: np.ndarray,
        postprocess: Postprocess,
        tiles: Tiles,
        report: Callable[[float], object] | None = None,
    ) -> Detections:
        """The merged detections of an image's tiles, in its own pixels; without image and source.

        image: (H, W, 3) uint8 RGB.  report: called with the share of the tiles that is done, after each batch.
        """
        found: list[Detections] = []
        total = tiles.count((image.shape[0], image.shape[1]))
        views = tiles.cut(image, self.frame, self.size)
        while part := list[PreparedView](islice(views, self.batch)):
            found += self.run([pixels for pixels, _ in part], [placement for _, placement in part], postprocess)
            if report is not None:
                report(len(found) / total)
        return tiles.merge(found, postprocess)

    def run(
        self, pixels: Sequence[np.ndarray], placements: Sequence[ResizeTransform], postprocess: Postprocess
    ) -> list[Detections]:
        """The detections in resized images, in pixels of the originals; without image and source."""
        found: list[RawDetections] = []
        for start in range(0, len(pixels), self.batch):
            part = pixels[start : start + self.batch]
            found += self.runtime(part[0][None] if len(part) == 1 else np.stack(part), postprocess)
        clip = clips(postprocess)
        return [
            Detections(place.to_original(boxes, clip=clip), scores, labels, self.class_names, size=place.source)
            for place, (boxes, scores, labels) in zip(placements, found)
        ]

    def _detect(
        self, images: Sequence[np.ndarray], postprocess: Postprocess, tiles: Tiles | None = None
    ) -> list[Detections]:
        for image in images:
            check_array(image)
        if tiles is not None:
            return [replace(self.detect_tiles(image, postprocess, tiles), image=image) for image in images]
        framed = [self.frame(np.ascontiguousarray(image), self.size) for image in images]
        results = self.run([pixels for pixels, _ in framed], [placement for _, placement in framed], postprocess)
        return [replace(result, image=image) for result, image in zip(results, images)]

    def settings(self, confidence: float, iou: float, agnostic: bool | None = None) -> Postprocess:
        """The predictor's postprocessing with these thresholds."""
        check_arguments(Predictor.settings, locals())
        return with_thresholds(self.postprocess, confidence, iou, agnostic)


def _found(results: Iterator[Result], reporter: Reporter | None) -> Iterator[Detections]:
    """The detections alone: a source that cannot be read is a warning, or an error where it was given alone."""
    for item, found in results:
        if found is not None:
            yield found
        elif isinstance(item, UnreadableSource):
            if item.alone:
                raise item.error
            (reporter or PlainReporter()).warning(str(item.error))
