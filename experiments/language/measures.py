"""What is measured of a language model: on held-out questions to choose settings, and everything."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.data.questions import Question, variants
from experiments.language.task import Task
from experiments.models.lora import Adapter
from experiments.runs.unlearning import Record
from hamu_jax import metrics

VALIDATION = ("validation retain", "validation forget")
KINDS: dict[str, Any] = {"forget": "forget", "retain": "retain", "real authors": "world", "world facts": "world"}
UTILITY = ("retain", "real authors", "world facts")


def validation(task: Task, adapter: Adapter) -> Record:
    """Means on the questions that are watched during unlearning."""
    found: Record = {}
    for name in task.watched:
        found |= means(name, task.numbers(adapter, task.watched[name]))
    return finite(found)


def measure(task: Task, adapter: Adapter, retrained_ratios: Any = None) -> Record:
    """Everything: `numbers` by name, and the forget set's truth `ratios`, with which other models' are compared.

    Args:
      task: questions and model.
      adapter: the adapter.
      retrained_ratios: those of the model that never saw the forget set. None: this one's own, of which the quality is 1.

    Returns:
      Numbers that are not finite are None; ratios are None where the data has no paraphrases.
    """
    each = {name: task.numbers(adapter, asked) for name, asked in task.evaluated.items()}
    numbers: Record = {}
    for name, values in each.items():
        numbers |= means(name, values)
    numbers |= membership(each)
    scores: dict[str, metrics.TofuScores] = {}
    ratios = None
    for name, kind in KINDS.items():
        asked = task.evaluated.get(name, ())
        if not asked or any(question.question is None for question in asked):
            continue
        recalls = [
            metrics.rouge_l_recall(written, question.answer) if _has_words(question) else 0.0
            for written, question in zip(task.answers(adapter, asked), asked, strict=True)
        ]
        numbers[f"{name}/rouge"] = float(np.mean(recalls))
        if all(_compared(question, kind) for question in asked):
            scores[name], found = _tofu(task, adapter, name, each[name]["loss"], recalls)
            numbers[f"{name}/truth ratio"] = scores[name].truth_ratio
            ratios = found if name == "forget" else ratios
    known = [number for name in UTILITY if name in scores for number in scores[name]]
    if known:
        numbers["model utility"] = metrics.model_utility(known) if np.isfinite(known).all() else float("nan")
    if ratios is not None:
        compared = ratios if retrained_ratios is None else np.asarray(retrained_ratios, float)
        whole = np.isfinite(ratios).all() and np.isfinite(compared).all()
        numbers["forget quality"] = metrics.forget_quality(ratios, compared) if whole else float("nan")
    return {"numbers": finite(numbers), "ratios": None if ratios is None else [float(x) for x in np.nan_to_num(ratios)]}


def means(name: str, values: np.ndarray) -> Record:
    """Loss and accuracy are of all tokens of the part; probability and extraction strength count each question alike."""
    tokens = values["tokens"]
    return {
        f"{name}/loss": float(np.average(values["loss"], weights=tokens)),
        f"{name}/accuracy": float(np.average(values["accuracy"], weights=tokens)),
        f"{name}/probability": float(np.mean(np.exp(-values["loss"]))),
        f"{name}/extraction": float(np.mean(values["extraction"])),
    }


def membership(each: Mapping[str, np.ndarray]) -> Record:
    """Whether the forget set can be told from what was retained, and from what was never trained on, if there is such."""
    if "unseen" not in each:
        return {}
    found: Record = {}
    for column in ("loss", "min-k", "min-k++"):
        values = [each[name][column] for name in ("retain", "forget", "unseen")]
        if not all(np.isfinite(x).all() for x in values):
            found |= {f"retain forget AUC, {column}": float("nan"), f"forget unseen AUC, {column}": float("nan")}
            continue
        both = metrics.membership_auc(*values, members="low" if column == "loss" else "high")
        found |= {f"retain forget AUC, {column}": both.retain_forget, f"forget unseen AUC, {column}": both.forget_test}
    return found


def finite(numbers: Record) -> Record:
    """The same with None in the place of what is not finite."""
    return {name: value if np.isfinite(value) else None for name, value in numbers.items()}


def _has_words(one: Question) -> bool:
    """Whether ROUGE can compare anything with the answer: it has a letter or a digit, of any script."""
    return any(c.isalnum() for c in one.answer)


def _compared(one: Question, kind: str) -> bool:
    """Whether there is what the truth ratio compares."""
    return bool(one.perturbed_answers) and (kind == "world" or one.paraphrased_answer is not None)


def _tofu(
    task: Task, adapter: Adapter, name: str, loss: np.ndarray, recalls: list[float]
) -> tuple[metrics.TofuScores, np.ndarray]:
    """TOFU's three numbers of a part, and its truth ratios; NaN where a loss is not finite."""
    asked, kind = task.evaluated[name], KINDS[name]
    wrong = task.numbers(adapter, variants(asked, "perturbed_answers"))["loss"].reshape(len(asked), -1)
    right = loss if kind == "world" else task.numbers(adapter, variants(asked, "paraphrased_answer"))["loss"]
    if not (np.isfinite(wrong).all() and np.isfinite(right).all() and np.isfinite(loss).all()):
        return metrics.TofuScores(*[float("nan")] * 3), np.full(len(asked), np.nan)
    scores = metrics.tofu_scores(kind, loss, wrong, recalls, paraphrased_loss=None if kind == "world" else right)
    return scores, metrics.truth_ratio(right, wrong)
