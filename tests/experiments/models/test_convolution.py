"""The fast convolution against lax's own: values and every kind of derivative."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from experiments.models.convolution import CHUNK, conv_general_dilated

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
ODD = 2 * CHUNK + 3
PAD = ((1, 1), (1, 1))


def _derivatives(convolution: Any, strides: int, padding: Any, inputs: Any) -> dict[str, Any]:
    """What the function is asked for, by name."""
    image, kernel, tangents = inputs

    def conv(image: Any, kernel: Any) -> Any:
        return convolution(image, kernel, (strides, strides), padding, dimension_numbers=DIMENSIONS)

    def loss(image: Any, kernel: Any) -> Any:
        return jnp.sum(jnp.sin(conv(image, kernel)))

    def grad_of_jvp(kernel: Any) -> Any:
        return jax.jvp(lambda k: loss(image, k), (kernel,), (tangents[1],))[1]

    grads = jax.grad(loss, argnums=(0, 1))
    stacks = jnp.stack([image, 2 * image])
    return {
        "value": conv(image, kernel),
        "gradients": grads(image, kernel),
        "jvp": jax.jvp(conv, (image, kernel), tangents)[1],
        "linearized": jax.linearize(conv, image, kernel)[1](*tangents),
        "jvp of gradients": jax.jvp(grads, (image, kernel), tangents)[1],
        "gradient of jvp": jax.grad(grad_of_jvp)(kernel),
        "per example": jax.vmap(jax.grad(lambda k, x: loss(x[None], k)), (None, 0))(kernel, image),
        "per batch": jax.vmap(jax.grad(lambda k, x: loss(x, k)), (None, 0))(kernel, stacks),
        "used twice": jax.grad(lambda k: loss(image, k) * loss(2 * image, k))(kernel),
    }


def _inputs(batch: int, size: int, dtype: Any) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    rng = np.random.default_rng(0)
    image, kernel = (batch, 7, 6, 3), (size, size, 3, 4)
    x, k, dx, dk = (jnp.asarray(rng.normal(size=shape), dtype) for shape in (image, kernel, image, kernel))
    return x, k, (dx, dk)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("size", "strides", "batch", "dtype"),
    [
        (3, 1, ODD, "float64"),
        (3, 1, ODD, "float32"),
        (3, 2, 2 * CHUNK, "float64"),
        (1, 2, ODD, "float64"),
        (3, 1, 1, "float64"),
    ],
)
def test_equals_lax(size: int, strides: int, batch: int, dtype: str) -> None:
    padding = PAD if size == 3 else "VALID"
    ours, lax_own = (
        jax.jit(_derivatives, static_argnums=(0, 1, 2))(conv, strides, padding, _inputs(batch, size, dtype))
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    # Sums of up to 800 numbers of size one, in another order.
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    for name, expected in lax_own.items():
        for ours_leaf, leaf in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(expected), strict=True):
            assert ours_leaf.dtype == leaf.dtype
            scale = np.max(np.abs(leaf))
            assert scale > 0
            np.testing.assert_allclose(ours_leaf / scale, leaf / scale, rtol=0, atol=tolerance, err_msg=name)


def _convolutions_of_gradient(convolution: Any, image: Any, kernel: Any, **options: Any) -> int:
    """How many convolutions the gradient with respect to the kernel has."""

    def loss(kernel: Any) -> Any:
        return convolution(image, kernel, (1, 1), PAD, **options).sum()

    return str(jax.make_jaxpr(jax.grad(loss))(kernel)).count("conv_general_dilated[")


def test_the_gradient_is_taken_in_chunks() -> None:
    image, kernel, _ = _inputs(ODD, 3, "float32")
    few, many = (
        _convolutions_of_gradient(conv_general_dilated, image[:n], kernel, dimension_numbers=DIMENSIONS) for n in (CHUNK, ODD)
    )
    assert many >= few + 2


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({"dimension_numbers": DIMENSIONS, "rhs_dilation": (2, 2)}, 3),
        ({"dimension_numbers": DIMENSIONS, "lhs_dilation": (2, 2)}, 3),
        ({"dimension_numbers": DIMENSIONS, "feature_group_count": 3}, 1),
        ({"dimension_numbers": ("NHWC", "HWIO", "NCHW")}, 3),
        ({}, 3),
    ],
)
def test_what_is_not_sped_up_is_lax(options: dict[str, Any], channels: int) -> None:
    image, _, _ = _inputs(ODD, 3, "float32")
    kernel = jnp.ones((3, 3, channels, 6))
    if not options:
        image, kernel = image.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)
    traces = [
        str(jax.make_jaxpr(lambda k, conv=conv: conv(image, k, (1, 1), PAD, **options))(kernel))
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    ]
    assert traces[0] == traces[1]


def test_other_devices_have_lax(monkeypatch: pytest.MonkeyPatch) -> None:
    image, kernel, _ = _inputs(ODD, 3, "float32")
    here = _convolutions_of_gradient(conv_general_dilated, image, kernel, dimension_numbers=DIMENSIONS)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = _convolutions_of_gradient(conv_general_dilated, image, kernel, dimension_numbers=DIMENSIONS)
    assert there == _convolutions_of_gradient(lax.conv_general_dilated, image, kernel, dimension_numbers=DIMENSIONS) < here


@pytest.mark.usefixtures("as_users_promote")
def test_is_an_argument_of_a_layer() -> None:
    image, kernel, _ = _inputs(ODD, 3, "float32")
    layer = nnx.Conv(3, 4, (3, 3), padding=PAD, use_bias=False, conv_general_dilated=conv_general_dilated, rngs=nnx.Rngs(0))
    layer.kernel[...] = kernel
    expected = lax.conv_general_dilated(image, kernel, (1, 1), PAD, dimension_numbers=DIMENSIONS)
    np.testing.assert_allclose(layer(image), expected, atol=1e-6)
    grad = str(jax.make_jaxpr(nnx.grad(lambda m: m(image).sum()))(layer))
    assert grad.count("conv_general_dilated[") > 3
