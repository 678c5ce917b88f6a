# fully_shard, gradients of two batches gathered, gradients forgotten after the step
from torch.distributed.fsdp import fully_shard

model = network()
fully_shard(model[0])
fully_shard(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def step(i):
    optimizer.zero_grad()
    model.set_requires_gradient_sync(False)
    model(batch(i + 100)).square().mean().backward()
    model.set_requires_gradient_sync(True)
    at("before")
    loss = model(batch(i)).square().mean()
    loss.backward()
    at("optimizer")
    optimizer.step()
    at("after")
    return float(loss.detach())
