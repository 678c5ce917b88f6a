# fully_shard and parallelize_module on a 2 x 2 mesh (dp x tp)
# ranks: 4
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
model = network()
parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "3": RowwiseParallel()})
fully_shard(model, mesh=mesh["dp"])
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    generator = torch.Generator().manual_seed(1000 * i + mesh["dp"].get_local_rank())
    return train(model, optimizer, torch.randn(4, 4, generator=generator))
