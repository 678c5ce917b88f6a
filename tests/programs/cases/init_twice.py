# A script that begins with init_process_group and ends with destroy_process_group, again and again
model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def step(i):
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("gloo")
    loss = train(model, optimizer, torch.ones(4, 4) * (i + 1))
    total = torch.tensor(loss)
    dist.all_reduce(total)
    return float(total)
