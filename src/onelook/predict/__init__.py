"""Images and videos in, detections out."""

import os

# What FFmpeg would print about a damaged video, ImageError says. OpenCV reads this when the first video is opened or
# written, by whomever: so it is set before the readers of videos, which are imported late.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
