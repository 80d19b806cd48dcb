"""Models, in flax nnx."""
