# parallelize_module
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

mesh = init_device_mesh("cpu", (2,))
model = network()
parallelize_module(model, mesh, {"0": ColwiseParallel(), "3": RowwiseParallel()})
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    generator = torch.Generator().manual_seed(i)
    return train(model, optimizer, torch.randn(4, 4, generator=generator))
