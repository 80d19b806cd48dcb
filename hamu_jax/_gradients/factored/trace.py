"""Which equations of a loss read which parameter: a walk through its jaxpr, and through the jaxprs inside."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from hamu_jax._gradients.factored.layout import Layout, carried, whole
from hamu_jax._gradients.factored.uses import LookUp, Path, Use, use_of

CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")
_IGNORED = ("stop_gradient",)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is known of a value.

    Attributes:
      layout: what it shows of a parameter; None if it is no parameter.
      varies: whether it depends on the example.
    """

    layout: Layout | None = None
    varies: bool = False


@dataclasses.dataclass
class Reading:
    """Who reads the parameters.

    Attributes:
      uses: by parameter; what its gradient is made of, unless it is in `others`.
      others: by parameter, the first equation of another kind that reads it.
    """

    uses: dict[int, list[Use]] = dataclasses.field(default_factory=dict)
    others: dict[int, str] = dataclasses.field(default_factory=dict)


def read(jaxpr: Jaxpr, shapes: Sequence[Sequence[int]]) -> Reading:
    """Walks through the jaxpr of one example's loss, whose first arguments are the parameters, then the example's arrays."""
    reading, number = Reading(), len(shapes)
    arguments = [Seen(whole(leaf, shape)) for leaf, shape in enumerate(shapes)]
    arguments += [Seen(varies=True)] * (len(jaxpr.invars) - number)
    results = _walk(jaxpr, arguments, (), reading)
    _give_up(reading, results, "return")
    return reading


def _walk(jaxpr: Jaxpr, arguments: Sequence[Seen], path: Path, reading: Reading) -> list[Seen]:
    """What the results of a jaxpr are, given its arguments."""
    seen: dict[Any, Seen] = dict(zip(jaxpr.invars, arguments, strict=True))

    def of(atom: Any) -> Seen:
        return Seen() if isinstance(atom, Literal) else seen.get(atom, Seen())

    for number, eqn in enumerate(jaxpr.eqns):
        operands = [of(atom) for atom in eqn.invars]
        if any(operand.layout is not None for operand in operands):
            results = _read(eqn, operands, (*path, number), reading)
        else:
            results = _plain(eqn, operands)
        seen.update(zip(eqn.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _plain(eqn: JaxprEqn, operands: Sequence[Seen]) -> list[Seen]:
    """The results of an equation that shows nothing of a parameter."""
    return [Seen(varies=any(operand.varies for operand in operands))] * len(eqn.outvars)


def _read(eqn: JaxprEqn, operands: Sequence[Seen], path: Path, reading: Reading) -> list[Seen]:
    """The results of an equation that reads parameters."""
    name = eqn.primitive.name
    if name in _IGNORED or not any(jnp.issubdtype(x.aval.dtype, jnp.inexact) for x in eqn.outvars):  # pyright: ignore[reportAttributeAccessIssue]
        return _plain(eqn, operands)
    if name in CALLS:
        return _walk(inner_jaxpr(eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]), operands, path, reading)
    if name == "scan":
        return _scan(eqn, operands, path, reading)
    if name == "cond":
        return _cond(eqn, operands, path, reading)
    if len(operands) == 1 and operands[0].layout is not None:
        layout = carried(operands[0].layout, eqn)
        if layout is not None:
            return [Seen(layout)]
    for number, operand in enumerate(operands):
        if operand.layout is None:
            continue
        use = use_of(eqn, number, operand.layout, path)
        # An operand that is the same for every example makes no smaller factor than the gradient itself.
        if use is None or not (isinstance(use, LookUp) or operands[use.read].varies):
            _give_up(reading, [operand], name)
        else:
            reading.uses.setdefault(operand.layout.leaf, []).append(use)
    return _plain(eqn, operands)


def _scan(eqn: JaxprEqn, operands: Sequence[Seen], path: Path, reading: Reading) -> list[Seen]:
    """A loop: parameters that every iteration sees, and those that it takes a slice of; not those that it carries."""
    constants, carries = scan_sizes(eqn)
    _give_up(reading, operands[constants : constants + carries], "scan (carried)")
    varies = any(operand.varies for operand in operands)
    inside: list[Seen] = []
    for number, operand in enumerate(operands):
        if constants <= number < constants + carries:
            inside.append(Seen(varies=varies))
        elif operand.layout is None:
            inside.append(operand)
        elif number < constants:
            inside.append(Seen(operand.layout.constant_in_scan()))
        else:
            layout = operand.layout.mapped_by_scan()
            if layout is None:
                _give_up(reading, [operand], "scan")
            inside.append(Seen(layout))
    results = _walk(inner_jaxpr(eqn.params["jaxpr"]), inside, path, reading)
    _give_up(reading, results, "scan (returned)")
    return _plain(eqn, [Seen(varies=varies)])


def _cond(eqn: JaxprEqn, operands: Sequence[Seen], path: Path, reading: Reading) -> list[Seen]:
    """A choice: every branch reads the parameters in its own way."""
    _give_up(reading, operands[:1], "cond")
    varies = operands[0].varies
    for number, branch in enumerate(eqn.params["branches"]):
        results = _walk(inner_jaxpr(branch), operands[1:], (*path, number), reading)
        _give_up(reading, results, "cond (returned)")
        varies |= any(result.varies for result in results)
    return _plain(eqn, [Seen(varies=varies)])


def scan_sizes(eqn: JaxprEqn) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many are carried; the others are scanned over."""
    if "ft_in" in eqn.params:  # since jax 0.12
        constants, carries, _ = eqn.params["ft_in"].unpack()
        return len(constants), len(carries)
    return eqn.params["num_consts"], eqn.params["num_carry"]


def inner_jaxpr(jaxpr: Any) -> Jaxpr:
    """The jaxpr of an equation's parameter, closed or not."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _give_up(reading: Reading, values: Sequence[Seen], name: str) -> None:
    """Notes that parameters are read in a way that has no factors."""
    for value in values:
        if value.layout is not None:
            reading.others.setdefault(value.layout.leaf, name)
