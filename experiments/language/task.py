"""The questions in their splits, the model, its loss and its answers."""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import buckets, questions
from experiments.data.questions import Question
from experiments.data.tokenise import PADDING, Tokens, prompts, tokenise
from experiments.language import base, question_splits
from experiments.language.config import Evaluation, ModelSettings, Problem
from experiments.models import generation, llama
from experiments.models.lora import Adapter
from experiments.runs.config import part
from hamu_jax import metrics, objectives

MULTIPLE = 16  # every length is a multiple of it
EVERYTHING = sys.maxsize


def logits_themselves(logits: jax.Array, batch: Any) -> jax.Array:  # noqa: ARG001
    """An `apply` whose parameters are the logits themselves: many metrics of one forward pass."""
    return logits


OF_LOGITS = {
    "loss": objectives.causal_cross_entropy(logits_themselves),
    "accuracy": metrics.accuracy(logits_themselves),
    "min-k": metrics.min_k(logits_themselves, fraction=0.1),
    "min-k++": metrics.min_k_plus_plus(logits_themselves, fraction=0.1),
    "extraction": metrics.extraction_strength(logits_themselves),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Questions and model.

    Attributes:
      problem: the settings of questions and model.
      parts: the questions.
      base: the model.
      evaluation: the settings of evaluation.
      out: the directory of adapters.
    """

    problem: Problem
    parts: question_splits.Parts
    base: base.Base
    evaluation: Evaluation = Evaluation()
    out: Path = Path("language-out")

    def apply(self, adapter: Adapter, batch: Any, key: Any = None) -> jax.Array:
        """Logits `[n, time, vocabulary]`, with dropout if there is a key."""
        return llama.forward(self.base.network, self.base.weights(), batch["tokens"], batch["mask"], adapter=adapter, key=key)

    @functools.cached_property
    def loss(self) -> objectives.CausalCrossEntropy:
        """Cross-entropy of the answers' tokens, as a function of the adapter."""
        return objectives.causal_cross_entropy(self.apply)

    def training_loss(self, adapter: Adapter, rest: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        """The mean over all counted tokens, with dropout; for `training.fit`."""
        loss = objectives.causal_cross_entropy(lambda adapter, batch: self.apply(adapter, batch, key))
        weights = loss.weights(batch)
        return jnp.sum(loss(adapter, batch) * weights) / jnp.sum(weights), rest

    def tokens(self, asked: Sequence[Question]) -> Tokens:
        """Arrays of questions, padded to the longest.

        Raises:
          ValueError: for a question that the model has no positions for, or a token that it has no embedding of.
        """
        limit, sizes = self.problem.max_length, self.base.network.config
        data = tokenise(asked, self.base.tokenizer, max_length=limit, truncate=limit is not None, multiple=MULTIPLE)
        length, highest = data["mask"].sum(axis=1), np.maximum(data["tokens"], data["label"]).max(axis=1)
        if length.max() > sizes.positions:
            place = int(length.argmax())
            raise ValueError(
                f"max_length: got {limit} for row {asked[place].row}, of {length[place]} tokens, expected at most "
                f"{sizes.positions}, the model's max_position_embeddings; with that, answers are cut off"
            )
        if highest.max() >= sizes.vocabulary:
            place = int(highest.argmax())
            raise ValueError(
                f"model: got the token {highest[place]} in row {asked[place].row}, expected tokens below {sizes.vocabulary}, "
                "the model's vocab_size: its tokenizer belongs to another model"
            )
        return data

    @functools.cached_property
    def length(self) -> int:
        """The length of the longest question that is trained on."""
        return self.tokens(self.parts.trained_on("full"))["tokens"].shape[1]

    def arrays(self, asked: Sequence[Question]) -> Tokens:
        """Arrays of questions, all of the length that steps are compiled for."""
        data = self.tokens(asked)
        filled = {"tokens": self.base.tokenizer.pad, "label": PADDING, "mask": False}
        more = max(self.length - data["tokens"].shape[1], 0)
        return {
            name: np.pad(array, ((0, 0), (0, more)), constant_values=filled[name])[:, : self.length]
            for name, array in data.items()
        }

    @functools.cached_property
    def evaluated(self) -> dict[str, question_splits.Questions]:
        """The questions that are evaluated, by split."""
        return self.parts.evaluated(self.evaluation.questions)

    @functools.cached_property
    def watched(self) -> dict[str, question_splits.Questions]:
        """The questions that are watched during unlearning, by split: settings are chosen on those of `validation`."""
        evaluated = {name: self.evaluated[name] for name in ("retain", "forget")}
        return evaluated | self.parts.watched(self.evaluation.questions)

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """The lengths to which sequences are padded in evaluation; every question fits."""
        asked = [question for split in self.parts.evaluated(EVERYTHING).values() for question in split]
        paraphrased = [x._replace(answer=x.paraphrased_answer) for x in asked if x.paraphrased_answer]
        wrong = [x for asking in asked if asking.perturbed_answers for x in questions.variants([asking], "perturbed_answers")]
        return buckets.lengths(self.tokens([*asked, *paraphrased, *wrong]), self.evaluation.buckets, multiple=MULTIPLE)

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

    def check(self) -> None:
        """Checks, before anything is trained, that all questions and their answers fit the model.

        Raises:
          ValueError: as `tokens`, and for answers so long that the model has no positions for them.
        """
        every = (*self.parts.trained_on("full"), *(x for split in self.parts.evaluated(EVERYTHING).values() for x in split))
        self.tokens(every)
        prompted = prompts([x for x in every if x.question is not None], self.base.tokenizer)
        longest, positions = max((len(prompt) for prompt in prompted), default=0), self.base.network.config.positions
        most = self.evaluation.max_new_tokens
        if longest + most > positions:
            raise ValueError(
                f"max_new_tokens: got {most} after a prompt of {longest} tokens, expected at most {positions - longest}: "
                f"the model has {positions} positions"
            )

    def answers(self, adapter: Adapter, asked: Sequence[Question]) -> list[str]:
        """The answers that the model generates, always with the most probable token."""
        prompted, tokenizer = prompts(asked, self.base.tokenizer), self.base.tokenizer
        length = -(-max(len(prompt) for prompt in prompted) // MULTIPLE) * MULTIPLE
        tokens, mask = np.full((len(prompted), length), tokenizer.pad, np.int32), np.zeros((len(prompted), length), bool)
        for row, prompt in enumerate(prompted):
            tokens[row, length - len(prompt) :], mask[row, length - len(prompt) :] = prompt, True
        written = [
            np.asarray(self._generate(adapter, part["tokens"], part["mask"]))[:real]
            for part, real in self._batches({"tokens": tokens, "mask": mask})
        ]
        return [tokenizer.decode(_until(tokenizer.end, row)).strip() for row in np.concatenate(written)]

    @functools.cached_property
    def _generate(self) -> Any:
        """Generation of a batch."""
        network, end, most = self.base.network, self.base.tokenizer.end, self.evaluation.max_new_tokens

        def generate(adapter: Adapter, tokens: jax.Array, mask: jax.Array) -> jax.Array:
            weights = self.base.weights()
            return generation.generate(
                network, weights, tokens, mask, max_new_tokens=most, eos=(end,), pad=end, adapter=adapter
            )

        return jax.jit(generate)

    def _batches(self, data: Tokens) -> Iterator[tuple[Tokens, int]]:
        """Batches of one size, the last padded, each with its number of real rows."""
        size, count = self.evaluation.evaluation_batch, len(data["tokens"])
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            yield {name: array[rows] for name, array in data.items()}, min(size, count - start)


def build_task(settings: ModelSettings, mesh: Any = None) -> Task:
    """Reads questions and model; the last task is kept."""
    return _task(part(settings, ModelSettings), mesh)


@functools.lru_cache(maxsize=1)
def _task(settings: ModelSettings, mesh: Any) -> Task:
    """Reads them; a sweep of 27 runs once read the model 54 times."""
    splits = question_splits.read_splits(settings.problem, settings.files.data_dir)
    model = base.load(settings.problem, mesh, gradient_checkpointing=settings.devices.gradient_checkpointing)
    task = Task(settings.problem, splits, model, settings.evaluation, settings.out)
    task.check()
    return task


def _rows(numbers: dict[str, jax.Array], real: int) -> np.ndarray:
    """Numbers by name as a structured array with a row per question."""
    rows = np.empty(real, [(name, np.float32) for name in numbers])
    for name, values in numbers.items():
        rows[name] = np.asarray(values)[:real]
    return rows


def _until(end: int, tokens: np.ndarray) -> np.ndarray:
    """The tokens before the one that ends."""
    ends = np.flatnonzero(tokens == end)
    return tokens[: ends[0]] if ends.size else tokens
