# DistributedDataParallel, gradient_as_bucket_view=True
model = torch.nn.parallel.DistributedDataParallel(network(), gradient_as_bucket_view=True)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    return train(model, optimizer, batch(i))
