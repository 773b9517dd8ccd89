"""The backbone structures found by MAE-NAS (DAMO-YOLO sec. 2.1): MAE-ResNet, MAE-CSP, and mobile ones (Nano models)."""

from __future__ import annotations

from onelook.networks.structure import Stage, Structure


def _k1kx(outputs: int, bottleneck: int, stride: int, depth: int) -> Stage:
    return Stage(outputs, bottleneck, stride, depth)


def _kxkx(outputs: int, bottleneck: int, stride: int, depth: int) -> Stage:
    return Stage(outputs, bottleneck, stride, depth, block="kxkx")


def _mobile(outputs: int, bottleneck: int, stride: int, depth: int) -> Stage:
    return Stage(outputs, bottleneck, stride, depth, block="k1dwk1", kernel=5)


# Every row: outputs, bottleneck, stride, depth. The strides after the stages are 4, 8 (C3), 16, 16 (C4), 32 (C5).

MAE_RESNET_T = Structure(
    24, (_k1kx(64, 24, 2, 2), _k1kx(96, 64, 2, 2), _k1kx(192, 96, 2, 2), _k1kx(192, 152, 1, 2), _k1kx(384, 192, 2, 1))
)
MAE_RESNET_S = Structure(
    32,
    (
        _k1kx(128, 24, 2, 1),
        _k1kx(128, 88, 2, 5),
        _k1kx(256, 128, 2, 3),
        _k1kx(256, 120, 1, 2),
        _k1kx(512, 144, 2, 1),
    ),
)
MAE_CSP_M = Structure(
    32,
    (
        _kxkx(128, 64, 2, 2),
        _kxkx(128, 64, 2, 4),
        _kxkx(256, 256, 2, 4),
        _kxkx(256, 256, 1, 4),
        _kxkx(512, 256, 2, 3),
    ),
    csp=True,
    activation="silu",
)
MAE_CSP_L = Structure(
    32,
    (
        _kxkx(128, 96, 2, 3),
        _kxkx(128, 96, 2, 5),
        _kxkx(256, 384, 2, 5),
        _kxkx(256, 384, 1, 5),
        _kxkx(512, 384, 2, 4),
    ),
    csp=True,
    activation="silu",
)


def _nano(stem: int, *stages: Stage, focus: bool = False) -> Structure:
    return Structure(stem, stages, focus=focus, activation="silu", reparameterised=False, normal_init=True)


# The bottlenecks are 3.5, 4, 4.5, 5 and 5.5 times the outputs of a stage, rounded to multiples of 8 (official code,
# which ignores the results of the search here).
MOBILE_NS = _nano(
    16,
    _mobile(24, 88, 2, 1),
    _mobile(40, 160, 2, 2),
    _mobile(64, 288, 2, 2),
    _mobile(80, 400, 1, 2),
    _mobile(160, 880, 2, 2),
)
MOBILE_NM = _nano(
    16,
    _mobile(40, 144, 2, 2),
    _mobile(64, 256, 2, 2),
    _mobile(112, 504, 2, 2),
    _mobile(128, 640, 1, 2),
    _mobile(256, 1408, 2, 1),
)
MOBILE_NL = _nano(
    24,
    _mobile(48, 168, 2, 1),
    _mobile(80, 320, 2, 2),
    _mobile(160, 720, 2, 2),
    _mobile(160, 800, 1, 3),
    _mobile(320, 1760, 2, 2),
)
