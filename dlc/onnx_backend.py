"""``dlc.backend``: the ONNX backend interface over this compiler."""

from dlc.driver.compile import compile_graph
from dlc.frontends.onnx.backend import make_backend

backend = make_backend(compile_graph)
