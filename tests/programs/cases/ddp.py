# DistributedDataParallel
model = torch.nn.parallel.DistributedDataParallel(network())
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    return train(model, optimizer, batch(i))
