"""What every program finds on its ranks: places where a fault can happen, and a way back.

Sent to the ranks as a cell before a program of ``cases/``, which defines ``model``, ``optimizer``
and ``step(i)``, and calls ``at(place)`` or puts a ``Probe`` into its model.
"""

import os
import time

import torch

for name in ("plain_model", "inner_optimizer", "model", "optimizer"):  # of the last program
    globals().pop(name, None)
fault = None  # kind, place
losses = []


def arm(kind, place):
    """Let `kind` happen on rank 1 when it comes to `place`."""
    globals()["fault"] = (kind, place)


def at(place):
    if fault is None or fault[1] != place or rank != 1:
        return
    kind = fault[0]
    globals()["fault"] = None
    if kind == "raise":
        raise ValueError("a bad batch")
    if kind == "interrupt":
        time.sleep(100)
    if kind == "kill":
        os.kill(os.getpid(), 9)


class InBackward(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        at("backward")
        return gradient


class Probe(torch.nn.Module):
    """A place in a model: in its forward, and in its backward."""

    def forward(self, x):
        at("forward")
        return InBackward.apply(x)


def network(width=8):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, width), torch.nn.Tanh(), Probe(), torch.nn.Linear(width, 2)]
    return torch.nn.Sequential(*layers)


def batch(i, rows=4, columns=4):
    generator = torch.Generator().manual_seed(1000 * i + rank)
    return torch.randn(rows, columns, generator=generator)


def train(model, optimizer, x):
    """One step, with a place before, between and after each part of it."""
    optimizer.zero_grad()
    at("before")
    loss = model(x).square().mean()
    loss.backward()
    at("optimizer")
    optimizer.step()
    at("after")
    return float(loss.detach())


# --- state ----------------------------------------------------------------------------------------


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def held():
    """Return all tensors of the model and of its optimizer."""
    tensors = {}
    one = globals().get("plain_model", globals().get("model"))
    for number, tensor in enumerate([*one.parameters(), *one.buffers()]):
        tensors["model", number] = local(tensor.detach())
    inner = globals().get("inner_optimizer", globals().get("optimizer"))
    inner = getattr(inner, "optim", inner)
    for number, (_, state) in enumerate(inner.state.items()):
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors["optimizer", number, name] = local(value.detach())
    return tensors


def save():
    globals()["saved"] = {key: value.clone() for key, value in held().items()}


def heal():
    """Put the same objects back to where they were before the step that failed."""
    globals()["fault"] = None
    if not any(key[0] == "optimizer" for key in saved):
        inner = globals().get("inner_optimizer", globals().get("optimizer"))
        getattr(inner, "optim", inner).state.clear()
    for key, value in held().items():
        value.copy_(saved[key])
    del losses[kept:]


def run(begin, end):
    save()
    globals()["kept"] = len(losses)
    for i in range(begin, end):
        losses.append(step(i))


def report():
    values = held()
    return losses, [float(values[key].double().sum()) for key in sorted(values, key=str)]
