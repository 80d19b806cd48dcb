"""Convolutions that train fast on a CPU: the kernel's gradient a few images at a time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

type_of_convolution = Callable[[jax.Array, jax.Array], jax.Array]

CHUNK = 8


def plain(image, kernel, *, convolve):
    return convolve(image, kernel)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _convolve(convolve, image, kernel):
    return convolve(image, kernel)


@_convolve.defjvp
def _tangent(convolve, primals, tangents):
    (image, kernel), (d_image, d_kernel) = primals, tangents
    by_kernel = jax.checkpoint(functools.partial(_in_chunks, convolve), prevent_cse=False)
    return _convolve(convolve, image, kernel), _convolve(convolve, d_image, kernel) + by_kernel(image, d_kernel)


def _in_chunks(convolve, image, kernel):
    starts = range(0, image.shape[0], CHUNK)
    return jnp.concatenate([convolve(image[i : i + CHUNK], kernel) for i in starts])


def conv_general_dilated(lhs, rhs, window_strides, padding, **options):
    convolve = functools.partial(lax.conv_general_dilated, window_strides=window_strides, padding=padding, **options)
    return _convolve(convolve, lhs, rhs)
