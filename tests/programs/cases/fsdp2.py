# fully_shard (FSDP2)
from torch.distributed.fsdp import fully_shard

model = network()
for layer in model:
    if isinstance(layer, torch.nn.Linear):
        fully_shard(layer)
fully_shard(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    return train(model, optimizer, batch(i))
