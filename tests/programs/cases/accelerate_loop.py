# accelerate, a loop of one's own
import accelerate

accelerator = accelerate.Accelerator(cpu=True)
plain_model = network()
model, optimizer = accelerator.prepare(
    plain_model, torch.optim.Adam(plain_model.parameters(), lr=0.01)
)
inner_optimizer = optimizer.optimizer


def step(i):
    optimizer.zero_grad()
    at("before")
    loss = model(batch(i)).square().mean()
    accelerator.backward(loss)
    at("optimizer")
    optimizer.step()
    at("after")
    return float(accelerator.gather_for_metrics(loss.detach().reshape(1)).sum())
