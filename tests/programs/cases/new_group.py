# Groups of new_group: one held, one made in each step
sub = dist.new_group([0, 1])
model = torch.nn.parallel.DistributedDataParallel(network(), process_group=sub)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def step(i):
    at("forward")
    fresh = dist.new_group([0, 1])
    loss = train(model, optimizer, batch(i))
    total = torch.tensor(loss)
    dist.all_reduce(total, group=fresh)
    dist.all_reduce(total, group=sub)
    dist.destroy_process_group(fresh)
    return float(total)
