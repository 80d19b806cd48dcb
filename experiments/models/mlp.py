"""A small fully connected network for small images."""

import jax
from flax import nnx


class MLP(nnx.Module):
    """Two hidden layers, of 128 by default: 26,122 parameters for 8 x 8 images and 10 classes."""

    def __init__(self, classes: int, *, features: int = 64, hidden: int = 128, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(features, hidden, rngs=rngs)
        self.second = nnx.Linear(hidden, hidden, rngs=rngs)
        self.head = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` of images `[batch, ...]` of `features` numbers."""
        x = image.reshape(image.shape[0], -1)
        return self.head(nnx.relu(self.second(nnx.relu(self.first(x)))))
