"""The model that adapters belong to: its weights, which nobody trains, and its tokenizer."""

import dataclasses
from typing import Any

import jax
import tokenizers
from tokenizers import decoders, pre_tokenizers, trainers

from experiments.data import fictional
from experiments.data import tokenizer as own
from experiments.language import get_smollm2
from experiments.language.config import Problem
from experiments.models import checkpoints, hf_format, llama, lora
from experiments.models.frozen import Frozen
from experiments.models.llama_config import LlamaConfig

TINY = "tiny"
WORDS = 512  # in the tiny model's vocabulary
END = "<|end|>"


@dataclasses.dataclass(frozen=True)
class Base:
    """A model.

    Attributes:
      network: what it computes, with the adapter's settings.
      weights: its own.
      tokenizer: text to tokens and back.
    """

    network: llama.Network
    weights: Frozen
    tokenizer: own.Tokenizer

    def adapter(self, seed: int) -> lora.Adapter:
        """A new adapter, which changes nothing yet."""
        assert self.network.lora is not None  # as `load` has it
        return lora.init(self.network.lora, llama.abstract(self.network.config), jax.random.key(seed))


def name(config: Problem) -> str:
    """The model's name or path, as it was given or by default."""
    return str(get_smollm2.DIRECTORY) if config.model is None else config.model


def load(config: Problem, mesh: Any = None, *, gradient_checkpointing: bool = False) -> Base:
    """The model of these settings, on a mesh whole on each device.

    Raises:
      FileNotFoundError: without a model, naming the command that gets one; see also `checkpoints.resolve`.
    """
    if config.model is None and not (get_smollm2.DIRECTORY / "model.safetensors").exists():
        raise FileNotFoundError(
            f"model: {get_smollm2.DIRECTORY} is not there; python -m experiments.language get-smollm2 makes it; "
            "--model takes another"
        )
    if config.model == TINY:
        tokenizer = tiny_tokenizer(config.system_prompt, config.date_string)
        sizes = tiny_config(tokenizer)
        weights = llama.init(sizes, jax.random.key(0), deviation=0.2)
    else:
        directory = checkpoints.resolve(name(config))
        tokenizer = own.load(directory, system_prompt=config.system_prompt, date_string=config.date_string)
        sizes, weights = hf_format.load(directory, dtype=config.dtype)
        tokenizer = fitting(tokenizer, sizes.vocabulary)
    settings = lora.LoraConfig(config.training.rank, config.training.alpha, config.training.dropout)
    network = llama.Network(sizes, settings, dtype=config.dtype, checkpoint=gradient_checkpointing)
    return Base(network, Frozen(weights, mesh=mesh), tokenizer)


def fitting(tokenizer: own.Tokenizer, vocabulary: int) -> own.Tokenizer:
    """The tokenizer with a padding token that the model has an embedding of; which one it is makes no difference.

    Raises:
      ValueError: if the model has no embedding of the token that ends an answer.
    """
    if tokenizer.end >= vocabulary:
        raise ValueError(
            f"model: got {tokenizer.end} as the token that ends answers, expected one below vocab_size, {vocabulary}"
        )
    return tokenizer if tokenizer.pad < vocabulary else dataclasses.replace(tokenizer, pad=tokenizer.end)


def tiny_config(tokenizer: own.Tokenizer) -> LlamaConfig:
    """The sizes of the tiny model."""
    words = tokenizer.encoder.get_vocab_size()
    return LlamaConfig(vocabulary=words, width=32, hidden=64, layers=2, heads=4, kv_heads=2, head_dim=8, tied=True)


def tiny_tokenizer(system_prompt: str | None = None, date_string: str | None = None) -> own.Tokenizer:
    """Byte pairs of the embedded questions."""
    encoder = tokenizers.Tokenizer(tokenizers.models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    encoder.train_from_iterator((f"{question.question}\n {question.answer}" for question in fictional.load()), trainer)
    return own.build(encoder, {"eos_token": END}, system_prompt=system_prompt, date_string=date_string)
