"""Per-example gradients as factors: what enters a parameter's equations, and the cotangents that come out of them."""
