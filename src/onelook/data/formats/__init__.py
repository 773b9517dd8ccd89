"""The formats of data sets, one file each. A new one is its file and a line here; nothing else names formats."""

from __future__ import annotations

from onelook.data.formats.base import Format
from onelook.data.formats.class_folders import CLASS_FOLDERS
from onelook.data.formats.coco import COCO
from onelook.data.formats.csv import CSV
from onelook.data.formats.cvat import CVAT
from onelook.data.formats.label_studio import LABEL_STUDIO
from onelook.data.formats.labelme import LABELME
from onelook.data.formats.open_images import OPEN_IMAGES
from onelook.data.formats.parquet import PARQUET_FILES
from onelook.data.formats.shards import SHARDS
from onelook.data.formats.supervisely import SUPERVISELY
from onelook.data.formats.voc import VOC
from onelook.data.formats.yolo import YOLO

FORMATS: tuple[Format, ...] = (
    SHARDS,
    LABEL_STUDIO,
    COCO,
    VOC,
    YOLO,
    OPEN_IMAGES,
    CVAT,
    SUPERVISELY,
    LABELME,
    CSV,
    PARQUET_FILES,
    CLASS_FOLDERS,
)
"""In the order in which they are looked for: where a folder holds several, the first one is used."""
