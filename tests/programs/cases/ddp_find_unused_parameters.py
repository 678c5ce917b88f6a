# DistributedDataParallel, find_unused_parameters=True
model = torch.nn.parallel.DistributedDataParallel(network(), find_unused_parameters=True)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    return train(model, optimizer, batch(i))
