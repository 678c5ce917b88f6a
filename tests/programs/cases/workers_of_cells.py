# A Dataset of a cell in spawned, persistent workers of a DataLoader
class Batches(torch.utils.data.Dataset):
    def __init__(self, rank):
        self.rank = rank

    def __len__(self):
        return 2

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(1000 * i + self.rank)
        return torch.randn(4, 4, generator=generator)


model = torch.nn.parallel.DistributedDataParallel(network())
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loader = torch.utils.data.DataLoader(
    Batches(dist.get_rank()),
    batch_size=None,
    num_workers=1,
    multiprocessing_context="spawn",
    persistent_workers=True,
)


def step(i):
    return sum(train(model, optimizer, x) for x in loader)
