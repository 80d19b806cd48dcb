"""The settings of the experiments on language models. Where the paper's code has one, its default is here."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.runs.devices import OnDevices
from experiments.runs.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Training:
    """How an adapter is fine-tuned.

    Attributes:
      epochs: over its training set.
      batch_size: questions a step.
      learning_rate: of AdamW, constant.
      weight_decay: of AdamW.
      rank: of the adapter, LoRA's r.
      alpha: the adapter's change is scaled by `alpha / rank`.
      dropout: of the adapter's inputs.
      checkpoints: how often training is kept on the way, from where it goes on if it was killed.
      seed: of the adapter's initial weights, the order of questions and dropout.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    checkpoints: int = 10
    seed: int = 42


@dataclasses.dataclass(frozen=True)
class Problem(OnDevices):
    """Which model, which questions, which of them are to be forgotten, and how the model learned them.

    Attributes:
      out: where adapters, runs and reports go.
      model: a directory, a GGUF file, a hub id, or `tiny`, a random model with two layers, to try things out. Default:
        models/smollm2-135m-instruct, which `python -m experiments.get_smollm2` makes.
      dtype: in which the model computes.
      gradient_checkpointing: compute the layers twice, to keep less.
      data: `fictional` (twelve invented persons, always there), `tofu`, `waterdrum`, or files of JSON lines: what to retain,
        what to forget and, if you have it, what was never trained on.
      data_dir: directory of `tofu` or `waterdrum`.
      authors: of `tofu` (the first so many, default 20) or `fictional` (default all that are not `unseen`).
      forgotten: how many of them, the last, are to be forgotten.
      unseen: further authors who are never trained on, for membership inference.
      held_out: the share of each author's questions on which settings are chosen: learned with the others, but neither
        retained nor forgotten by a run.
      hard: duplicates of the forget set that are retained: the paper's hard case.
      max_length: answers are cut off where a sequence would have more tokens. Default: never.
      questions: at most that many of each part are evaluated.
      max_new_tokens: the longest generated answer.
      evaluation_batch: questions evaluated at once.
      buckets: lengths to which sequences are filled up in evaluation; each is compiled.
      training: how adapters are fine-tuned.
    """

    out: Path = Path("language-out")
    model: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    data: tuple[str, ...] = ("fictional",)
    data_dir: Path | None = None
    authors: int | None = None
    forgotten: int = 2
    unseen: int = 2
    held_out: float = 0.2
    hard: Literal["none", "semantic", "exact"] = "none"
    max_length: int | None = None
    questions: int = 100
    max_new_tokens: int = 64
    evaluation_batch: int = 16
    buckets: int = 3
    training: Training = Training()  # frozen


@dataclasses.dataclass(frozen=True)
class Unlearning(RunConfig, Problem):
    """One run of a method. The defaults are those of the paper's scripts.

    Attributes:
      epochs: over the retain set.
      steps: at most. Default: those of `epochs`.
      batch_size: questions from either set.
      microbatch_size: questions differentiated at once.
      evaluations: on held-out questions, on the way.
      groups: requests that the forget set is divided into, for `hamu-projected`, where it is not known whom it is about.
      assessed: retained questions that the report's assessment looks at.
      samples: answers of each kind that the report shows.
    """

    epochs: int = 10
    steps: int | None = None
    batch_size: int = 50
    microbatch_size: int | None = 10
    evaluations: int = 10
    checkpoint_every: int = 20
    assessed: int = 64
    samples: int = 5
