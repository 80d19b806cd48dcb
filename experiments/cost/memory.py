"""What a step of unlearning needs of each device, from the compiled program of a model that is not there: shapes alone.

    python -m experiments.memory [--model llama2-7b] [--devices 1 8] [--batch-size 8] [--length 512]

No weight is made and no step is taken. The program is compiled for virtual CPU devices. Writes memory.json and memory.md;
docs/memory.md says what the numbers leave out.
"""

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import hamu_jax
from experiments.cost.communication import plain
from experiments.models import llama, lora
from experiments.models.llama_config import LlamaConfig
from experiments.runs.provenance import settings
from hamu_jax import objectives, report, sharding

MODELS = {
    "llama2-7b": LlamaConfig(
        vocabulary=32000, width=4096, hidden=11008, layers=32, heads=32, kv_heads=32, head_dim=128, positions=4096
    ),
    "tiny": LlamaConfig(vocabulary=64, width=16, hidden=32, layers=2, heads=2, kv_heads=2, head_dim=8),
}
# A CPU multiplies no bfloat16: its compiler turns both factors into float32, and this pass moves that out of the loop over
# layers, so that a second copy of all weights is held at once. Devices that multiply bfloat16 have no such copies.
UNLIKE_OTHERS = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
STEPS = ("HAMU", "GDiff")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings.

    Attributes:
      out: where the results go.
      model: whose sizes.
      trained: what is unlearned: an adapter beside frozen weights, or all weights.
      weights: in which dtype the model's weights are held. It computes in bfloat16; an adapter is held in float32.
      devices: among how many the weights are split, and the batches (`fsdp`).
      batch_size: sequences from either set, on all devices together.
      length: tokens of each.
      rank: of the adapter.
    """

    out: Path = Path("memory-out")
    model: Literal["llama2-7b", "tiny"] = "llama2-7b"
    trained: tuple[Literal["lora", "full"], ...] = ("lora", "full")
    weights: tuple[Literal["bfloat16", "float32"], ...] = ("bfloat16", "float32")
    devices: tuple[int, ...] = (1, 8)
    batch_size: int = 8
    length: int = 512
    rank: int = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """One program: see `Config`; `step` is one of `STEPS`."""

    trained: str
    weights: str
    devices: int
    step: str


def main(config: Config) -> Path:
    """Runs it; returns the path of the text."""
    cases = [Case(*chosen) for chosen in itertools.product(config.trained, config.weights, config.devices, STEPS)]
    rows = [measure(config, case) for case in cases]
    made = {**settings("memory", config), **report.environment()}
    report.write_whole(config.out / "memory.json", json.dumps({"made": made, "rows": rows}, indent=1) + "\n")
    lines = "\n".join(f"- {key}: `{value}`" for key, value in made.items())
    text = "\n\n".join(["# What a step needs of each device", table(rows), "## How it was made", lines + "\n"])
    report.write_whole(config.out / "memory.md", text)
    return config.out / "memory.md"


def measure(config: Config, case: Case) -> dict[str, Any]:
    """The numbers of one program: bytes on each device, and operations on all together."""
    sys.stderr.write(f"compiling {case}\n")
    step, arguments = build(config, case)
    traced = step.trace(*arguments)
    found = traced.lower().compile(compiler_options=UNLIKE_OTHERS).memory_analysis()
    return {
        **dataclasses.asdict(case),
        "arguments": found.argument_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
        "all": found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes,
        "matmul_flops": products(traced.jaxpr.jaxpr),
    }


def build(config: Config, case: Case) -> tuple[Any, tuple[Any, ...]]:
    """A jitted step, and what it is called with, shapes alone: parameters, state, frozen weights, retain and forget batch."""
    mesh = sharding.make_mesh(fsdp=case.devices, devices=jax.devices()[: case.devices])
    sizes, adapted = MODELS[config.model], lora.LoraConfig(config.rank)
    weights = placed(llama.abstract(sizes, jnp.dtype(case.weights)), mesh)
    adapter = placed(jax.eval_shape(lambda key: lora.init(adapted, weights, key), jax.random.key(0)), mesh)
    params, frozen = (adapter, weights) if case.trained == "lora" else (weights, None)
    optimizer = optimizers(lora.blocks if case.trained == "lora" else llama.blocks)[case.step]
    shardings = sharding.param_shardings(params, mesh)
    network = llama.Network(sizes, adapted if case.trained == "lora" else None, dtype="bfloat16", checkpoint=True)

    def step(params: Any, state: Any, frozen: Any, retain: Any, forget: Any) -> Any:
        def logits(params: Any, batch: Any) -> jax.Array:
            own, adapter = (params, None) if frozen is None else (frozen, params)
            return llama.forward(network, own, batch["tokens"], batch["mask"], adapter=adapter)

        loss = objectives.causal_cross_entropy(logits)
        paired = sharding.paired_value_and_grad(loss, mesh, shardings)
        losses, grads = paired(params, retain, forget)
        updates, state = optimizer.update(grads.retain, state, params, forget_grads=grads.forget)
        return optax.apply_updates(params, updates), state, losses

    batches = (batch(config, mesh),) * 2
    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=(shardings, None, None))
    return jitted, (params, jax.eval_shape(optimizer.init, params), frozen, *batches)


def optimizers(blocks: Any) -> dict[str, Any]:
    """The steps that are compared: ours, and the difference of both gradients, which asks nothing of them."""
    return {"HAMU": hamu_jax.hamu(1e-4, 0.5, blocks=blocks, distribution="relative"), "GDiff": plain(1e-4)}


def placed(shapes: Any, mesh: Mesh) -> Any:
    """Shapes with the places that `sharding.shard_params` would give them."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, sharding.param_shardings(shapes, mesh)
    )


def batch(config: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Sequences, split over the devices."""
    place, shape = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), (config.batch_size, config.length)
    kinds = {"tokens": jnp.int32, "label": jnp.int32, "mask": jnp.bool_}
    return {name: jax.ShapeDtypeStruct(shape, kind, sharding=place) for name, kind in kinds.items()}


def products(jaxpr: Any) -> float:
    """Floating-point operations in all matrix products, each loop as often as it runs.

    `compiled.cost_analysis()` would count a loop's body once, and the layers are a loop.
    """
    return sum(map(_own, jaxpr.eqns))


def _own(equation: Any) -> float:
    """Those of one equation and of what is in it."""
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    return equation.params.get("length", 1) * sum(map(products, _within(equation)))


def _within(equation: Any) -> Iterator[Any]:
    """The programs that an equation holds."""
    for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(value, "eqns"):
            yield value


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, in GiB and 10^12 operations."""
    sizes = ("arguments", "temporaries", "all")
    columns = ("unlearned", "weights in", "devices", "step", *(f"{name} (GiB)" for name in sizes), "TFLOP")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        held = " | ".join(f"{row[name] / 2**30:.2f}" for name in sizes)
        what = " | ".join(str(row[name]) for name in ("trained", "weights", "devices", "step"))
        lines.append(f"| {what} | {held} | {row['matmul_flops'] / 1e12:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    chosen = tyro.cli(Config)
    jax.config.update("jax_num_cpu_devices", max(chosen.devices))
    jax.config.update("jax_platforms", "cpu")
    written = main(chosen)
    sys.stdout.write(written.read_text(encoding="utf-8") + f"\nThe results are in {written.parent}/\n")
