"""Pytrees of arrays in one `.npz` file, by the path of each leaf."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hamu_jax._base.history import write_bytes_whole
from hamu_jax._base.key_paths import path_name

_MARK = "::"  # before the dtype of an array that numpy cannot store, bfloat16 for example


def save_arrays(path: str | os.PathLike[str], tree: Any) -> None:
    """Writes a pytree of arrays as an uncompressed `.npz` file, whole or not at all.

    Args:
      path: of the file.
      tree: the pytree; a leaf is named by its path, as in `layers/0/kernel`.

    Raises:
      ValueError: if two leaves have the same path name.
    """
    arrays: dict[str, np.ndarray] = {}
    for where, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array, name = np.asarray(leaf), path_name(where)
        if array.dtype.kind == "V":
            name, array = f"{name}{_MARK}{array.dtype}", array.view(f"u{array.dtype.itemsize}")
        if name in arrays:
            raise ValueError(f"tree: got two arrays named {name!r}, expected a different name for each")
        arrays[name] = array
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # np.savez refuses an array that is named `file`
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    write_bytes_whole(path, buffer.getvalue())


def load_arrays(path: str | os.PathLike[str]) -> Any:
    """Reads what `save_arrays` wrote: nested dictionaries, and lists where the names of all children are 0, 1, 2, ...

    Raises:
      ValueError: naming the file, if it cannot be read as such a file.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as file:
            leaves = dict(_leaf(name, file[name]) for name in file.files)
    except Exception as error:
        raise ValueError(f"{path}: got a file that cannot be read as .npz ({type(error).__name__}: {error})") from error
    if set(leaves) == {"params"}:
        return leaves["params"]
    root: dict[str, Any] = {}
    for name, array in leaves.items():
        *parents, last = name.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return _with_lists(root)


def _leaf(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """A leaf's path and its array in its own dtype."""
    path, _, dtype = name.partition(_MARK)
    return path, array.view(jnp.dtype(dtype)) if dtype else array


def _with_lists(node: Any) -> Any:
    """The same tree, in which dictionaries with keys 0, 1, 2, ... are lists."""
    if not isinstance(node, dict):
        return node
    children = {key: _with_lists(child) for key, child in node.items()}
    names = [str(i) for i in range(len(children))]
    return [children[name] for name in names] if set(children) == set(names) else children
