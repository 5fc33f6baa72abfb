"""The three networks of MTCNN with the weights of the `mtcnn` package, compiled by TensorFlow or OpenVINO.

Each network is described once, in a vocabulary of seven words that both runtimes speak. Pixels are 0..255, less MEAN. What the
convolutions see is x-major: (..., x, y, channels), which is how the fully connected layers were trained (the weights come from
Matlab). R-net and O-net cut what they look at out of the picture themselves.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_keras.errors import FerError
from fer_keras.runtime import choose_runtime, compile_openvino

#: Grey: pixels are given to the networks less this.
MEAN = 127.5
_SPAN = 128.0  # and the networks divide them by this, which is folded into their first layers
#: So many threads share the levels of a pyramid, each with a P-net of its own.
CALLERS = 2

_Arrays = list[np.ndarray]
#: Pictures of each level, float32 (1, x, y, 3) -> float32 (cells of all levels end to end, 5): box offsets, logit of "face".
ProposalNetwork = Callable[[Sequence[np.ndarray]], np.ndarray]
#: A prepared picture, boxes (n, 4) in pixels -> float32 (n, outputs).
PatchNetwork = Callable[[Any, np.ndarray], np.ndarray]


class MtcnnNetworks:
    """P-net for any pyramid, R-net and O-net.

    prepared: uint8 (h, w, 3) -> the picture as refine_net and output_net take it, whatever that is.
    refine_net: what is in n boxes -> (n, 5): box offsets, logit. output_net: -> (n, 15): box offsets, landmarks (five x, five
    y), logit. Outside the picture there is grey. runtime: as in `create_detector`.
    Raises FerError where the package is missing.
    """

    def __init__(self, runtime: str = "auto") -> None:
        self.runtime = choose_runtime(runtime)
        self._weights = {name: _prepared(_load_weights(name)) for name in ("pnet", "rnet", "onet")}
        self._engine = _OpenVino if self.runtime == "openvino" else _TensorFlow
        self.prepared: Callable[[np.ndarray], Any] = self._engine.prepared
        self.refine_net: PatchNetwork = self._patch_network(_refine_net, self._weights["rnet"], 24)
        self.output_net: PatchNetwork = self._patch_network(_output_net, self._weights["onet"], 48)

    def proposal_net(self, sizes_xy: Sequence[tuple[int, int]], lasting: bool, caller: int) -> ProposalNetwork:
        """P-net over some levels of a pyramid. sizes_xy: width and height of each level, 11 or more.

        lasting: as one graph made for these sizes, which takes some tenths of a second; else one that takes any size, and is
        slower by a quarter.
        caller: which of the threads calls it, 0 <= caller < CALLERS.
        """
        if not lasting:
            any_level = self._any_level[caller]
            return lambda levels: np.concatenate([any_level(level) for level in levels])

        def network(ops: Any, *levels: Any) -> Any:
            return ops.concat([self._of_level(ops, level) for level in levels])

        run = self._engine.compile(network, [(1, *size, 3) for size in sizes_xy], CALLERS)
        return lambda levels: run(*levels)

    @functools.cached_property
    def _any_level(self) -> list[PatchNetwork]:
        return [self._engine.compile(self._of_level, [(1, None, None, 3)], CALLERS) for _ in range(CALLERS)]

    def _of_level(self, ops: Any, level: Any) -> Any:
        return ops.rows(_proposal_net(ops, self._weights["pnet"], level), 5)

    def _patch_network(self, network: Callable, weights: _Arrays, size: int) -> PatchNetwork:
        return self._engine.compile_for_patches(lambda ops, patches: network(ops, weights, patches), size)


# What the package's keras.Models are (mtcnn/network/*.py), in the order of their weights. Heads that share an input are one
# layer here, and of the two outputs of each softmax only their difference is needed: its sigmoid is the probability of a face.


def _proposal_net(ops: Any, w: _Arrays, x: Any) -> Any:
    x = ops.prelu(ops.conv(x, w[0], w[1]), w[2])
    x = ops.pool(x, 2, pad=True)
    x = ops.prelu(ops.conv(x, w[3], w[4]), w[5])
    x = ops.prelu(ops.conv(x, w[6], w[7]), w[8])
    return ops.conv(x, _side_by_side(w[9], _difference(w[11])), _side_by_side(w[10], _difference(w[12])))


def _refine_net(ops: Any, w: _Arrays, x: Any) -> Any:
    x = ops.prelu(ops.conv(x, w[0], w[1]), w[2])
    x = ops.pool(x, 3, pad=True)
    x = ops.prelu(ops.conv(x, w[3], w[4]), w[5])
    x = ops.pool(x, 3, pad=False)
    x = ops.prelu(ops.conv(x, w[6], w[7]), w[8])
    x = ops.prelu(ops.dense(ops.rows(x, 576), w[9], w[10]), w[11])
    return ops.dense(x, _side_by_side(w[12], _difference(w[14])), _side_by_side(w[13], _difference(w[15])))


def _output_net(ops: Any, w: _Arrays, x: Any) -> Any:
    x = ops.prelu(ops.conv(x, w[0], w[1]), w[2])
    x = ops.pool(x, 3, pad=True)
    x = ops.prelu(ops.conv(x, w[3], w[4]), w[5])
    x = ops.pool(x, 3, pad=False)
    x = ops.prelu(ops.conv(x, w[6], w[7]), w[8])
    x = ops.pool(x, 2, pad=True)
    x = ops.prelu(ops.conv(x, w[9], w[10]), w[11])
    x = ops.prelu(ops.dense(ops.rows(x, 1152), w[12], w[13]), w[14])
    return ops.dense(x, _side_by_side(w[15], w[17], _difference(w[19])), _side_by_side(w[16], w[18], _difference(w[20])))


def _side_by_side(*arrays: np.ndarray) -> np.ndarray:
    return np.concatenate(arrays, axis=-1)


def _difference(two: np.ndarray) -> np.ndarray:
    """Of the weights of a layer with two outputs, "no face" and "face"."""
    return two[..., 1:] - two[..., :1]


def _load_weights(name: str) -> _Arrays:
    # The package itself is not imported: it imports TensorFlow, which OpenVINO does without.
    found = importlib.util.find_spec("mtcnn")
    if found is None or not found.submodule_search_locations:
        raise FerError(
            "the mtcnn package, which carries the weights, is not installed; pip install 'mtcnn>=1.0' lz4, or use haar"
        )
    path = Path(found.submodule_search_locations[0]) / "assets" / "weights" / f"{name}.lz4"
    try:
        import joblib
        import lz4.frame

        # Unpacked here: joblib leaves its own lz4 reader behind unclosed, of which Python 3.13 complains.
        return joblib.load(io.BytesIO(lz4.frame.decompress(path.read_bytes())))
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise FerError(
            f"{path} can't be read ({error}); pip install --force-reinstall 'mtcnn>=1.0' joblib lz4, or use haar"
        ) from error


def _prepared(weights: _Arrays) -> _Arrays:
    """x-major kernels; the first takes pixels less MEAN."""
    weights = [each.transpose(1, 0, 2, 3) if each.ndim == 4 else each for each in weights]
    weights[0] = weights[0] / _SPAN
    return [np.ascontiguousarray(each, np.float32) for each in weights]


class _TensorFlow:
    """The vocabulary in TensorFlow, on the CPU."""

    def __init__(self) -> None:
        import tensorflow as tf

        self._tf = tf

    @staticmethod
    def prepared(image_rgb: np.ndarray) -> Any:
        import tensorflow as tf

        with tf.device("CPU:0"):
            return tf.cast(image_rgb[None], tf.float32) - MEAN

    @staticmethod
    def compile_for_patches(network: Callable, size: int) -> PatchNetwork:
        def of_picture(ops: _TensorFlow, picture: Any, boxes: Any) -> Any:
            return network(ops, ops.patches(picture, boxes, size))

        run = _TensorFlow.compile(of_picture, [(1, None, None, 3), (None, 4)], callers=1)

        def answers(picture: Any, boxes: np.ndarray) -> np.ndarray:
            height, width = picture.shape[1:3]
            return run(picture, (boxes[:, [1, 0, 3, 2]] / [height, width, height, width]).astype(np.float32))

        return answers

    @staticmethod
    def compile(network: Callable, shapes: list[tuple], callers: int) -> Callable[..., np.ndarray]:
        import tensorflow as tf

        with tf.device("CPU:0"):
            function = tf.function(
                lambda *inputs: network(_TensorFlow(), *inputs),
                input_signature=[tf.TensorSpec(shape, tf.float32) for shape in shapes],
                autograph=False,
            ).get_concrete_function()

        def run(*arrays: np.ndarray) -> np.ndarray:
            with tf.device("CPU:0"):
                return function(*map(tf.convert_to_tensor, arrays)).numpy()

        return run

    def patches(self, picture: Any, boxes: Any, size: int) -> Any:
        numbers = self._tf.zeros(self._tf.shape(boxes)[:1], self._tf.int32)
        return self._tf.transpose(self._tf.image.crop_and_resize(picture, boxes, numbers, (size, size)), (0, 2, 1, 3))

    def conv(self, x: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
        return self._tf.nn.bias_add(self._tf.nn.conv2d(x, kernel, 1, "VALID"), bias)

    def prelu(self, x: Any, slopes: np.ndarray) -> Any:
        return self._tf.nn.relu(x) - slopes.reshape(-1) * self._tf.nn.relu(-x)

    def pool(self, x: Any, size: int, pad: bool) -> Any:
        return self._tf.nn.max_pool2d(x, size, 2, "SAME" if pad else "VALID")

    def rows(self, x: Any, length: int) -> Any:
        return self._tf.reshape(x, (-1, length))

    def dense(self, x: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
        return self._tf.linalg.matmul(x, kernel) + bias

    def concat(self, parts: list) -> Any:
        return self._tf.concat(parts, 0)


class _OpenVino:
    """The vocabulary in OpenVINO, whose convolutions want (n, channels, x, y)."""

    def __init__(self) -> None:
        from openvino import opset13

        self._ops = opset13

    @staticmethod
    def prepared(image_rgb: np.ndarray) -> np.ndarray:
        """float32 (1, 3, h, w)."""
        import cv2

        planes = np.empty((1, 3, *image_rgb.shape[:2]), np.float32)
        for plane, channel in zip(planes[0], cv2.split(image_rgb), strict=True):
            np.subtract(channel, np.float32(MEAN), out=plane, dtype=np.float32)
        return planes

    @staticmethod
    def compile_for_patches(network: Callable, size: int) -> PatchNetwork:
        def of_picture(picture: Any, places: Any) -> Any:
            ops = _OpenVino()
            return network(ops, ops.patches(picture, places, size))

        run = _OpenVino._compiled(of_picture, [(1, 3, None, None), (1, None, size, 2)], callers=1)
        return lambda picture, boxes: run(picture, _places(boxes, size, *picture.shape[2:]))

    @staticmethod
    def compile(network: Callable, shapes: list[tuple], callers: int) -> Callable[..., np.ndarray]:
        from openvino import opset13 as ops

        def of_pictures(*pictures: Any) -> Any:
            return network(_OpenVino(), *(ops.transpose(each, np.array([0, 3, 1, 2])) for each in pictures))

        return _OpenVino._compiled(of_pictures, shapes, callers)

    @staticmethod
    def _compiled(network: Callable, shapes: list[tuple], callers: int) -> Callable[..., np.ndarray]:
        import openvino as ov
        from openvino import opset13 as ops

        inputs = [ops.parameter([-1 if length is None else length for length in shape], np.float32) for shape in shapes]
        request = compile_openvino(ov.Model([network(*inputs)], inputs), callers=callers).create_infer_request()
        # The answer is copied, since the next call writes into the same memory.
        return lambda *arrays: request.infer(list(arrays), share_inputs=True)[0]

    def patches(self, picture: Any, places: Any, size: int) -> Any:
        how = {"align_corners": False, "mode": "bilinear", "padding_mode": "zeros"}
        patches = self._ops.reshape(self._ops.grid_sample(picture, places, how), np.array([3, -1, size, size]), False)
        return self._ops.transpose(patches, np.array([1, 0, 2, 3]))

    def conv(self, x: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
        kernel = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        return self._ops.add(self._ops.convolution(x, kernel, [1, 1], [0, 0], [0, 0], [1, 1]), bias.reshape(1, -1, 1, 1))

    def prelu(self, x: Any, slopes: np.ndarray) -> Any:
        return self._ops.prelu(x, slopes.reshape(-1))

    def pool(self, x: Any, size: int, pad: bool) -> Any:
        # Rounding up is what TensorFlow's SAME does with the sizes that occur here: it pads at the end only.
        rounding = "ceil" if pad else "floor"
        return self._ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [size, size], rounding_type=rounding).output(0)

    def rows(self, x: Any, length: int) -> Any:
        return self._ops.reshape(self._ops.transpose(x, np.array([0, 2, 3, 1])), np.array([-1, length]), False)

    def dense(self, x: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
        return self._ops.add(self._ops.matmul(x, kernel, False, False), bias.reshape(1, -1))

    def concat(self, parts: list) -> Any:
        return self._ops.concat(parts, 0)


def _places(boxes: np.ndarray, size: int, height: int, width: int) -> np.ndarray:
    """Where `tf.image.crop_and_resize`, given boxes divided by the picture's size, looks, as GridSample wants it.

    boxes: (n, 4). Returns float32 (1, n * size, size, 2): x and y of each pixel of each patch, x-major; -1 and 1 are the edges of
    the picture. What is outside the middles of its outer pixels is far outside here, so that none of them has a part in it.
    """
    steps = np.linspace(0, 1, size)

    def along(low: np.ndarray, high: np.ndarray, length: int) -> np.ndarray:
        at = (low[:, None] + (high - low)[:, None] * steps) * ((length - 1) / length)
        return np.where((at >= 0) & (at <= length - 1), (2 * at + 1) / length - 1, -9)

    places = np.empty((len(boxes), size, size, 2), np.float32)
    places[..., 0] = along(boxes[:, 0], boxes[:, 2], width)[:, :, None]
    places[..., 1] = along(boxes[:, 1], boxes[:, 3], height)[:, None, :]
    return places.reshape(1, -1, size, 2)
