"""The PyTorch side of the benchmark: a process of its own, which does what it is told, one line of JSON an order.

    python -m experiments.cost.torch_worker CLONE THREADS

`experiments.cost.pytorch_process` starts it and talks to it. It takes the paper's optimizer and network from a clone of their
repository and calls them in the order of their trainer. It knows nothing of JAX.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call, grad, vmap

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Tensors = dict[str, torch.Tensor]


class Problem:
    """What is trained, how its loss comes about, and the paper's optimizer of it.

    Args:
      trained: parameters by name.
      settings: `learning_rate`, `improvement` and `clip_norm`.
      model: called with a batch it gives an output with a `loss`; None where gradients are given.
      batches: of the retain and of the forget set, keyword arguments of the model.
    """

    def __init__(
        self,
        trained: Mapping[str, torch.nn.Parameter],
        settings: Mapping[str, float],
        model: torch.nn.Module | None = None,
        batches: Mapping[str, Tensors] | None = None,
    ) -> None:
        from hamu.methods.hamu import HAMUOptimizer  # noqa: PLC0415  (of the clone)

        self.trained, self.settings, self.model, self.batches = dict(trained), settings, model, batches or {}
        self.clipped: tuple[Tensors, Tensors] = ({}, {})
        self.optimizer = HAMUOptimizer(
            SimpleNamespace(parameters=lambda: iter(self.trained.values())),
            lr=settings["learning_rate"],
            constraint=settings["learning_rate"] * settings["improvement"],
            distribute_constraint_grad_norm=True,
            gradient_pairing="sequential",
        )
        self.optimizer.set_accelerator(SimpleNamespace(device=DEVICE, num_processes=1))

    def gradients(self) -> list[float]:
        """Both gradients, clipped, where the optimizer looks for them; both losses."""
        retain = self._backward("retain")
        self.optimizer.store_retain_gradients()
        self.optimizer.zero_grad(set_to_none=True)
        return [retain, self._backward("forget")]

    def hold(self, retain: Tensors, forget: Tensors) -> None:
        """Keeps clipped gradients for `put`."""
        self.clipped = (self._clipped(retain), self._clipped(forget))

    def put(self) -> None:
        """Puts the held gradients where the optimizer looks for them."""
        retain, forget = self.clipped
        self.optimizer._retain_grads = {id(p): retain[name] for name, p in self.trained.items()}
        for name, p in self.trained.items():
            p.grad = forget[name]

    def step(self) -> None:
        """One step of HAMU-Q."""
        self.gradients()
        self.update()
        self.optimizer.zero_grad(set_to_none=True)

    def update(self) -> None:
        """The optimizer's part of it: the transform, and what takes the step."""
        self.optimizer._step()
        self.optimizer.step()
        self.optimizer.logs.clear()  # else they grow from call to call

    def gradient(self) -> None:
        """One gradient."""
        self._backward("retain")
        self.optimizer.zero_grad(set_to_none=True)

    def per_example(self) -> Tensors:
        """The gradient of every retain example, by torch.func."""
        trained = {name: p.detach() for name, p in self.trained.items()}
        rest = {name: x for name, x in self.model.state_dict().items() if name not in trained}

        def loss_of(params: Tensors, batch: Tensors) -> torch.Tensor:
            return functional_call(self.model, {**rest, **params}, kwargs={key: x[None] for key, x in batch.items()}).loss

        return vmap(grad(loss_of), in_dims=(None, 0))(trained, self.batches["retain"])

    @torch.no_grad()
    def evaluate(self) -> list[float]:
        """Loss and accuracy of the retain batch."""
        out = self.model(**self.batches["retain"])
        return [float(out.loss), float((out.logits.argmax(-1) == self.batches["retain"]["labels"]).float().mean())]

    def facts(self) -> dict[str, Any]:
        """Both losses, where there is a model, and the length of the step, per unit of learning rate; nothing moves."""
        losses = self.gradients() if self.model is not None else self.put()
        self.optimizer._step()
        square = sum(float((p.grad.double() ** 2).sum()) for p in self.trained.values())
        self.optimizer.zero_grad(set_to_none=True)
        return {"losses": losses, "length": square**0.5}

    def _backward(self, part: str) -> float:
        """The gradient of a batch's mean loss, clipped; the loss."""
        loss = self.model(**self.batches[part]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.values(), self.settings["clip_norm"])
        return float(loss.detach())

    def _clipped(self, gradient: Tensors) -> Tensors:
        """As `clip_grad_norm_` clips."""
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(x) for x in gradient.values()]))
        factor = torch.clamp(self.settings["clip_norm"] / (norm + 1e-6), max=1.0)
        return {name: x * factor for name, x in gradient.items()}


def resnet20(directory: Path, settings: Mapping[str, float]) -> Problem:
    """The paper's network, whose weights are drawn and written if they are missing, and batches of images."""
    from hamu.models.resnet20 import ResNet20ForCIFAR, config  # noqa: PLC0415

    torch.manual_seed(0)
    model, weights = ResNet20ForCIFAR(config), directory / "weights.safetensors"
    if not weights.exists():
        save_file(model.state_dict(), weights)
    model.load_state_dict(load_file(weights))
    model.set_batchnorm_training(False)
    batches = _batches(directory, pixel_values=lambda images: np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return _of_model(model.train(), batches, settings)


def lora(directory: Path, settings: Mapping[str, float]) -> Problem:
    """A Llama with adapters, and batches of tokens."""
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    base = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, directory / "adapter", is_trainable=True)
    return _of_model(model.train(), _batches(directory), settings)


def dense(directory: Path, settings: Mapping[str, float]) -> Problem:
    """Parameters with given gradients."""
    gradients = [_on_device(load_file(directory / f"{part}.safetensors")) for part in ("retain", "forget")]
    problem = Problem({name: torch.nn.Parameter(torch.zeros_like(x)) for name, x in gradients[0].items()}, settings)
    problem.hold(*gradients)
    return problem


PROBLEMS: dict[str, Callable[[Path, Mapping[str, float]], Problem]] = {"resnet20": resnet20, "lora": lora, "dense": dense}


def _of_model(model: torch.nn.Module, batches: dict[str, Tensors], settings: Mapping[str, float]) -> Problem:
    """The problem of a model's parameters; it holds their gradients, too."""
    model = model.to(DEVICE)
    problem = Problem({name: p for name, p in model.named_parameters() if p.requires_grad}, settings, model, batches)
    problem.gradients()
    retain = {name: problem.optimizer._retain_grads[id(p)] for name, p in problem.trained.items()}
    problem.hold(retain, {name: p.grad for name, p in problem.trained.items()})
    problem.optimizer.zero_grad(set_to_none=True)
    return problem


def _batches(directory: Path, **change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Tensors]:
    """Both batches, which our side wrote."""
    batches: dict[str, Tensors] = {}
    for part in ("retain", "forget"):
        with np.load(directory / f"{part}.npz") as file:
            arrays = {name: change.get(name, lambda x: x)(file[name]) for name in file.files}
        batches[part] = _on_device({name: torch.from_numpy(x) for name, x in arrays.items()})
    return batches


def _on_device(tensors: Tensors) -> Tensors:
    """Where they are computed with."""
    return {name: x.to(DEVICE) for name, x in tensors.items()}


class Worker:
    """What may be ordered; it holds one problem at a time."""

    problem: Problem

    def prepare(self, name: str, directory: str, settings: dict[str, float]) -> dict[str, int]:
        """Makes a problem of what is in a directory."""
        vars(self).clear()
        self.problem = PROBLEMS[name](Path(directory), settings)
        return {"parameters": sum(p.numel() for p in self.problem.trained.values()), "tensors": len(self.problem.trained)}

    def facts(self) -> dict[str, Any]:
        """See `Problem.facts`."""
        return self.problem.facts()

    def timed(self, what: str) -> float:
        """Seconds that a method of the problem takes."""
        if what == "update":
            self.problem.put()
        call: Callable[[], Any] = functools.partial(getattr(self.problem, what))
        _wait()
        begun = time.perf_counter()
        result = call()
        _wait()
        seconds = time.perf_counter() - begun
        del result
        return seconds

    def peak(self) -> int:
        """The most memory that this process has held, in bytes."""
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

    def environment(self) -> dict[str, Any]:
        """Versions and device."""
        import peft  # noqa: PLC0415
        import transformers  # noqa: PLC0415

        device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
        versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
        return {**versions, "torch_device": device, "torch_threads": torch.get_num_threads()}


def _wait() -> None:
    """For what was started on a GPU."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def main(clone: str, threads: str) -> None:
    """Answers orders until there are no more."""
    sys.path.insert(0, clone)
    torch.set_num_threads(int(threads))
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    worker = Worker()
    for line in sys.stdin:
        order = json.loads(line)
        answers.write(json.dumps(getattr(worker, order.pop("do"))(**order)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
