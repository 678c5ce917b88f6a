# ZeroRedundancyOptimizer
from torch.distributed.optim import ZeroRedundancyOptimizer

model = torch.nn.parallel.DistributedDataParallel(network())
optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=0.01)


def step(i):
    return train(model, optimizer, batch(i))
