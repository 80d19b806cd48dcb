"""A small convolutional network for small images."""

import jax
from flax import nnx


class CNN(nnx.Module):
    """Two convolutions, one hidden layer: 28,000 parameters for 8 x 8 images."""

    def __init__(self, classes: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(4 * 32, 128, rngs=rngs)
        self.head = nnx.Linear(128, classes, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` of images `[batch, 8, 8, 1]`."""
        x = nnx.max_pool(nnx.relu(self.conv1(image)), (2, 2), strides=(2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), strides=(2, 2))
        return self.head(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))
