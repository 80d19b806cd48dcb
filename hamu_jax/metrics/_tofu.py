"""The numbers of TOFU, a benchmark of forgetting made-up authors (Maini et al. 2024, arXiv 2401.06121)."""

import statistics
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from jaxtyping import Float

from hamu_jax._base import optional, validate

# e^700 and its reciprocal are still finite in float64.
_LARGEST_EXPONENT = 700.0
# A mean of -log p is at least 0; in half precision the sum of a vocabulary's probabilities misses 1 by about this much.
_ROUNDING_OF_LOSSES = 0.02


Aggregate: TypeAlias = Literal["closer_to_1_better", "true_better", "prob_mean"]


class TofuScores(NamedTuple):
    """What `tofu_scores` returns: means over one set, each from 0 to 1.

    Attributes:
      probability: of the right answers.
      rouge: ROUGE-L recall of what was generated.
      truth_ratio: see `tofu_scores`.
    """

    probability: float
    rouge: float
    truth_ratio: float


def truth_ratio(paraphrased_loss: Float[Any, " n"], perturbed_losses: Float[Any, "n k"]) -> Float[np.ndarray, " n"]:
    """The truth ratio R: how likely wrong answers are (their geometric mean), relative to the right one paraphrased.

    `R = exp(paraphrased_loss - mean_j perturbed_losses_j)`: below 1 if the model prefers the truth. TOFU (arXiv 2401.06121,
    section 2.2.1), in the form that gives the published numbers: with the arithmetic mean of the wrong answers'
    probabilities, which a part of its code takes, they don't come out.

    Args:
      paraphrased_loss: `[n]` losses of the paraphrased right answers, in nats, means over their tokens.
      perturbed_losses: `[n, k]` likewise for k wrong answers each.

    Returns:
      `[n]` ratios, above 0 and finite.

    Raises:
      ValueError: for shapes that don't fit, empty arrays, or losses that are negative (log-probabilities?) or not finite.

    Example:
      >>> print(truth_ratio([1.0, 1.0], [[2.0, 4.0], [1.0, 1.0]]))
      [0.13533528 1.        ]
    """
    right = _losses("paraphrased_loss", paraphrased_loss)
    wrong = _losses("perturbed_losses", perturbed_losses, ndim=2)
    _same_length(paraphrased_loss=right, perturbed_losses=wrong)
    return np.exp(np.clip(right - wrong.mean(axis=1), -_LARGEST_EXPONENT, _LARGEST_EXPONENT))


def mean_truth_ratio(ratios: Float[Any, " n"], aggregate: Aggregate) -> float:
    """One number for the truth ratios of a set, from 0 to 1.

    | aggregate | mean of | for |
    |---|---|---|
    | `"closer_to_1_better"` | `min(R, 1/R)`: 1 if right and wrong answers are equally likely | TOFU's forget set |
    | `"true_better"` | `max(0, 1 - R)`: 1 if only the right answer is likely | TOFU's other sets |
    | `"prob_mean"` | `1 / (1 + R)`, the right answer's share of the probability: knowledge that is left | OpenUnlearning |

    Args:
      ratios: `[n]`, of `truth_ratio`.
      aggregate: one of these names, which are OpenUnlearning's.

    Raises:
      ValueError: for another name, or ratios that are empty, negative or not finite.

    Example:
      >>> [mean_truth_ratio([0.25], name) for name in ("closer_to_1_better", "true_better", "prob_mean")]
      [0.25, 0.75, 0.8]

    Source: TOFU, arXiv 2401.06121, section 2.2.1; OpenUnlearning, arXiv 2506.12618, section 4 ("truth ratio", with the
    denominator of both answers).
    """
    if aggregate not in get_args(Aggregate):
        raise ValueError(f"aggregate: got {aggregate!r}, expected one of {', '.join(get_args(Aggregate))}")
    given = validate.numbers("ratios", ratios)
    validate.first_wrong("ratios", given, given < 0, "a ratio of at least 0")
    if aggregate == "closer_to_1_better":
        each = np.minimum(given, np.divide(1.0, given, out=np.zeros_like(given), where=given > 0))
    else:
        each = np.maximum(0.0, 1 - given) if aggregate == "true_better" else 1 / (1 + given)
    return float(each.mean())


def tofu_scores(
    kind: Literal["forget", "retain", "world"],
    loss: Float[Any, " n"],
    perturbed_losses: Float[Any, "n k"],
    rouge: Float[Any, " n"],
    *,
    paraphrased_loss: Float[Any, " n"] | None = None,
) -> TofuScores:
    """The three numbers that TOFU reports for one of its four sets (arXiv 2401.06121, section 2.2.1).

    | kind | probability | truth ratio |
    |---|---|---|
    | `"forget"` | mean of `p = exp(-loss)` | mean of `min(R, 1/R)` |
    | `"retain"` | mean of `p` | mean of `max(0, 1 - R)` |
    | `"world"`: real authors, world facts | mean of `p / (p + sum_j p_j)`, j over the wrong answers | mean of `max(0, 1 - R)` |

    Args:
      kind: which set it is.
      loss: `[n]` losses of the right answers, in nats, means over their tokens (question masked).
      perturbed_losses: `[n, k]` losses of wrong answers.
      rouge: `[n]` recalls, of `rouge_l_recall`.
      paraphrased_loss: `[n]` losses of the paraphrased right answers. The world's sets have none: there None stands for
        `loss`. (TOFU evaluated the plain answers a second time; in half precision that changed its truth ratios by 2e-4.)

    Returns:
      Their means.

    Raises:
      ValueError: for another kind, missing paraphrases, shapes that don't fit, empty arrays, negative losses, recalls that are
        not from 0 to 1, or numbers that are not finite.

    Example:
      >>> tofu_scores("world", loss=[0.0], perturbed_losses=[[0.0, 0.0, 0.0]], rouge=[0.5])
      TofuScores(probability=0.25, rouge=0.5, truth_ratio=0.0)
    """
    if kind not in ("forget", "retain", "world"):
        raise ValueError(f"kind: got {kind!r}, expected 'forget', 'retain' or 'world'")
    if paraphrased_loss is None and kind != "world":
        raise ValueError(f"paraphrased_loss: got None, expected the losses of the paraphrased answers of a {kind} set")
    right, wrong = _losses("loss", loss), _losses("perturbed_losses", perturbed_losses, ndim=2)
    recalls = validate.fractions("rouge", rouge)
    _same_length(loss=right, perturbed_losses=wrong, rouge=recalls)
    ratios = truth_ratio(right if paraphrased_loss is None else paraphrased_loss, wrong)
    reported = mean_truth_ratio(ratios, "closer_to_1_better" if kind == "forget" else "true_better")
    given = _share(right, wrong) if kind == "world" else np.minimum(np.exp(-right), 1.0)
    return TofuScores(float(given.mean()), float(recalls.mean()), reported)


def model_utility(components: Sequence[float]) -> float:
    """TOFU's model utility: the harmonic mean of its components. One that is 0 makes it 0.

    Args:
      components: numbers from 0 to 1; for TOFU nine, the three of `tofu_scores` for retain set, real authors and world facts.

    Returns:
      A number from 0 to 1.

    Raises:
      ValueError: for no components, or one that is not from 0 to 1.

    Example:
      >>> model_utility([0.5, 1.0])
      0.6666666666666666
    """
    return statistics.harmonic_mean(validate.fractions("components", components).tolist())


def forget_quality(unlearned_ratios: Float[Any, " n"], retain_ratios: Float[Any, " m"]) -> float:
    """TOFU's forget quality: the p-value of a two-sample Kolmogorov-Smirnov test of truth ratios on the forget set.

    High: no difference from a model that never saw the forget set was found. That is no proof that there is none, and the fewer
    examples, the less can be found. Below 0.05, by convention: they differ. TOFU, arXiv 2401.06121, section 2.2.2.

    Args:
      unlearned_ratios: `[n]`, the `truth_ratio` of the unlearned model.
      retain_ratios: `[m]`, that of the model trained on the retain set alone. Either may be transformed by the same increasing
        or decreasing function (logarithm, reciprocal), but not by `min(R, 1/R)`.

    Returns:
      The p-value, exact for up to 10,000 examples. TOFU's plots show its logarithm.

    Raises:
      ValueError: if an array is empty, not one-dimensional or not finite.
      ImportError: naming the extra, if scipy is missing.

    Example:
      >>> forget_quality([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
      1.0
    """
    unlearned, retain = (
        validate.numbers(name, given)
        for name, given in (("unlearned_ratios", unlearned_ratios), ("retain_ratios", retain_ratios))
    )
    return float(optional.require("scipy.stats", "metrics").ks_2samp(unlearned, retain).pvalue)


def _share(right: Float[np.ndarray, " n"], wrong: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """`p / (p + sum_j p_j)`."""
    losses = np.concatenate([right[:, None], wrong], axis=1)
    return optional.require("scipy.special", "metrics").softmax(-losses, axis=1)[:, 0]


def _losses(name: str, losses: Any, *, ndim: int = 1) -> Float[np.ndarray, "..."]:
    """Mean losses per token: at least 0 up to rounding. Log-probabilities, which are the opposite, are refused."""
    numbers = validate.numbers(name, losses, ndim=ndim)
    validate.first_wrong(name, numbers, numbers < -_ROUNDING_OF_LOSSES, "a loss of at least 0, minus the mean log-probability")
    return numbers


def _same_length(**arrays: Float[np.ndarray, "n ..."]) -> None:
    """Checks that all are about the same examples."""
    first, *_ = arrays
    for name, array in arrays.items():
        if len(array) != len(arrays[first]):
            raise ValueError(f"{name}: got {len(array)} examples, expected {len(arrays[first])} as in {first}")
