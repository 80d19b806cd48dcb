"""Every unlearning method by name: a retain objective, a forget objective and a combination rule.

No method has a loop of its own: `build_method` makes what `hamu_jax.unlearn` takes. A new method is one entry of `METHODS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

import hamu_jax
from experiments.methods.saliency import masked_updates, saliency_mask
from hamu_jax import objectives, rules

Loss: TypeAlias = Callable[[Any, Any], jax.Array]
Objective: TypeAlias = Callable[["Subject"], Loss]
Wrapper: TypeAlias = Callable[["Subject", Loss], optax.GradientTransformation]


def _stored_logits(batch: Any) -> jax.Array:
    """The original model's logits, which `prepare` stored."""
    return batch["teacher"]


def _stored_loss(batch: Any) -> jax.Array:
    """The original model's cross-entropy, of the logits that `prepare` stored."""
    return objectives.cross_entropy(lambda params, batch: batch["teacher"])(None, batch)  # noqa: ARG005


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """The model that is to forget. `prepare` made its data, if nothing else is said.

    Attributes:
      loss: the task's loss, which knows the model (`loss.apply`).
      params: the original parameters.
      forget: the forget set.
      groups: the requests that the forget examples belong to.
      teacher: `teacher(batch) -> logits` of the original model. Default: those that `prepare` stored.
      original_loss: `original_loss(batch) -> [batch]`, minus the original model's log-probability of each forget example.
        Default: from the logits that `prepare` stored.
      tensors: what `blocks="leaf"` means: a function like `lora.blocks` where a leaf stacks the tensors of many layers.
      microbatch_size: examples that are differentiated at once where a method looks at the forget set beforehand.
    """

    loss: objectives.CrossEntropy
    params: Any
    forget: Any
    groups: hamu_jax.Groups
    teacher: Callable[[Any], jax.Array] = _stored_logits
    original_loss: Callable[[Any], jax.Array] = _stored_loss
    tensors: Any = "leaf"
    microbatch_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to unlearn.

    Attributes:
      title: what it is, for tables and documents.
      source: where it comes from.
      rule: how the gradients of both objectives are combined.
      retain: the retain objective, which must fall.
      forget: the forget objective, which must RISE: see `objectives.lowered`.
      options: further arguments of `hamu_jax.combine`.
      promise: of a method that takes a required improvement, how its rule is made; of the closed forms with `infeasible`.
      wrap: an optax transformation that its steps go through, given the forget loss.
    """

    title: str
    source: str
    rule: rules.Rule
    retain: Objective = lambda subject: subject.loss
    forget: Objective = lambda subject: subject.loss
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    promise: Callable[..., rules.Rule] | None = None
    wrap: Wrapper | None = None

    @property
    def promises(self) -> bool:
        """Whether it takes a required improvement."""
        return self.promise is not None

    @property
    def weighs(self) -> bool:
        """Whether it takes a weight of the forget gradient: its rule is gradient difference."""
        return self.rule == rules.gdiff()


def whole_loss(loss: objectives.CrossEntropy) -> objectives.CrossEntropy:
    """Minus the log-probability of a whole example, which NPO is defined on: of a text the sum over its tokens."""
    return dataclasses.replace(loss, per="sequence") if isinstance(loss, objectives.CausalCrossEntropy) else loss


def _kl(subject: Subject) -> Loss:
    """Divergence from the original model."""
    return objectives.kl(subject.loss.apply, subject.teacher)


def _scrub(subject: Subject) -> Loss:
    """SCRUB's mixture."""
    return objectives.scrub(subject.loss, _kl(subject))


def _npo(subject: Subject) -> Loss:
    """NPO, to be lowered, and so turned round."""
    return objectives.lowered(objectives.npo(whole_loss(subject.loss), subject.original_loss))


def _simnpo(subject: Subject) -> Loss:
    """SimNPO, likewise."""
    return objectives.lowered(objectives.simnpo(subject.loss))


def _random(subject: Subject) -> Loss:
    """Cross-entropy with the wrong labels that `prepare` drew, likewise."""
    return objectives.lowered(dataclasses.replace(subject.loss, label="random"))


def _salient(subject: Subject, forget: Loss) -> optax.GradientTransformation:
    """SalUn's mask."""
    return masked_updates(_mask(subject, forget))


@functools.lru_cache(maxsize=1)
def _mask(subject: Subject, forget: Loss) -> Any:
    """The half of the weights on which the forget loss depends most at the start; made once a model."""
    size = len(jax.tree.leaves(subject.forget)[0])
    at_once = subject.microbatch_size or size
    gradient = jax.jit(lambda params, some, weights: hamu_jax.weighted_grad(forget, params, some, weights))
    total = jax.tree.map(jnp.zeros_like, subject.params)
    for start in range(0, size, at_once):  # no scan, in which convolutions are slow on a CPU
        some = jax.tree.map(lambda x, start=start: x[start : start + at_once], subject.forget)
        weights = forget.weights(some) if hasattr(forget, "weights") else jnp.ones(min(at_once, size - start))
        total = jax.tree.map(jnp.add, total, gradient(subject.params, some, weights))
    return saliency_mask(total)


WHOLE = {"blocks": "global"}  # inner products of whole gradients, as in the papers
COSINE = {"distribution": "relative"}

METHODS: dict[str, Method] = {
    "ft": Method("fine-tuning on the retain set", "HAMU, arXiv 2606.02119, baselines", rules.descent()),
    "ga": Method("gradient ascent on the forget set", "arXiv 1911.04933; arXiv 2210.01504", rules.ascent()),
    "gdiff": Method("gradient difference", "arXiv 2203.12817; TOFU, arXiv 2401.06121, section 3", rules.gdiff()),
    "kl": Method("KL to the original model on the retain set", "TOFU, arXiv 2401.06121, section 3", rules.gdiff(), retain=_kl),
    "scrub": Method("SCRUB, both objectives in one step", "arXiv 2302.09880", rules.gdiff(), retain=_scrub, forget=_kl),
    "gru": Method("gradient rectified unlearning", "arXiv 2503.09117", rules.gru(), options=WHOLE),
    "pcgrad": Method("projecting conflicting gradients", "arXiv 2001.06782", rules.pcgrad(), options=WHOLE),
    "npo": Method("negative preference optimisation", "arXiv 2404.05868", rules.gdiff(), forget=_npo),
    "simnpo": Method("NPO without a reference model", "arXiv 2410.07163", rules.gdiff(), forget=_simnpo),
    "random-label": Method("random wrong labels", "arXiv 1911.04933; arXiv 2310.12508", rules.gdiff(), forget=_random),
    "salun": Method(
        "random wrong labels on salient weights", "SalUn, arXiv 2310.12508", rules.gdiff(), forget=_random, wrap=_salient
    ),
    "mgda": Method("multiple-gradient descent", "arXiv 1810.04650", rules.mgda(), options=WHOLE),
    "cagrad": Method("conflict-averse gradient", "arXiv 2110.14048", rules.cagrad(), options=WHOLE),
    "nash": Method("Nash bargaining", "arXiv 2202.01017; MUNBa, arXiv 2411.15537", rules.nash(), options=WHOLE),
    "hamu-q": Method("HAMU-Q", "arXiv 2606.02119, section 4", rules.hamu_q(), options=COSINE, promise=rules.hamu_q),
    "hamu-u": Method("HAMU-U", "arXiv 2606.02119, section 4", rules.hamu_u(), options=COSINE, promise=rules.hamu_u),
    "hamu-projected": Method(
        "a promise to every request", "this library", rules.projected(), options={**WHOLE, **COSINE}, promise=rules.projected
    ),
}

FORGET_CALLS: dict[str, rules.Rule] = {"forget-hamu-q": rules.hamu_q(), "forget-hamu-u": rules.hamu_u()}
"""`hamu_jax.forget` with a rule, by name: methods without a setting to choose, and with a driver of their own."""
