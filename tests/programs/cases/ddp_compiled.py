# DistributedDataParallel(torch.compile)
model = torch.nn.parallel.DistributedDataParallel(torch.compile(network(), backend="eager"))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    return train(model, optimizer, batch(i))
