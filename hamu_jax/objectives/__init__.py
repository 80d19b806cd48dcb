"""Objectives: losses `loss(params, batch) -> [batch]`, one number per example, that know which examples are padding.

A retain loss must fall and a FORGET LOSS MUST RISE. A method whose forget loss must fall goes through `lowered`:

| method | retain loss | forget loss |
|---|---|---|
| gradient ascent, GDiff, HAMU | `cross_entropy` | `cross_entropy` |
| KL | `kl` | `cross_entropy` |
| SCRUB | `scrub` | `kl` |
| NPO, SimNPO, DPO | `cross_entropy` | `lowered(npo(...))`, `lowered(simnpo(...))`, `lowered(dpo(...))` |
| random labels, refusals | `cross_entropy` | `lowered(cross_entropy(apply, label="random"))` |
| saying nothing | `cross_entropy` | `lowered(uniform(...))` or `entropy(...)` |

For a language model, `causal_cross_entropy` takes the place of `cross_entropy`.
"""

from hamu_jax.objectives._lowered import lowered
from hamu_jax.objectives._predictions import CausalCrossEntropy, CrossEntropy, causal_cross_entropy, cross_entropy, kl
from hamu_jax.objectives._preferences import dpo, npo, simnpo
from hamu_jax.objectives._random_labels import random_labels
from hamu_jax.objectives._scrub import scrub
from hamu_jax.objectives._uniform import entropy, uniform

__all__ = [
    "CausalCrossEntropy",
    "CrossEntropy",
    "causal_cross_entropy",
    "cross_entropy",
    "dpo",
    "entropy",
    "kl",
    "lowered",
    "npo",
    "random_labels",
    "scrub",
    "simnpo",
    "uniform",
]
