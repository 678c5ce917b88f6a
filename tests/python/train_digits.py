"""A training that gives the same numbers wherever it runs; used by test_training.py.

Under torchrun it is a script that writes the weights of each rank to the folder in argv[1]; under
ddipp its source is a cell.
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

if not dist.is_initialized():
    dist.init_process_group("gloo")

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
dataset = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
sampler = DistributedSampler(dataset, seed=0)
loader = DataLoader(dataset, batch_size=32, sampler=sampler)
network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
model = DistributedDataParallel(network)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(3):
    sampler.set_epoch(epoch)
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
weights = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

if __name__ == "__main__" and "get_ipython" not in globals():
    import os
    import sys

    torch.save(weights, f"{sys.argv[1]}/weights-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # finalizing an interpreter with torch loaded aborts now and then
