# Lightning, Trainer(strategy="ddp", devices=2)
import logging
import warnings

import lightning

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, x, i):
        loss = self.net(x).square().mean()
        at("before")
        return loss

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        at("optimizer")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


plain_model = Module()
inner_optimizer = torch.optim.SGD(plain_model.parameters(), lr=0.01)  # without a state


def step(i):
    trainer = lightning.Trainer(
        strategy="ddp",
        devices=world_size,
        accelerator="cpu",
        max_epochs=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        use_distributed_sampler=False,
    )
    trainer.fit(
        plain_model, torch.utils.data.DataLoader([batch(i), batch(i + 50)], batch_size=None)
    )
    at("after")
    return 0.0
