"""Residual networks for small images (He et al., arXiv 1512.03385, section 4.2), as the paper's experiments use them."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from experiments.models.convolution import conv_general_dilated

WIDTHS = (16, 32, 64)  # channels of the three stages


class ConvNorm(nnx.Module):
    """A convolution without bias, and batch normalisation; pixels beyond the edge are zero."""

    def __init__(self, inputs: int, features: int, *, size: int = 3, stride: int = 1, rngs: nnx.Rngs) -> None:
        edge = size // 2  # on both sides: "SAME" pads only after the last pixel at stride 2
        self.conv = nnx.Conv(
            inputs,
            features,
            (size, size),
            strides=stride,
            padding=((edge, edge), (edge, edge)),
            use_bias=False,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
            conv_general_dilated=conv_general_dilated,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[batch, height, width, inputs]` to `[batch, height / stride, width / stride, features]`."""
        return self.norm(self.conv(x), use_running_average=not train)


class Residual(nnx.Module):
    """Two convolutions, added to their input; where the shape changes, to a 1 x 1 convolution of it."""

    def __init__(self, inputs: int, features: int, *, stride: int, rngs: nnx.Rngs) -> None:
        self.first = ConvNorm(inputs, features, stride=stride, rngs=rngs)
        self.second = ConvNorm(features, features, rngs=rngs)
        same = inputs == features and stride == 1
        self.shortcut = None if same else ConvNorm(inputs, features, size=1, stride=stride, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[batch, height, width, inputs]` to `[batch, height / stride, width / stride, features]`."""
        identity = x if self.shortcut is None else self.shortcut(x, train=train)
        x = nnx.relu(self.first(x, train=train))
        return nnx.relu(identity + self.second(x, train=train))


class ResNet(nnx.Module):
    """A stem, three stages of residual blocks, the mean over pixels and a linear layer.

    Three blocks a stage are ResNet-20: 272,474 parameters in 65 tensors for ten classes of colour images; `widen=4` makes it
    a wide one (arXiv 1605.07146) of 4.3 million.

    Args:
      classes: how many logits.
      channels: of an image.
      blocks: residual blocks in each stage.
      widen: by how much the channels of every stage are multiplied.
      rngs: for the initial weights.

    Example:
      >>> model = ResNet(10, blocks=1, rngs=nnx.Rngs(0))
      >>> model(jnp.ones((2, 32, 32, 3))).shape
      (2, 10)
    """

    def __init__(self, classes: int, *, channels: int = 3, blocks: int = 3, widen: int = 1, rngs: nnx.Rngs) -> None:
        widths = [widen * width for width in WIDTHS]
        self.stem = ConvNorm(channels, widths[0], rngs=rngs)
        self.stages = nnx.List()
        inputs = widths[0]
        for number, width in enumerate(widths):
            strides = [1 if number == 0 else 2, *[1] * (blocks - 1)]
            sizes = [inputs, *[width] * (blocks - 1)]
            layers = [Residual(size, width, stride=stride, rngs=rngs) for size, stride in zip(sizes, strides, strict=True)]
            self.stages.append(nnx.List(layers))
            inputs = width
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, image: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n classes"]:
        """Logits; `train` normalises by the batch's own statistics and updates the kept ones."""
        x = nnx.relu(self.stem(image, train=train))
        for stage in self.stages:
            for block in stage:
                x = block(x, train=train)
        return self.head(jnp.mean(x, axis=(1, 2)))


def load_torch(model: ResNet, state: Mapping[str, np.ndarray]) -> None:
    """Gives a model the weights and statistics of the paper's PyTorch network, as its `state_dict` has them.

    Args:
      model: of the same depth and width. It is changed.
      state: arrays by their names in PyTorch, kernels `[out, in, rows, columns]`.

    Raises:
      KeyError: for a tensor that is missing.
      ValueError: for one of another shape.
    """
    for prefix, layer in _layers(model):
        conv, norm = ("embedder", "norm") if prefix.endswith("embedder") else ("convolution", "normalization")
        _put(layer.conv.kernel, state, f"{prefix}.{conv}.weight", (2, 3, 1, 0))
        names = {
            "weight": layer.norm.scale,
            "bias": layer.norm.bias,
            "running_mean": layer.norm.mean,
            "running_var": layer.norm.var,
        }
        for name, variable in names.items():
            _put(variable, state, f"{prefix}.{norm}.{name}", (0,))
    _put(model.head.kernel, state, "classifier.1.weight", (1, 0))
    _put(model.head.bias, state, "classifier.1.bias", (0,))


def _layers(model: ResNet) -> Iterator[tuple[str, ConvNorm]]:
    """Every convolution with the beginning of its names in PyTorch."""
    yield "resnet.embedder", model.stem
    for number, stage in enumerate(model.stages):
        for place, block in enumerate(stage):
            prefix = f"resnet.encoder.stages.{number}.layers.{place}"
            yield f"{prefix}.layer.0", block.first
            yield f"{prefix}.layer.1", block.second
            if block.shortcut is not None:
                yield f"{prefix}.shortcut", block.shortcut


def _put(variable: nnx.Variable, state: Mapping[str, np.ndarray], name: str, axes: tuple[int, ...]) -> None:
    """One tensor, its axes in our order."""
    value = np.transpose(state[name], axes)
    if value.shape != variable.shape:
        raise ValueError(f"state[{name!r}]: got shape {value.shape} in our order of axes, expected {variable.shape}")
    variable.set_value(jnp.asarray(value))
