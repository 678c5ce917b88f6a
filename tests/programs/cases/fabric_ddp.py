# Lightning, Fabric(strategy="ddp", devices=2)
import lightning

fabric = lightning.Fabric(strategy="ddp", devices=world_size, accelerator="cpu")
fabric.launch()
plain_model = network()
model, optimizer = fabric.setup(plain_model, torch.optim.Adam(plain_model.parameters(), lr=0.01))
inner_optimizer = optimizer.optimizer


def step(i):
    optimizer.zero_grad()
    at("before")
    loss = model(batch(i)).square().mean()
    fabric.backward(loss)
    at("optimizer")
    optimizer.step()
    at("after")
    return float(loss.detach())
