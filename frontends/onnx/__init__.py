"""The ONNX frontend: import, checking, export and the ONNX backend interface."""

from dlc.frontends.onnx.backend import make_backend
from dlc.frontends.onnx.export import save, to_proto
from dlc.frontends.onnx.loading import check, load
from dlc.frontends.onnx.problems import Problem
from dlc.frontends.onnx.versions import supported_opsets

__all__ = ["Problem", "check", "load", "make_backend", "save", "supported_opsets", "to_proto"]
