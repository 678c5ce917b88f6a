# Two models in turn, a dict and an attribute hold them
from types import SimpleNamespace

torch.manual_seed(0)
first = torch.nn.parallel.DistributedDataParallel(network())
second = SimpleNamespace(model=torch.nn.parallel.DistributedDataParallel(network(16)))
models = {"a": first}
plain_model = torch.nn.ModuleList([first.module, second.model.module])
optimizer = torch.optim.Adam(plain_model.parameters(), lr=0.01)


def step(i):
    optimizer.zero_grad()
    at("before")
    loss = (models["a"](batch(i)) - second.model(batch(i))).square().mean()
    loss.backward()
    at("optimizer")
    optimizer.step()
    at("after")
    return float(loss.detach())
