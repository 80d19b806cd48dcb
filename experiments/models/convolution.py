"""A convolution that trains fast on a CPU: the kernel's gradient is summed over a few images at a time."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Num

Image = Num[Array, "batch height width channels"]
Kernel = Num[Array, "rows columns channels features"]
Output = Num[Array, "batch out_height out_width features"]
Convolution = Callable[[jax.Array, jax.Array], jax.Array]

# XLA's kernel gradient on a CPU takes longer for an image, the more images it sums over. At 16 to 16 channels and 128 images of
# 32 x 32: 23 ms in chunks of 4, 10 of 8, 11 of 16, 25 of 32, 140 all at once. What suits other shapes better gains nothing in
# a whole ResNet.
CHUNK = 8


def conv_general_dilated(
    lhs: Num[Array, "..."],
    rhs: Num[Array, "..."],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Num[Array, "..."]:
    """`jax.lax.conv_general_dilated`, whose kernel gradient is fast on a CPU.

    With the images cut into chunks, the gradient with respect to the kernel is the sum of the chunks' gradients, and is
    computed so; values and the gradient with respect to the images are lax's own. Reverse and forward mode, of any
    order, `jax.vmap` and `jax.jit` work as for lax's function.

    On a GPU or TPU (the default backend, when the function is traced), for up to eight images, and for anything but plain
    two-dimensional convolutions (`NHWC`, `HWIO`, no groups, no dilation, no sharding asked for), this is lax's function and
    nothing else. A batch that the compiler splits over devices should be split by `jax.shard_map` instead: chunks do not
    follow the devices. A program with many chunks compiles longer: a ResNet-20's gradient at 128 images in 12 s, not 3 s.

    Args:
        lhs: images, `[batch, height, width, channels]` where it is to be fast.
        rhs: kernel, `[rows, columns, channels, features]` where it is to be fast.
        window_strides: as lax's.
        padding: as lax's.
        **options: lax's other arguments.

    Returns:
        What lax's function returns, `[batch, out_height, out_width, features]` where it is fast.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> layer = nnx.Conv(3, 16, (3, 3), conv_general_dilated=conv_general_dilated, rngs=nnx.Rngs(0))
        >>> layer(jax.numpy.ones((20, 8, 8, 3))).shape
        (20, 8, 8, 16)
    """
    convolution = functools.partial(lax.conv_general_dilated, window_strides=window_strides, padding=padding, **options)
    if jax.default_backend() == "cpu" and lhs.shape[0] > CHUNK and _is_plain(lhs, rhs, **options):
        return _convolve(convolution, lhs, rhs)
    return convolution(lhs, rhs)


def _is_plain(
    lhs: Num[Array, "..."],
    rhs: Num[Array, "..."],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    out_sharding: Any = None,
    **rest: Any,  # noqa: ARG001  (precision and result type change nothing here)
) -> bool:
    """Whether these are arguments of the kind that was measured."""
    if lhs.ndim != 4 or rhs.ndim != 4 or out_sharding is not None:  # noqa: PLR2004
        return False
    given, wanted = (lax.conv_dimension_numbers(lhs.shape, rhs.shape, x) for x in (dimension_numbers, ("NHWC", "HWIO", "NHWC")))
    dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
    return given == wanted and feature_group_count == batch_group_count == 1 and all(d == 1 for d in dilations)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _convolve(convolution: Convolution, image: Image, kernel: Kernel) -> Output:
    """The convolution itself, which is fast as it is."""
    return convolution(image, kernel)


@_convolve.defjvp
def _tangent(convolution: Convolution, primals: tuple[Image, Kernel], tangents: tuple[Image, Kernel]) -> tuple[Output, Output]:
    """The product rule; the chunks show only when the second term is transposed, into the gradient of the kernel."""
    (image, kernel), (image_tangent, kernel_tangent) = primals, tangents
    by_image, by_kernel = convolution(image_tangent, kernel), _in_chunks(convolution, image, kernel_tangent)
    return _convolve(convolution, image, kernel), by_image + by_kernel


def _in_chunks(convolution: Convolution, image: Image, kernel: Kernel) -> Output:
    """The same convolution, unrolled: a scan over chunks takes two to three times as long on a CPU."""
    starts = range(0, image.shape[0], CHUNK)
    return jnp.concatenate([convolution(image[start : start + CHUNK], kernel) for start in starts])
