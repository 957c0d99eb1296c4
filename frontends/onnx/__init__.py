"""The ONNX frontend: import, checking, export and the ONNX backend interface."""

from dlc.frontends.onnx.loading import check, load
from dlc.frontends.onnx.problems import Problem
from dlc.frontends.onnx.versions import supported_opsets

__all__ = ["Problem", "check", "load", "supported_opsets"]
