"""The models that are benchmarked against PyTorch: the same model with the same weights and batches on either side."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import load_file

import hamu_jax
from experiments.cost.pytorch_process import Reference
from experiments.models import hf_format, llama, lora, peft_format
from experiments.models.frozen import Frozen
from experiments.models.llama_config import LlamaConfig
from experiments.models.resnet import ResNet, load_torch
from hamu_jax import objectives, rules

# The paper's settings but for the learning rate, which is so small that no repetition meets other numbers than the first.
SETTINGS = {"learning_rate": 1e-6, "improvement": 0.5, "clip_norm": 1.0}
SMOLLM2 = LlamaConfig(
    vocabulary=49152, width=576, hidden=1536, layers=30, heads=9, kv_heads=3, head_dim=64, rope_theta=1e5, tied=True
)
TINY = LlamaConfig(vocabulary=64, width=16, hidden=32, layers=2, heads=2, kv_heads=1, head_dim=8, tied=True)


@dataclasses.dataclass(frozen=True)
class BenchmarkedModel:
    """A model and its batches, or gradients alone.

    Attributes:
      title: for tables.
      params: what is unlearned.
      blocks: `blocks=` of the transform, so that every tensor that PyTorch knows is a block.
      grads: the retain and the forget gradient, for the update alone.
      loss: `loss(params, batch) -> [batch]`; None where there are gradients only.
      batches: the retain and the forget batch.
    """

    title: str
    params: Any
    blocks: Any
    grads: tuple[Any, Any]
    loss: Callable[[Any, Any], Any] | None = None
    batches: tuple[Any, Any] = ()

    def optimizer(self, rule: rules.Rule | None = None) -> optax.GradientTransformationExtraArgs:
        """HAMU-Q with the settings of the paper's scripts, or another rule in its place."""
        improvement = {} if rule else {"improvement": SETTINGS["improvement"]}
        clip_norm = SETTINGS["clip_norm"]
        combined = hamu_jax.combine(rule or rules.hamu_q("ascend"), blocks=self.blocks, clip_norm=clip_norm, **improvement)
        return optax.chain(combined, optax.sgd(SETTINGS["learning_rate"]))


def resnet20(reference: Reference | None, *, images: int, small: bool = False) -> BenchmarkedModel:
    """The paper's ResNet-20, its batch statistics frozen, and two batches of random images; `small`: one block a stage."""
    rng = np.random.default_rng(0)
    written = [
        {"pixel_values": rng.normal(size=(images, 32, 32, 3)).astype(np.float32), "labels": rng.integers(0, 10, images)}
        for _ in range(2)
    ]
    model = ResNet(10, blocks=1 if small else 3, rngs=nnx.Rngs(0))
    with tempfile.TemporaryDirectory() as directory:
        _write(Path(directory), written)
        if reference is not None:
            reference.ask("prepare", name="resnet20", directory=directory, settings=SETTINGS)
            load_torch(model, load_file(Path(directory) / "weights.safetensors"))
    graph, params, statistics = nnx.split(model, nnx.Param, ...)
    loss = objectives.cross_entropy(lambda p, batch: nnx.merge(graph, p, statistics)(batch["image"]))
    batches = [{"image": jnp.asarray(x["pixel_values"]), "label": jnp.asarray(x["labels"], jnp.int32)} for x in written]
    return _of_loss("ResNet-8" if small else "ResNet-20", params, "leaf", loss, batches)


def language_model(reference: Reference | None, *, config: LlamaConfig, sequences: tuple[int, int]) -> BenchmarkedModel:
    """A Llama with adapters on all its linear maps, and random tokens: `sequences` says how many, and how long."""
    adapted = lora.LoraConfig(dropout=0.0)
    # Few parameters of the usual size would have gradients below 1e-6, which the paper's code takes for zero.
    weights = llama.init(config, jax.random.key(0), deviation=0.2 if config is TINY else 0.02)
    adapter = lora.init(adapted, weights, jax.random.key(1))
    for number, matrices in enumerate(adapter.values()):  # as after some training: with B = 0 the gradient of A is 0
        matrices["b"] = 0.01 * jax.random.normal(jax.random.key(2 + number), matrices["b"].shape)
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, config.vocabulary, sequences) for _ in range(2)]
    if reference is not None:
        with tempfile.TemporaryDirectory() as directory:
            hf_format.save(Path(directory) / "model", config, weights)
            peft_format.save(Path(directory) / "adapter", adapted, adapter)
            _write(Path(directory), [{"input_ids": x, "labels": x} for x in tokens])
            reference.ask("prepare", name="lora", directory=directory, settings=SETTINGS)
    network, base = llama.Network(config, adapted), Frozen(weights)
    apply = objectives.causal_cross_entropy(lambda p, batch: llama.forward(network, base(), batch["tokens"], adapter=p))
    batches = [
        {"tokens": jnp.asarray(x, jnp.int32), "label": jnp.asarray(np.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=-1))}
        for x in tokens
    ]
    return _of_loss(f"LoRA of a Llama with {_millions(weights)} parameters", adapter, lora.blocks, apply, batches)


def dense(reference: Reference | None, *, config: LlamaConfig) -> BenchmarkedModel:
    """All weights of a Llama, and random gradients that have something in common."""
    shapes = llama.abstract(config)
    common, *separate = (llama.init(config, jax.random.key(number), deviation=1.0) for number in range(3))
    grads = [jax.tree.map(lambda x, y: 1e-4 * (x + y), common, other) for other in separate]
    del common, separate
    if reference is not None:
        with tempfile.TemporaryDirectory() as directory:
            for part, grad in zip(("retain", "forget"), grads, strict=True):
                hf_format.write_tensors(Path(directory) / f"{part}.safetensors", hf_format.scatter(config, grad))
            reference.ask("prepare", name="dense", directory=directory, settings=SETTINGS)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return BenchmarkedModel(f"{_millions(shapes)} dense parameters", params, llama.blocks, tuple(grads))


def _of_loss(title: str, params: Any, blocks: Any, loss: Any, batches: list[Any]) -> BenchmarkedModel:
    """The model of a loss, with both gradients at its batches."""
    grads = jax.jit(lambda p, retain, forget: hamu_jax.paired_value_and_grad(loss)(p, retain, forget)[1])(params, *batches)
    return BenchmarkedModel(title, params, blocks, tuple(grads), loss, tuple(batches))


def _write(directory: Path, batches: list[dict[str, np.ndarray]]) -> None:
    """Both batches, for PyTorch."""
    for part, batch in zip(("retain", "forget"), batches, strict=True):
        np.savez(directory / f"{part}.npz", **batch)


def _millions(weights: Any) -> str:
    """The number of parameters, in words."""
    count = sum(leaf.size for leaf in jax.tree.leaves(weights))
    return f"{count / 1e6:.0f}M" if count >= 1e6 else str(count)  # noqa: PLR2004
