"""The same training with lightly, as in its own benchmark for CIFAR-10.

PIL images go through lightly's `SimCLRTransform` in the workers of a DataLoader. The projection
head and NTXentLoss are lightly's, with a temperature of 0.5, in float32. The optimizer is SGD with
momentum 0.9, weight decay 5e-4 and a learning rate of 0.06 for batches of 128, scaled linearly,
with cosine annealing per epoch.
"""

from collections.abc import Iterator

import torch
from common import features_of_network
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Pictures(Dataset):
    """Pairs of views of images (n, h, w, 3), uint8."""

    def __init__(self, images):
        self.images = images
        self.transform = SimCLRTransform(
            input_size=images.shape[1], cj_strength=0.5, gaussian_blur=0.0
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.images[i]))


def train_lightly(
    encoder: nn.Module,
    n_features: int,
    images,
    *,
    n_epochs: int,
    batch_size: int = 256,
    n_workers: int = 2,
    device: str = "cpu",
    precision: torch.dtype = torch.float32,
    seed: int = 0,
) -> Iterator[float]:
    """Train an encoder in place; yield the mean loss of each epoch."""
    torch.manual_seed(seed)
    network = nn.Sequential(encoder, SimCLRProjectionHead(n_features, n_features, 128)).to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.06 * batch_size / 128, momentum=0.9, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs)
    loss_of, loader = (
        NTXentLoss(temperature=0.5),
        DataLoader(
            Pictures(images),
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=n_workers,
            persistent_workers=n_workers > 0,
            pin_memory=device != "cpu",
        ),
    )
    network.train()
    for _ in range(n_epochs):
        total = torch.zeros((), device=device)
        for first, second in loader:
            first, second = (view.to(device, non_blocking=True) for view in (first, second))
            with torch.autocast(device, dtype=precision, enabled=precision != torch.float32):
                loss = loss_of(network(first), network(second))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        schedule.step()
        yield float(total) / len(loader)


def features_of_lightly(encoder: nn.Module, images):
    """Return the features of images (n, h, w, 3), uint8, normalised as lightly's transform does."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return features_of_network(encoder, images, mean=mean, std=std)
