"""The memory that a step of unlearning needs on each device, from the program compiled for the shapes of a model.

    python -m experiments.cost memory [--model llama2-7b] [--devices 1 8] [--batch-size 8] [--length 512]

No weight is made and no step is taken. The program is compiled for virtual CPU devices. Writes memory.json and memory.md;
docs/memory.md says what the numbers leave out.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import hamu_jax
from experiments.cost.communication import plain
from experiments.cost.config import Memory
from experiments.models import llama, lora
from experiments.models.llama_config import LlamaConfig
from experiments.runs.devices import request_virtual_devices
from experiments.runs.provenance import settings_record, write_results
from experiments.runs.unlearning import step_of
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
class Program:
    """One compiled program: see `Memory`; `step` is one of `STEPS`."""

    trained: str
    weights: str
    devices: int
    step: str


def on_virtual_devices(settings: Memory) -> Path:
    """Measures it on virtual CPU devices; returns the path of the text."""
    request_virtual_devices(max(settings.devices))
    jax.config.update("jax_platforms", "cpu")
    return measure_memory(settings)


def measure_memory(settings: Memory) -> Path:
    """Runs it; returns the path of the text."""
    programs = [Program(*chosen) for chosen in itertools.product(settings.trained, settings.weights, settings.devices, STEPS)]
    rows = [measure(settings, program) for program in programs]
    sections = ["# What a step needs of each device", memory_table(rows)]
    return write_results(settings.out, "memory", settings_record("cost", settings), {"rows": rows}, sections=sections)


def measure(settings: Memory, program: Program) -> dict[str, Any]:
    """The numbers of one program: bytes on each device, and operations on all together."""
    sys.stderr.write(f"compiling {program}\n")
    step, arguments = abstract_step(settings, program)
    traced = step.trace(*arguments)
    needed = traced.lower().compile(compiler_options=UNLIKE_OTHERS).memory_analysis()
    sizes = (needed.argument_size_in_bytes, needed.output_size_in_bytes, needed.temp_size_in_bytes)
    return {
        **dataclasses.asdict(program),
        "arguments": needed.argument_size_in_bytes,
        "temporaries": needed.temp_size_in_bytes,
        "all": sum(sizes) - needed.alias_size_in_bytes,
        "matmul_flops": products(traced.jaxpr.jaxpr),
    }


def abstract_step(settings: Memory, program: Program) -> tuple[Any, tuple[Any, ...]]:
    """A jitted step, and what it is called with, shapes alone: parameters, state, frozen weights, retain and forget batch."""
    mesh = sharding.make_mesh(fsdp=program.devices, devices=jax.devices()[: program.devices])
    sizes, adapted = MODELS[settings.model], lora.LoraConfig(settings.rank)
    weights = sharded_shapes(llama.abstract(sizes, jnp.dtype(program.weights)), mesh)
    adapter = sharded_shapes(jax.eval_shape(lambda key: lora.init(adapted, weights, key), jax.random.key(0)), mesh)
    params, frozen = (adapter, weights) if program.trained == "lora" else (weights, None)
    optimizer = optimizers(lora.blocks if program.trained == "lora" else llama.blocks)[program.step]
    shardings = sharding.param_shardings(params, mesh)
    network = llama.Network(sizes, adapted if program.trained == "lora" else None, dtype="bfloat16", checkpoint=True)

    def step(params: Any, state: Any, frozen: Any, retain: Any, forget: Any) -> Any:
        def logits(params: Any, batch: Any) -> jax.Array:
            base, adapter = (params, None) if frozen is None else (frozen, params)
            return llama.forward(network, base, batch["tokens"], batch["mask"], adapter=adapter)

        loss = objectives.causal_cross_entropy(logits)
        paired = sharding.paired_value_and_grad(loss, mesh, shardings)
        return step_of(paired, optimizer)(params, state, retain, forget)

    batches = (batch(settings, mesh),) * 2
    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=(shardings, None, None))
    return jitted, (params, jax.eval_shape(optimizer.init, params), frozen, *batches)


def optimizers(blocks: Any) -> dict[str, Any]:
    """The steps that are compared: ours, and the difference of both gradients, which asks nothing of them."""
    return {"HAMU": hamu_jax.hamu(1e-4, 0.5, blocks=blocks, distribution="relative"), "GDiff": plain(1e-4)}


def sharded_shapes(shapes: Any, mesh: Mesh) -> Any:
    """Shapes with the shardings that `sharding.shard_params` would give them."""
    shardings = sharding.param_shardings(shapes, mesh)
    return jax.tree.map(lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spec), shapes, shardings)


def batch(settings: Memory, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Sequences, split over the devices."""
    split, shape = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), (settings.batch_size, settings.length)
    kinds = {"tokens": jnp.int32, "label": jnp.int32, "mask": jnp.bool_}
    return {name: jax.ShapeDtypeStruct(shape, kind, sharding=split) for name, kind in kinds.items()}


def products(jaxpr: Any) -> float:
    """Floating-point operations in all matrix products, each loop as often as it runs.

    `compiled.cost_analysis()` would count a loop's body once, and the layers are a loop.
    """
    return sum(map(_operations, jaxpr.eqns))


def _operations(equation: Any) -> float:
    """The operations of one equation and of the programs in it."""
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


def memory_table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, in GiB and 10^12 operations."""
    sizes = ("arguments", "temporaries", "all")
    header = ("unlearned", "weights in", "devices", "step", *(f"{name} (GiB)" for name in sizes), "TFLOP")
    cells = [
        [
            *(row[name] for name in ("trained", "weights", "devices", "step")),
            *(f"{row[name] / 2**30:.2f}" for name in sizes),
            f"{row['matmul_flops'] / 1e12:.1f}",
        ]
        for row in rows
    ]
    return report.table(header, cells)
