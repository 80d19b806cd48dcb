"""What happens to a batch of images on the device: normalisation and augmentation."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped, UInt8

from experiments.data.images import SOURCES


@functools.partial(jax.jit, static_argnames="name")
def normalise(image: UInt8[Array, "n h w c"], name: str) -> Float[Array, "n h w c"]:
    """`(image / 255 - mean) / std`, float32, with each channel's mean and deviation in the data set `name`.

    Example:
      >>> white = normalise(jnp.full((1, 1, 1, 1), 255, jnp.uint8), "mnist")
      >>> round(white.item(), 4)
      2.8215
    """
    mean, std = (jnp.array(numbers, jnp.float32).reshape(1, 1, 1, -1) for numbers in (SOURCES[name].mean, SOURCES[name].std))
    return (image.astype(jnp.float32) / 255 - mean) / std


@functools.partial(jax.jit, static_argnames=("padding", "flip"))
def augment(
    key: Key[Array, ""], image: Shaped[Array, "n h w c"], *, padding: int = 4, flip: bool = True
) -> Shaped[Array, "n h w c"]:
    """Flips half of the images left to right, then shifts each by up to `padding` pixels either way, zeros coming in.

    Every image has draws of its own; the same key gives the same result. Augment bytes, before `normalise`, so that zeros
    are black. No `flip` for digits: a mirrored 2 is none.

    Args:
      key: of `jax.random`; a new one for every batch.
      image: `[n, height, width, channels]`, of any dtype.
      padding: pixels.
      flip: whether to flip.

    Returns:
      `[n, height, width, channels]`, of the same dtype.

    Example:
      >>> image = jnp.arange(6, dtype=jnp.uint8).reshape(1, 2, 3, 1)
      >>> print(augment(jax.random.key(3), image, padding=0)[0, :, :, 0])
      [[2 1 0]
       [5 4 3]]

    Source: He et al., arXiv 1512.03385, section 4.2.
    """
    of_flip, of_crop = jax.random.split(key)
    if flip:
        flipped = jax.random.bernoulli(of_flip, shape=(image.shape[0], 1, 1, 1))
        image = jnp.where(flipped, image[:, :, ::-1], image)
    padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corner = jax.random.randint(of_crop, (image.shape[0], 2), 0, 2 * padding + 1)
    return jax.vmap(lambda one, at: jax.lax.dynamic_slice(one, (at[0], at[1], 0), image.shape[1:]))(padded, corner)
