# DistributedDataParallel, communication hook that compresses to 16 bits
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

model = torch.nn.parallel.DistributedDataParallel(network())
model.register_comm_hook(None, fp16_compress_hook)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    return train(model, optimizer, batch(i))
