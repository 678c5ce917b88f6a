# torch.compile(DistributedDataParallel)
wrapped = torch.nn.parallel.DistributedDataParallel(network())
model = torch.compile(wrapped, backend="eager")
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    return train(model, optimizer, batch(i))
