"""The variants in whose form a backbone can be searched, and the reasons where one cannot (MAE-NAS, DAMO-YOLO 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

from onelook.errors import ConfigError, did_you_mean
from onelook.networks.branched_structure import AnyStructure
from onelook.networks.variants import VARIANTS, variant
from onelook.recipes.search_forms import ChainForm, DarknetForm, ElanForm, SearchForm, own_layers

# family: the variant whose form its searches have, unless another is named
FAMILIES = {"damo-yolo": "damo-yolo-t", "yolox": "yolox-tiny", "yolov4": "yolov4", "yolov7": "yolov7-tiny"}

_SMALL = ((1, 64, 96), (3, 128, 192), (4, 256, 384))
_LARGE = ((1, 64, 128), (3, 128, 256), (4, 256, 512))
# variant: budget of layers, and the ranges of outputs of the stages with strides 8, 16 and 32. The official code has 20
# layers for T, 25 for S, 35 for M. L and the Nano models have no published ones: taken are their own layers.
_PUBLISHED: Mapping[str, tuple[int, tuple[tuple[int, int, int], ...]]] = {
    "damo-yolo-t": (20, _SMALL),
    "damo-yolo-s": (25, _LARGE),
    "damo-yolo-m": (35, _LARGE),
    "damo-yolo-l": (45, _LARGE),
    "damo-yolo-ns": (28, ()),
    "damo-yolo-nm": (28, ()),
    "damo-yolo-nl": (31, ()),
}
_SCALED_YOLOX = ("yolox-tiny", "yolox-s", "yolox-m", "yolox-l", "yolox-x")
_OTHERS: Mapping[str, SearchForm] = {
    **{name: DarknetForm(name, VARIANTS[name].architecture, 0, "c3") for name in _SCALED_YOLOX},
    "yolox-nano": DarknetForm("yolox-nano", VARIANTS["yolox-nano"].architecture, 0, "separable"),
    "yolov4": DarknetForm("yolov4", VARIANTS["yolov4"].architecture, 0, "csp_first"),
    **{
        name: DarknetForm(name, VARIANTS[name].architecture, 0, "plain_first")
        for name in ("yolov4-csp", "yolov4x-mish")
    },
    **{
        name: ElanForm(name, VARIANTS[name].architecture, 0)
        for name in ("yolov7-tiny", "yolov7-tiny-silu", "yolov7", "yolov7x")
    },
}
_NAMES = (*_PUBLISHED, *_OTHERS)
_P6 = "its features end at stride 64, for which the score has no published weight."
_TINY = "its stages pass half of their channels on without a convolution, and pool between stages."
_REFUSED = {
    "yolox-darknet53": "Darknet-53 has no space of stages here.",
    "csresnext50-panet-spp": "grouped convolutions are in no space of stages here.",
    "yolov4-tiny": _TINY,
    "yolov4-tiny-3l": _TINY,
    **dict.fromkeys(("yolov7-w6", "yolov7-e6", "yolov7-d6", "yolov7-e6e"), _P6),
}


def search_form(name: str) -> SearchForm:
    """The form of a variant's search; ConfigError for variants without one."""
    if name in _PUBLISHED:
        layers, outputs = _PUBLISHED[name]
        return ChainForm(name, variant(name).architecture, layers, outputs)
    if name in _OTHERS:
        return own_layers(_OTHERS[name])
    remedy = f"Give one of: {', '.join(_NAMES)}."
    if name in _REFUSED:
        raise ConfigError(f"The search does not cover the backbone of {name}: {_REFUSED[name]}", remedy)
    raise ConfigError(f"There is no search in the form of '{name}'.{did_you_mean(name, _NAMES)}", remedy)


def family_form(family: str) -> str:
    """The variant whose form a family's searches have; ConfigError for a family without one."""
    if family not in FAMILIES:
        raise ConfigError(
            f"There is no search for the family '{family}'.{did_you_mean(family, FAMILIES)}",
            f"The search covers: {', '.join(FAMILIES)}.",
        )
    return FAMILIES[family]


def published_structures(like: SearchForm) -> dict[str, AnyStructure]:
    """The published backbones whose blocks are of the same kind, by the names of their variants."""
    forms = (search_form(name) for name in _NAMES)
    return {form.name: form.structure for form in forms if form.kind == like.kind}
