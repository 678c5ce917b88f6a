# FullyShardedDataParallel (FSDP1)
from torch.distributed.fsdp import FullyShardedDataParallel

inner = network()
inner[0] = FullyShardedDataParallel(inner[0], device_id=torch.device("cpu"))
model = FullyShardedDataParallel(inner, device_id=torch.device("cpu"))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    return train(model, optimizer, batch(i))
