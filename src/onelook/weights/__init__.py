"""Weights: reading untrusted files, our own format, and strict loading."""

from onelook.weights.checkpoint import Checkpoint, read_checkpoint
from onelook.weights.header import Header
from onelook.weights.load import load_weights
from onelook.weights.open import OpenedDetector, open_detector, weights_file
from onelook.weights.own_format import restore, save_weights
from onelook.weights.report import LoadReport
from onelook.weights.safetensors_file import read_header

__all__ = [
    "Checkpoint",
    "Header",
    "LoadReport",
    "OpenedDetector",
    "load_weights",
    "open_detector",
    "read_checkpoint",
    "read_header",
    "restore",
    "save_weights",
    "weights_file",
]
