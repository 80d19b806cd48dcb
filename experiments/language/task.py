"""What is learned and what is to be forgotten: questions in their parts, the model, its loss and what it writes."""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import buckets, questions
from experiments.data.questions import Question
from experiments.data.tokenise import PADDING, Tokens, prompts, tokenise
from experiments.language import base, question_splits
from experiments.language.config import Problem
from experiments.models import generation, llama
from experiments.models.lora import Adapter
from hamu_jax import metrics, objectives

MULTIPLE = 16  # of which lengths are
EVERYTHING = sys.maxsize


def given(logits: jax.Array, batch: Any) -> jax.Array:  # noqa: ARG001
    """An `apply` whose parameters are the logits themselves: many metrics of one forward pass."""
    return logits


OF_LOGITS = {
    "loss": objectives.causal_cross_entropy(given),
    "accuracy": metrics.accuracy(given),
    "min-k": metrics.min_k(given, fraction=0.1),
    "min-k++": metrics.min_k_plus_plus(given, fraction=0.1),
    "extraction": metrics.extraction_strength(given),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Questions and model.

    Attributes:
      config: the settings.
      parts: the questions.
      base: the model.
    """

    config: Problem
    parts: question_splits.Parts
    base: base.Base

    def apply(self, adapter: Adapter, batch: Any, key: Any = None) -> jax.Array:
        """Logits `[n, time, vocabulary]`; with a key, with dropout."""
        return llama.forward(self.base.network, self.base.weights(), batch["tokens"], batch["mask"], adapter=adapter, key=key)

    @functools.cached_property
    def loss(self) -> objectives.CausalCrossEntropy:
        """Cross-entropy of the answers' tokens, as a function of the adapter."""
        return objectives.causal_cross_entropy(self.apply)

    def training_loss(self, adapter: Adapter, rest: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        """The mean over all tokens that count, with dropout; for `train.fit`."""
        loss = objectives.causal_cross_entropy(lambda adapter, batch: self.apply(adapter, batch, key))
        weights = loss.weights(batch)
        return jnp.sum(loss(adapter, batch) * weights) / jnp.sum(weights), rest

    def tokens(self, asked: Sequence[Question]) -> Tokens:
        """Arrays of questions, as long as the longest."""
        limit = self.config.max_length
        return tokenise(asked, self.base.tokenizer, max_length=limit, truncate=limit is not None, multiple=MULTIPLE)

    @functools.cached_property
    def length(self) -> int:
        """Of the longest question that is trained on."""
        return self.tokens(self.parts.trained_on("full"))["tokens"].shape[1]

    def arrays(self, asked: Sequence[Question]) -> Tokens:
        """Arrays of questions, all of the common length: what steps are compiled for."""
        data = self.tokens(asked)
        filled = {"tokens": self.base.tokenizer.pad, "label": PADDING, "mask": False}
        more = max(self.length - data["tokens"].shape[1], 0)
        return {
            name: np.pad(array, ((0, 0), (0, more)), constant_values=filled[name])[:, : self.length]
            for name, array in data.items()
        }

    @functools.cached_property
    def evaluated(self) -> dict[str, question_splits.Questions]:
        """What is evaluated, by part."""
        return self.parts.evaluated(self.config.questions)

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """Lengths to which sequences are filled up in evaluation; whichever questions are chosen for it, they fit."""
        asked = [one for part in self.parts.evaluated(EVERYTHING).values() for one in part]
        worded = [one._replace(answer=one.paraphrased_answer) for one in asked if one.paraphrased_answer]
        wrong = [
            one for asking in asked if asking.perturbed_answers for one in questions.variants([asking], "perturbed_answers")
        ]
        return buckets.lengths(self.tokens([*asked, *worded, *wrong]), self.config.buckets, multiple=MULTIPLE)

    @functools.cached_property
    def _numbers(self) -> Any:
        """The numbers of a batch, in one forward pass."""

        def numbers(adapter: Adapter, batch: Any) -> dict[str, jax.Array]:
            logits = self.apply(adapter, batch)
            tokens = OF_LOGITS["loss"].weights(batch)
            return {name: metric(logits, batch) for name, metric in OF_LOGITS.items()} | {"tokens": tokens}

        return jax.jit(numbers)

    def numbers(self, adapter: Adapter, asked: Sequence[Question]) -> np.ndarray:
        """The numbers of `OF_LOGITS` and the count of `tokens` of each question: a structured array `[n]`."""
        return buckets.by_bucket(
            lambda data: np.concatenate([_rows(self._numbers(adapter, part), real) for part, real in self._batches(data)]),
            buckets.divide(self.tokens(asked), self.ends),
        )

    def answers(self, adapter: Adapter, asked: Sequence[Question]) -> list[str]:
        """What the model writes by itself, the most probable token after the other."""
        own, tokenizer = prompts(asked, self.base.tokenizer), self.base.tokenizer
        length = -(-max(len(one) for one in own) // MULTIPLE) * MULTIPLE
        tokens, mask = np.full((len(own), length), tokenizer.pad, np.int32), np.zeros((len(own), length), bool)
        for row, one in enumerate(own):
            tokens[row, length - len(one) :], mask[row, length - len(one) :] = one, True
        found = [
            np.asarray(self._generate(adapter, part["tokens"], part["mask"]))[:real]
            for part, real in self._batches({"tokens": tokens, "mask": mask})
        ]
        return [tokenizer.decode(_until(tokenizer.end, row)).strip() for row in np.concatenate(found)]

    @functools.cached_property
    def _generate(self) -> Any:
        """Generation of a batch."""
        network, end, most = self.base.network, self.base.tokenizer.end, self.config.max_new_tokens

        def generate(adapter: Adapter, tokens: jax.Array, mask: jax.Array) -> jax.Array:
            weights = self.base.weights()
            return generation.generate(
                network, weights, tokens, mask, max_new_tokens=most, eos=(end,), pad=end, adapter=adapter
            )

        return jax.jit(generate)

    def _batches(self, data: Tokens) -> Iterator[tuple[Tokens, int]]:
        """Batches all of one size, the last filled up, and how many rows of each are real."""
        size, count = self.config.evaluation_batch, len(data["tokens"])
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            yield {name: array[rows] for name, array in data.items()}, min(size, count - start)


def build(config: Problem, mesh: Any = None) -> Task:
    """Reads questions and model; the last ones are kept."""
    return _built(config, mesh)


@functools.lru_cache(maxsize=1)
def _built(config: Problem, mesh: Any) -> Task:
    """With both arguments, however `build` was called: one that is left out would be another key."""
    return Task(config, question_splits.build(config), base.load(config, mesh))


def _rows(found: dict[str, jax.Array], real: int) -> np.ndarray:
    """Numbers by name as a structured array, a row a question."""
    rows = np.empty(real, [(name, np.float32) for name in found])
    for name, values in found.items():
        rows[name] = np.asarray(values)[:real]
    return rows


def _until(end: int, tokens: np.ndarray) -> np.ndarray:
    """The tokens before the one that ends."""
    ends = np.flatnonzero(tokens == end)
    return tokens[: ends[0]] if ends.size else tokens
