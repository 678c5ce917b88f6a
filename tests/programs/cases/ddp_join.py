# Uneven inputs with Join
from torch.distributed.algorithms.join import Join

model = torch.nn.parallel.DistributedDataParallel(network())
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def step(i):
    loss = 0.0
    with Join([model]):
        for part in range(1 + dist.get_rank()):
            loss = train(model, optimizer, batch(10 * i + part))
    return loss
