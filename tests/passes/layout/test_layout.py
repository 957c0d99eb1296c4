"""Channels-last: how many transposes are left, and that values stay."""

from __future__ import annotations

import collections

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401
from dlc.ir.builder import Builder
from dlc.ir.graph import Role
from dlc.ir.opdef import Mode
from dlc.ir.types import tensor_type
from dlc.ir.verify_graph import verify_graph
from dlc.passes.autodiff.autodiff import grad
from dlc.passes.expand import expand
from dlc.passes.hoist import split
from dlc.passes.layout.layout import layout
from dlc.passes.layout.reshape import reshape_layouts
from dlc.passes.manager import run_pipeline
from dlc.passes.pipeline import INFERENCE, TRAINING
from tests.passes.pass_fuzz import assert_same_results


class Net:
    """Builds small convolutional networks in NCHW, float64."""

    def __init__(self, image=(2, 3, 8, 8)):
        self.b, self.rng = Builder("net"), np.random.default_rng(0)
        self.x = self.b.input("x", tensor_type("float64", image))
        self.count = 0

    def weight(self, *shape, role=Role.PARAMETER, positive=False):
        self.count += 1
        array = self.rng.normal(size=shape) * 0.3
        type_ = tensor_type("float64", shape)
        return self.b.input(f"w{self.count}", type_, role, np.abs(array) + 0.5 if positive else array, True)

    def conv(self, x, out, taps=3, groups=1, **attributes):
        w = self.weight(out, x.type.shape[1] // groups, taps, taps)
        return self.b.conv(x, w, padding=taps // 2, groups=groups, **attributes)

    def norm(self, x):
        c = x.type.shape[1]
        mean, variance = self.weight(c, role=Role.STATE), self.weight(c, role=Role.STATE, positive=True)
        return self.b.batch_norm(x, self.weight(c), self.weight(c), mean, variance, axis=1, epsilon=1e-5, momentum=0.1)[
            0
        ]

    def finish(self, y):
        self.b.output("y", y)
        return self.b.finish()


def residual(net, x, stride=1):
    b, c = net.b, x.type.shape[1] * stride
    y = b.relu(net.norm(net.conv(x, c, strides=stride)))
    y = net.norm(net.conv(y, c))
    short = x if stride == 1 else net.norm(net.conv(x, c, taps=1, strides=stride))
    return b.relu(b.add(y, short))


def resnet():
    net = Net()
    x = net.b.relu(net.norm(net.conv(net.x, 4)))
    x = net.b.max_pool(x, window=(3, 3), strides=(2, 2), padding=1)
    x = residual(net, residual(net, x), stride=2)
    pooled = net.b.reduce_sum(x, axes=(2, 3))
    return net.finish(net.b.matmul(pooled, net.weight(8, 5)))


def mobilenet_block():
    net = Net((2, 4, 8, 8))
    x = net.conv(net.x, 4)
    y = net.b.clamp(net.conv(x, 12, taps=1), low=0.0, high=6.0)
    y = net.b.clamp(net.conv(y, 12, groups=12), low=0.0, high=6.0)
    return net.finish(net.b.reduce_sum(net.b.add(net.conv(y, 4, taps=1), x), axes=(2, 3)))


def flattened():
    net = Net()
    x = net.b.max_pool(net.b.relu(net.conv(net.x, 4)), window=(2, 2), strides=(2, 2), padding=0)
    return net.finish(net.b.matmul(net.b.reshape(x, shape=(2, -1)), net.weight(64, 5)))


def squeeze_excite():
    net = Net()
    x = net.conv(net.x, 4)
    gate = net.b.reduce_sum(x, axes=(2, 3), keepdims=True)
    gate = net.b.sigmoid(net.conv(gate, 4, taps=1))
    return net.finish(net.b.reduce_sum(net.b.mul(x, gate), axes=(2, 3)))


def inception():
    net = Net()
    x = net.conv(net.x, 4)
    parts = [net.conv(x, 2, taps=1), net.conv(x, 3), net.b.slice(x, starts=(0, 1, 0, 0), limits=(2, 3, 8, 8))]
    return net.finish(net.b.reduce_max(net.b.concat(*parts, axis=1), axes=(2, 3)))


def group_norm():
    net = Net()
    x = net.b.group_norm(net.conv(net.x, 4), net.weight(4), net.weight(4), groups=2, channel_axis=1, epsilon=1e-5)
    return net.finish(net.b.reduce_sum(x, axes=(2, 3)))


def channels_last_already():
    net = Net((2, 8, 8, 3))
    x = net.b.transpose(net.x, permutation=(0, 3, 1, 2))
    return net.finish(net.b.transpose(net.b.relu(net.conv(x, 4)), permutation=(0, 2, 3, 1)))


def image_to_image():
    net = Net()
    return net.finish(net.conv(net.b.tanh(net.conv(net.x, 4)), 3))


def shuffled():
    net = Net()
    x = net.conv(net.x, 4)
    x = net.b.transpose(net.b.reshape(x, shape=(2, 2, 2, 8, 8)), permutation=(0, 2, 1, 3, 4))
    x = net.conv(net.b.reshape(x, shape=(2, 4, 8, 8)), 4)
    return net.finish(net.b.reduce_sum(x, axes=(2, 3)))


def many_channels():
    net = Net((2, 8, 8, 8))
    return net.finish(net.b.reduce_sum(net.conv(net.b.relu(net.x), 4), axes=(2, 3)))


def long_sums():
    net = Net((2, 3, 8, 8))
    return net.finish(net.b.reduce_sum(net.conv(net.x, 4, taps=5), axes=(2, 3)))


def expanded_planes():
    net = Net((2, 8, 8, 8))
    y = net.b.clamp(net.conv(net.x, 24, taps=1), low=0.0, high=6.0)
    y = net.conv(y, 24, groups=24, strides=2)
    return net.finish(net.b.reduce_sum(net.conv(y, 4, taps=1), axes=(2, 3)))


# Transposes in the graph of every run: none where an image of few planes enters or a product comes first, one where
# windows read more planes, and more only where elements really move.
TRANSPOSES = {
    resnet: 0, mobilenet_block: 0, flattened: 0, squeeze_excite: 0, inception: 0, group_norm: 0,
    channels_last_already: 0, image_to_image: 1, shuffled: 1, many_channels: 1, long_sums: 1,
    expanded_planes: 0,
}  # fmt: skip
PLANAR = {resnet, mobilenet_block, flattened, squeeze_excite, inception, group_norm, image_to_image, shuffled}
"""Their first convolution reads the image as it comes."""


def transposes(graph):
    return collections.Counter(n.op.name for n in graph.nodes)["transpose"]


@pytest.mark.parametrize("build", TRANSPOSES, ids=lambda f: f.__name__)
def test_transposes_stay_at_the_boundary(build):
    graph = build()
    after, _ = run_pipeline(graph, INFERENCE)
    assert_same_results(graph, after, rtol=1e-9)
    main = split(after).main
    assert transposes(main) == TRANSPOSES[build]


@pytest.mark.parametrize("build", TRANSPOSES, ids=lambda f: f.__name__)
def test_convolutions_read_channels_last(build):
    main = split(run_pipeline(build(), INFERENCE)[0]).main
    convolutions = [n for n in main.nodes if n.op.name == "contract" and "+" in n.attributes["spec"]]
    assert convolutions
    if build in PLANAR:
        first = convolutions.pop(0)
        assert "+" in first.attributes["spec"].split(", ")[0].split()[-1], "planes stay"
        assert "+" not in first.attributes["spec"].split(" -> ")[1] and first.attributes["spec"].endswith("o")
    for node in convolutions:
        data, kernel = node.attributes["spec"].split(" -> ")[0].split(", ")
        assert "+" not in data.replace("(", "").replace(")", "").split()[-1], "channels come last"
        assert kernel.split()[0].startswith("k"), "taps come first"


@pytest.mark.parametrize("build", TRANSPOSES, ids=lambda f: f.__name__)
def test_gradients_keep_their_values(build):
    graph = build()
    b = Builder.reopen(graph)
    y = graph.output("y")
    b.output("loss", b.reduce_sum(b.mul(y, y), axes=tuple(range(y.type.rank))))
    graph = b.finish()
    names = [s.name for s in graph.signature.inputs if s.trainable and s.role is Role.PARAMETER]
    gradient = grad(graph, "loss", names)
    after, _ = run_pipeline(gradient, TRAINING)
    assert_same_results(gradient, after, mode=Mode.TRAINING, rtol=1e-7)
    # One where the image enters, and per convolution two of the weight (forward, backward) and one of its gradient.
    kernels = sum(v.type.rank == 4 for v, s in graph.inputs_with(Role.PARAMETER))
    assert transposes(after) <= max(TRANSPOSES[build], 1) + 3 * kernels + 2


def test_graphs_without_convolutions_are_the_same_object():
    b = Builder()
    x = b.input("x", tensor_type("float32", (2, 3, 4)))
    b.output("y", b.transpose(b.softmax(x, axis=1), permutation=(0, 2, 1)))
    graph = expand(b.finish())
    assert layout(graph) is graph


def test_inputs_and_outputs_keep_their_types():
    graph = expand(image_to_image())
    after = layout(graph)
    verify_graph(after)
    assert [v.type for v in after.outputs] == [v.type for v in graph.outputs]
    assert after.inputs == graph.inputs


@pytest.mark.parametrize(
    ("old", "new", "stored", "before", "after"),
    [
        ((2, 4, 1, 1), (2, 4), (0, 2, 3, 1), (0, 2, 3, 1), (0, 1)),
        ((2, 4, 5, 6), (2, 2, 2, 5, 6), (0, 2, 3, 1), (0, 2, 3, 1), (0, 3, 4, 1, 2)),
        ((2, 4, 5, 6), (2, 120), (0, 2, 3, 1), (0, 1, 2, 3), (0, 1)),
        ((2, 4, 5, 6), (2, 4, 30), (0, 2, 3, 1), (0, 2, 3, 1), (0, 2, 1)),
        ((2, 2, 3, 5), (2, 6, 5), (0, 3, 2, 1), (0, 3, 1, 2), (0, 2, 1)),
    ],
)
def test_reshapes_carry_layouts(old, new, stored, before, after):
    assert reshape_layouts(old, new, stored) == (before, after)
    x = np.arange(np.prod(old)).reshape(old)
    through = x.transpose(before).reshape([new[d] for d in after])
    np.testing.assert_array_equal(through, x.reshape(new).transpose(after))
