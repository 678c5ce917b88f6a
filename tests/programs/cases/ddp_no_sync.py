# DistributedDataParallel, gradients of two batches gathered with no_sync
model = torch.nn.parallel.DistributedDataParallel(network())
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def step(i):
    optimizer.zero_grad()
    with model.no_sync():
        model(batch(i + 100)).square().mean().backward()
    at("before")
    loss = model(batch(i)).square().mean()
    loss.backward()
    at("optimizer")
    optimizer.step()
    at("after")
    return float(loss.detach())
