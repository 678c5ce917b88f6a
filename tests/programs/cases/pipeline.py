# Pipeline of two stages, stage and schedule made in each step
# without: kill
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

torch.manual_seed(rank)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), Probe(), torch.nn.Tanh())
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def step(i):
    stage = PipelineStage(model, dist.get_rank(), 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, 2, loss_fn=lambda out, y: (out - y).square().mean())
    optimizer.zero_grad()
    at("before")
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(i))
    if dist.get_rank() == 0:
        schedule.step(x)
    else:
        schedule.step(target=torch.zeros(4, 4))
    at("optimizer")
    optimizer.step()
    at("after")
    return 0.0
