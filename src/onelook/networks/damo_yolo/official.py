"""Maps our tensor names to those of the official DAMO-YOLO repository."""

from __future__ import annotations

from collections.abc import Iterable

from onelook.networks.renaming import renamed

# Applied in this order, each to all of its matches.
_HEAD: tuple[tuple[str, str], ...] = (
    (r"^head\.project$", "head.integral.project"),
    (r"^head\.levels\.(\d)\.classes\.", r"head.gfl_cls.\1."),
    (r"^head\.levels\.(\d)\.boxes\.", r"head.gfl_reg.\1."),
    (r"^head\.levels\.(\d)\.scale$", r"head.scales.\1.scale"),
)
_NECK: tuple[tuple[str, str], ...] = (
    # Nodes are numbered there, and links have the numbers of the two nodes that they connect.
    (r"^neck\.downs\.c4_p5\.", "neck.bu_conv13."),
    (r"^neck\.downs\.c3_p4\.", "neck.bu_conv24."),
    (r"^neck\.downs\.p3_n4\.", "neck.bu_conv57."),
    (r"^neck\.downs\.p4_n5\.", "neck.bu_conv46."),
    (r"^neck\.downs\.n4_n5\.", "neck.bu_conv76."),
    (r"^neck\.merges\.p5\.", "neck.merge_3."),
    (r"^neck\.merges\.p4\.", "neck.merge_4."),
    (r"^neck\.merges\.p3\.", "neck.merge_5."),
    (r"^neck\.merges\.n5\.", "neck.merge_6."),
    (r"^neck\.merges\.n4\.", "neck.merge_7."),
    (r"^(neck\.bu_conv\d+)\.(depthwise|pointwise)\.conv\.", r"\1.\2."),
    (r"^(neck\.bu_conv\d+)\.depthwise\.bn\.", r"\1.dwnorm."),
    (r"^(neck\.bu_conv\d+)\.pointwise\.bn\.", r"\1.pwnorm."),
    (r"^(neck\.merge_\d)\.around\.", r"\1.conv1."),
    (r"^(neck\.merge_\d)\.enter\.", r"\1.conv2."),
    (r"^(neck\.merge_\d)\.join\.", r"\1.conv3."),
    (r"^(neck\.merge_\d)\.blocks\.", r"\1.convs."),
    (r"^(neck\.merge_\d\.convs\.\d+)\.first\.", r"\1.conv2."),  # numbered in reverse order of computation
    (r"^(neck\.merge_\d\.convs\.\d+)\.second\.", r"\1.conv1."),
    (r"^(neck\.merge_\d\.convs\.\d+)\.expand\.conv\.", r"\1.conv.conv.0."),
    (r"^(neck\.merge_\d\.convs\.\d+)\.expand\.bn\.", r"\1.conv.conv.1."),
    (r"^(neck\.merge_\d\.convs\.\d+)\.depthwise\.conv\.", r"\1.conv.conv.3."),
    (r"^(neck\.merge_\d\.convs\.\d+)\.depthwise\.bn\.", r"\1.conv.conv.4."),
    (r"^(neck\.merge_\d\.convs\.\d+)\.project\.conv\.", r"\1.conv.conv.6."),
    (r"^(neck\.merge_\d\.convs\.\d+)\.project\.bn\.", r"\1.conv.conv.7."),
)
_BACKBONE: tuple[tuple[str, str], ...] = (
    # A stem without Focus is one convolution, named like those inside blocks.
    (r"^backbone\.stem\.(conv|bn)\.(?!conv\.|bn\.)", r"backbone.stem.conv.\g<1>1."),
    (r"^(backbone\.stages\..*)\.(first|third)\.(conv|bn)\.", r"\1.\2.\g<3>1."),
    (r"^(backbone\.stages\..*\.second)\.(conv|bn)\.", r"\1.\g<2>1."),
    (r"^(backbone\.stages\..*)\.first\.", r"\1.conv1."),
    (r"^(backbone\.stages\..*)\.second\.", r"\1.conv2."),
    (r"^(backbone\.stages\..*)\.third\.", r"\1.conv3."),
    (r"^(backbone\.stages\..*)\.shortcut\.(conv|bn)\.", r"\1.residual_proj.\g<2>1."),
    (r"^(backbone\.stages\..*)\.expand\.conv\.", r"\1.conv.0."),
    (r"^(backbone\.stages\..*)\.expand\.bn\.", r"\1.conv.1."),
    (r"^(backbone\.stages\..*)\.depthwise\.conv\.", r"\1.conv.3."),
    (r"^(backbone\.stages\..*)\.depthwise\.bn\.", r"\1.conv.4."),
    (r"^(backbone\.stages\..*)\.project\.conv\.", r"\1.conv.7."),
    (r"^(backbone\.stages\..*)\.project\.bn\.", r"\1.conv.8."),
    (r"^(backbone\.stages\..*)\.reduce\.", r"\1.conv1."),  # of the SPP
)
_REPARAMETERISED: tuple[tuple[str, str], ...] = (
    (r"\.conv2\.spatial\.", ".conv2.rbr_dense."),
    (r"\.conv2\.point\.", ".conv2.rbr_1x1."),
)
_RESIDUAL: tuple[tuple[str, str], ...] = (
    (r"^(backbone\.stages\..*)\.join\.", r"\1.conv2."),  # of the SPP
    (r"^backbone\.stem\.", "backbone.block_list.0."),
    *((rf"^backbone\.stages\.{place}\.", f"backbone.block_list.{place + 1}.block_list.") for place in range(16)),
)
_CSP: tuple[tuple[str, str], ...] = (
    (r"\.spp\.join\.", ".spp.conv2."),
    (r"^(backbone\.stages\.\d+)\.down\.(conv|bn)\.", r"\1.downsampler.conv.\g<2>1."),
    (r"^(backbone\.stages\.\d+)\.enter\.(conv|bn)\.", r"\1.conv_start.conv.\g<2>1."),
    (r"^(backbone\.stages\.\d+)\.around\.(conv|bn)\.", r"\1.conv_shortcut.conv.\g<2>1."),
    (r"^(backbone\.stages\.\d+)\.join\.(conv|bn)\.", r"\1.conv_fuse.conv.\g<2>1."),
    (r"^(backbone\.stages\.\d+)\.blocks\.", r"\1.convstem."),
    (r"^backbone\.stem\.", "backbone.csp_stage.0."),
    *((rf"^backbone\.stages\.{place}\.", f"backbone.csp_stage.{place + 1}.") for place in range(16)),
)


def official_names(names: Iterable[str], *, csp: bool) -> dict[str, str]:
    """Maps our tensor names to the official ones, for the training form of a network with that kind of backbone."""
    rules = (*_HEAD, *_NECK, *_BACKBONE, *_REPARAMETERISED, *(_CSP if csp else _RESIDUAL))
    return {name: renamed(name, rules) for name in names}
