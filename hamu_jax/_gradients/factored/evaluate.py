"""Evaluates a loss with something added to the results of chosen equations, and returns what these equations read.

The derivative with respect to what is added is the cotangent of the result. It needs no gradient of any weight.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from hamu_jax._gradients.factored.trace import CALLS, inner_jaxpr, scan_sizes
from hamu_jax._gradients.factored.uses import Path

# What is wanted of the equations of a jaxpr, by number: of a plain equation the operands to be returned, of an equation with
# jaxprs inside the same for these (by branch for a `cond`).
Wanted: TypeAlias = dict[int, Any]
Added: TypeAlias = dict[int, Any]  # arrays, nested likewise
Operands: TypeAlias = dict[int, Any]  # by equation and operand, nested likewise


def wanted(paths: Sequence[tuple[Path, int]]) -> Wanted:
    """The tree of equations from paths to them, each with an operand that is to be returned."""
    tree: Wanted = {}
    for path, operand in paths:
        node = tree
        for number in path:
            node = node.setdefault(number, {})
        node[operand] = None
    return tree


def at(tree: Mapping[int, Any], path: Path) -> Any:
    """What a nested dictionary has at a path."""
    for number in path:
        tree = tree[number]
    return tree


def zeros(jaxpr: Jaxpr, tree: Wanted) -> Added:
    """Zeros to be added to the results of the equations."""
    added: Added = {}
    for number, inside in tree.items():
        eqn = jaxpr.eqns[number]
        name = eqn.primitive.name
        if name == "cond":
            branches = eqn.params["branches"]
            added[number] = {i: zeros(inner_jaxpr(branches[i]), below) for i, below in inside.items()}
        elif name == "scan":
            length = eqn.params["length"]
            below = zeros(inner_jaxpr(eqn.params["jaxpr"]), inside)
            added[number] = jax.tree.map(lambda x, length=length: jnp.broadcast_to(x, (length, *x.shape)), below)
        elif name in CALLS:
            added[number] = zeros(inner_jaxpr(_called(eqn)), inside)
        else:
            aval: Any = eqn.outvars[0].aval
            added[number] = jnp.zeros(aval.shape, aval.dtype)
    return added


def evaluate(
    jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any], tree: Wanted, added: Added
) -> tuple[list[Any], Operands]:
    """The results of a jaxpr with `added` in it, and the operands that are wanted."""
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))
    operands: Operands = {}
    for number, eqn in enumerate(jaxpr.eqns):
        inputs = [x.val if isinstance(x, Literal) else values[x] for x in eqn.invars]
        with eqn.ctx.manager:
            if number not in tree:
                outputs = _bind(eqn, inputs)
            elif (inside := _INSIDE.get(eqn.primitive.name)) is not None:
                outputs, operands[number] = inside(eqn, inputs, tree[number], added[number])
            else:
                (output,) = _bind(eqn, inputs)
                outputs, operands[number] = [output + added[number]], {i: inputs[i] for i in tree[number]}
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [x.val if isinstance(x, Literal) else values[x] for x in jaxpr.outvars], operands


def _bind(eqn: JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    """An equation as it is, with its own rule of differentiation if it has one."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # a pair before jax 0.10
    outputs = eqn.primitive.bind(*functions, *inputs, **params)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _called(eqn: JaxprEqn) -> Any:
    """The jaxpr that a call calls."""
    return eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]


def _closed(jaxpr: Any) -> ClosedJaxpr:
    """A jaxpr with its constants."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def _call(eqn: JaxprEqn, inputs: Sequence[Any], tree: Wanted, added: Added) -> tuple[list[Any], Operands]:
    """A call, in place; what a checkpoint computes again it still computes again."""
    closed = _closed(_called(eqn))

    def inside(added: Added, *inputs: Any) -> tuple[list[Any], Operands]:
        return evaluate(closed.jaxpr, closed.consts, inputs, tree, added)

    if "prevent_cse" in eqn.params:
        inside = jax.checkpoint(inside, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])
    return inside(added, *inputs)


def _scan(eqn: JaxprEqn, inputs: Sequence[Any], tree: Wanted, added: Added) -> tuple[list[Any], Operands]:
    """A loop that is also given what is added in each iteration, and returns every iteration's operands."""
    closed, params = _closed(eqn.params["jaxpr"]), eqn.params
    first, carries = scan_sizes(eqn)
    constants, carry = inputs[:first], list(inputs[first : first + carries])
    mapped = list(inputs[first + carries :])

    def body(carry: list[Any], slices: tuple[list[Any], Added]) -> tuple[list[Any], tuple[list[Any], Operands]]:
        mapped, added = slices
        outputs, operands = evaluate(closed.jaxpr, closed.consts, [*constants, *carry, *mapped], tree, added)
        return outputs[:carries], (outputs[carries:], operands)

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, (stacked, operands) = jax.lax.scan(body, carry, (mapped, added), **options)
    return [*carry, *stacked], operands


def _cond(eqn: JaxprEqn, inputs: Sequence[Any], tree: Wanted, added: Added) -> tuple[list[Any], Operands]:
    """A choice; the operands of a branch that is not taken are 0, as their cotangents are."""
    index, *arguments = inputs
    branches = [_closed(branch) for branch in eqn.params["branches"]]

    def run(i: int, added: Added, arguments: list[Any]) -> tuple[list[Any], Operands]:
        return evaluate(branches[i].jaxpr, branches[i].consts, arguments, tree.get(i, {}), added.get(i, {}))

    shapes = {i: jax.eval_shape(lambda a, x, i=i: run(i, a, x)[1], added, arguments) for i in tree}

    def branch(i: int) -> Any:
        def taken(added: Added, arguments: list[Any]) -> tuple[list[Any], Operands]:
            outputs, operands = run(i, added, arguments)
            absent = {j: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[j]) for j in tree if j != i}
            return outputs, absent | ({i: operands} if i in tree else {})

        return taken

    return jax.lax.switch(index, [branch(i) for i in range(len(branches))], added, arguments)


_INSIDE = {"scan": _scan, "cond": _cond} | dict.fromkeys(CALLS, _call)
