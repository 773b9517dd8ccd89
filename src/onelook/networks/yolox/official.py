"""Maps our tensor names to those of the official YOLOX repository."""

from __future__ import annotations

from collections.abc import Iterable

from onelook.networks.renaming import renamed

# Applied in this order, each to all of its matches.
_RULES: tuple[tuple[str, str], ...] = (
    (r"^neck\.", "backbone."),
    (r"^backbone\.stem", "backbone.backbone.stem"),
    (r"^backbone\.stage(\d)", r"backbone.backbone.dark\1"),
    (r"\.depthwise\.", ".dconv."),
    (r"\.pointwise\.", ".pconv."),
    (r"^head\.levels\.(\d)\.stem\.", r"head.stems.\1."),
    (r"^head\.levels\.(\d)\.class_tower\.", r"head.cls_convs.\1."),
    (r"^head\.levels\.(\d)\.box_tower\.", r"head.reg_convs.\1."),
    (r"^head\.levels\.(\d)\.classes\.", r"head.cls_preds.\1."),
    (r"^head\.levels\.(\d)\.boxes\.", r"head.reg_preds.\1."),
    (r"^head\.levels\.(\d)\.objectness\.", r"head.obj_preds.\1."),
)
_CSP_RULES: tuple[tuple[str, str], ...] = (
    (r"\.lateral5\.", ".lateral_conv0."),
    (r"\.lateral4\.", ".reduce_conv1."),
    (r"\.top_down(\d)\.", r".C3_p\1."),
    (r"\.bottom_up4\.", ".C3_n3."),
    (r"\.bottom_up5\.", ".C3_n4."),
    (r"\.down3\.", ".bu_conv2."),
    (r"\.down4\.", ".bu_conv1."),
    (r"\.blocks\.", ".m."),
    (r"\.(enter|reduce)\.", ".conv1."),
    (r"\.(around|expand)\.", ".conv2."),
    (r"(dark5\.1)\.join\.", r"\1.conv2."),  # `join` is the second convolution of the SPP, the third of a CSP stage
    (r"\.join\.", ".conv3."),
)
_DARKNET53_RULES: tuple[tuple[str, str], ...] = (
    (r"\.lateral5\.", ".out1_cbl."),
    (r"\.refine4\.", ".out1."),
    (r"\.lateral4\.", ".out2_cbl."),
    (r"\.refine3\.", ".out2."),
    (r"(dark5\.7)\.reduce\.", r"\1.conv1."),
    (r"(dark5\.7)\.join\.", r"\1.conv2."),
    (r"\.reduce\.", ".layer1."),
    (r"\.expand\.", ".layer2."),
)


def official_names(names: Iterable[str], backbone: str) -> dict[str, str]:
    """Maps our tensor names to the official ones, for a model with that backbone ("csp_darknet" or "darknet53").

    Works for the training form and the deploy form: both repositories fold batch norm into `conv.bias`.
    """
    rules = _RULES + (_CSP_RULES if backbone == "csp_darknet" else _DARKNET53_RULES)
    return {name: renamed(name, rules) for name in names}
