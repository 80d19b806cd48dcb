"""What devices send each other in one step, read from the compiled program, and what a formula makes of it on 4,096 devices.

    python -m experiments.cost communication [--out DIR]

Compiles one HAMU step of a small convolutional network for several meshes of eight virtual devices, lists every collective
operation with its bytes, and compares their sum with the formula by which the projection is made. Nothing is run.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import hamu_jax
from experiments.cost.config import Communication
from experiments.runs.devices import request_virtual_devices
from experiments.runs.provenance import settings_record, write_results
from experiments.runs.unlearning import step_of
from hamu_jax import report, sharding

MESHES = ("data=8", "data=4,objective=2", "data=2,fsdp=4", "fsdp=8", "data=2,objective=2,fsdp=2")
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
SMALL = 64  # numbers: more than a few a block, less than any kernel
_OPERATION = re.compile(rf"= (?P<shape>\(.*?\)|\S+) (?P<kind>{'|'.join(KINDS)})(?:-start)?\((?P<rest>.*)$", re.MULTILINE)
_ARRAY = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<dims>[\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(?P<size>\d+)\]|\{\{(?P<first>[\d,]*)\})")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation of a compiled program.

    Attributes:
      kind: as XLA names it.
      elements: of its result on one device.
      size: bytes of its result on one device.
      group: how many devices take part together.
    """

    kind: str
    elements: int
    size: int
    group: int

    def sent(self) -> float:
        """Bytes that each device sends if the operation runs around a ring, the usual algorithm for large arrays."""
        if self.kind == "collective-permute":
            return float(self.size)
        share = (self.group - 1) / self.group
        return self.size * {"all-reduce": 2 * share, "reduce-scatter": self.group - 1.0}.get(self.kind, share)


def collectives(program: str) -> list[Collective]:
    """The collective operations in the text of a compiled program (`jitted.lower(...).compile().as_text()`)."""
    operations = []
    for match in _OPERATION.finditer(program):
        arrays = [(m["dtype"], [int(d) for d in m["dims"].split(",") if d]) for m in _ARRAY.finditer(match["shape"])]
        elements = sum(math.prod(dims) for _, dims in arrays)
        size = sum(math.prod(dims) * _width(dtype) for dtype, dims in arrays)
        operations.append(Collective(match["kind"], elements, size, _group(match["rest"])))
    return operations


def _width(dtype: str) -> float:
    """Bytes of one number."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else 1  # pred


def _group(rest: str) -> int:
    """How many devices one group has."""
    match = _GROUPS.search(rest)
    if match is None:
        return jax.device_count()
    return int(match["size"]) if match["size"] else len(match["first"].split(","))


def compiled_step(loss: Any, params: Any, batches: Sequence[Any], optimizer: Any, mesh: Mesh) -> str:
    """The program of one step on a mesh: both gradients, the update, the new parameters."""
    shardings = sharding.param_shardings(params, mesh)
    paired = sharding.paired_value_and_grad(loss, mesh, shardings)

    def step(params: Any, state: Any, retain: sharding.Padded, forget: sharding.Padded) -> Any:
        weights = {"retain_weights": retain.weights, "forget_weights": forget.weights}
        gradients = functools.partial(paired, **weights)
        return step_of(gradients, optimizer)(params, state, retain.batch, forget.batch)[:2]

    placed = jax.device_put(params, shardings)
    jitted = jax.jit(step, out_shardings=(shardings, None))
    arguments = (placed, optimizer.init(placed), *(sharding.shard_batch(batch, mesh) for batch in batches))
    return jitted.lower(*arguments).compile().as_text()


def plain(learning_rate: float) -> optax.GradientTransformationExtraArgs:
    """A step with both gradients that knows no hardness: what data-parallel training with two losses sends."""

    def update(updates: Any, state: Any, params: Any = None, *, forget_grads: Any, **_: Any) -> Any:
        del params
        return jax.tree.map(lambda r, f: -learning_rate * (r - f), updates, forget_grads), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def predicted(size: float, *, data: int, objective: int, fsdp: int, gathers: int = 1) -> tuple[float, float]:
    """Bytes that a device sends a step, by formula: among its `fsdp` neighbours, and to all others. `size`: of parameters.

    Both gradients are summed and scattered among neighbours, and what each keeps is summed over the others, all around rings;
    parameters are gathered among neighbours `gathers` times (once if they are kept from the forward to the backward pass).
    """
    others, apart = data * objective, (fsdp - 1) / fsdp
    return (2 + gathers) * apart * size, 2 * 2 * (others - 1) / others * size / fsdp


def network(width: int) -> tuple[Any, dict[str, np.ndarray]]:
    """The loss and the parameters of a small residual network on 8 x 8 images."""
    rng = np.random.default_rng(0)
    shapes = {"stem": (3, 3, 3, width), "one": (3, 3, width, width), "two": (3, 3, width, width), "head": (width, 10)}
    params = {name: (0.1 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}

    def logits(params: Any, batch: Any) -> jax.Array:
        def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

        x = jax.nn.relu(convolve(batch["image"], params["stem"]))
        for name in ("one", "two"):
            x = jax.nn.relu(x + convolve(x, params[name]))
        return jnp.mean(x, axis=(1, 2)) @ params["head"]

    return hamu_jax.objectives.cross_entropy(logits), params


def images(count: int) -> dict[str, np.ndarray]:
    """Random images and labels."""
    rng = np.random.default_rng(1)
    return {
        "image": rng.normal(size=(count, 8, 8, 3)).astype(np.float32),
        "label": rng.integers(0, 10, count).astype(np.int32),
    }


def on_virtual_devices(settings: Communication) -> Path:
    """Measures it on eight virtual devices; returns the path of the text."""
    request_virtual_devices(8)
    return measure_communication(settings)


def measure_communication(settings: Communication) -> Path:
    """Runs it; returns the path of the text."""
    loss, params = network(settings.width)
    size = sum(x.nbytes for x in params.values())
    batches, rows = (images(32), images(32)), []
    for text in MESHES:
        mesh = sharding.parse_mesh(text)
        formula = sum(predicted(size, **{str(axis): n for axis, n in mesh.shape.items()}))
        for name, optimizer in (("two losses, no hardness", plain(0.1)), ("HAMU", hamu_jax.hamu(0.1, 0.3))):
            summary = _summary(collectives(compiled_step(loss, params, batches, optimizer, mesh)))
            rows.append({"mesh": text, "step": name, **summary, "predicted": formula})
    header = ("mesh", "step", "operations", "bytes sent per device", "of which scalars", "by formula")
    cells = [
        [row["mesh"], row["step"], row["operations"], *(f"{row[name]:,.0f}" for name in ("sent", "scalars", "predicted"))]
        for row in rows
    ]
    sections = [
        "# What eight devices send in one step, from compiled programs",
        report.table(header, cells),
        "# The formula, on 4,096 devices: not measured",
        _projection(),
    ]
    record = {**settings_record("cost", settings), "parameter_bytes": size}
    return write_results(settings.out, "communication", record, {"rows": rows}, sections=sections)


def _summary(operations: list[Collective]) -> dict[str, Any]:
    """The operations by kind, their bytes, and those of small arrays."""
    counts = {kind: sum(c.kind == kind for c in operations) for kind in KINDS}
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    scalars = sum(c.sent() for c in operations if c.elements <= SMALL)
    return {"operations": kinds, "sent": sum(c.sent() for c in operations), "scalars": scalars}


def _projection() -> str:
    """The formula at 4,096 devices."""
    models = {"ResNet-20, float32": (272_474, 4), "7B, bfloat16": (6.74e9, 2)}
    meshes = ({"data": 4096, "objective": 1, "fsdp": 1}, {"data": 2048, "objective": 2, "fsdp": 1})
    meshes += ({"data": 512, "objective": 1, "fsdp": 8}, {"data": 64, "objective": 1, "fsdp": 64})
    header = ("model", "data", "objective", "fsdp", "GB per step to neighbours", "to all others", "GB in memory per device")
    rows = []
    for name, (count, width) in models.items():
        for mesh in meshes:
            size = count * width
            # Gathered twice: a model that is split because it does not fit is gathered again for the backward pass.
            near, far = predicted(size, **mesh, gathers=2)
            resident = 4 * size / mesh["fsdp"]  # parameters, both gradients, update
            rows.append([name, *mesh.values(), *(f"{x / 1e9:.3g}" for x in (near, far, resident))])
    return report.table(header, rows)
