"""The baseline of the benchmarks: the training recipe of most tutorials.

A Dataset opens and transforms one file at a time with Pillow, a DataLoader builds batches, and a plain loop trains.
"""

import time
from collections.abc import Iterator

import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from src.mlops.config import Config
from src.mlops.data.packing import Pack
from src.mlops.errors import ConfigError
from src.mlops.io.progress import progress_bar
from src.mlops.model import build_model, choose_device, predict_logits
from src.mlops.training.optimizer import build_optimizer
from src.mlops.training.train_loop import seed_everything

Batch = tuple[torch.Tensor, torch.Tensor]


class ImageFiles(Dataset[tuple[torch.Tensor, int]]):
    """A Dataset that opens and transforms one file at a time.

    Its augmentation is as strong as the project's, but without mirrored signs and white balance, which torchvision does
    not have. Pixels stay in the range 0 to 255, which the networks expect.

    Args:
        config: The configuration. `data.raw_dir` must be set.
        pack: The packed data, for paths and labels.
        split: The split; only `train` is augmented.
        size: Height and width of the images in px.

    Raises:
        ConfigError: `data.raw_dir` is not set.
    """

    def __init__(self, config: Config, pack: Pack, split: str, size: int) -> None:
        arrays = pack.load(split)
        raw_dir = config.data.raw_dir
        if raw_dir is None:
            raise ConfigError(
                "data.raw_dir is not set, but the baseline reads the original files. Add data.raw_dir=FOLDER."
            )
        self._files = [raw_dir / path for path in arrays.paths]
        self._labels = arrays.labels
        strength = config.training.augmentation
        shift, zoom = strength.translation, (1 - strength.scale, 1 + strength.scale)
        changes = [
            transforms.RandomAffine(strength.rotation, (shift, shift), zoom, shear=45 * strength.shear),
            transforms.ColorJitter(strength.brightness, strength.contrast, min(1.0, strength.saturation)),
            transforms.RandomApply([transforms.GaussianBlur(3)], strength.blur),
        ]
        training = split == "train"
        self._transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                *(changes if training else []),
                transforms.PILToTensor(),
                *([transforms.RandomErasing(strength.erase)] if training else []),
            ]
        )

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._files)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        """Returns one image, uint8 [3, size, size], and its class."""
        with Image.open(self._files[place]) as image:
            return self._transform(image.convert("RGB")), int(self._labels[place])


def data_loader(files: ImageFiles, batch_size: int, workers: int, *, shuffle: bool = True) -> DataLoader[Batch]:
    """Returns a DataLoader with the given number of worker processes; 0 loads in the calling process."""
    return DataLoader(files, batch_size, shuffle=shuffle, num_workers=workers)  # type: ignore[arg-type]


def train_baseline(config: Config, pack: Pack, workers: int) -> Iterator[tuple[float, float]]:
    """Trains the baseline.

    Args:
        config: The configuration.
        pack: The packed data, for paths and labels.
        workers: Number of worker processes of the DataLoader.

    Yields:
        After each epoch, the seconds since the start, including validation, and the validation accuracy.
    """
    training = config.training
    seed_everything(config.seed)
    train_files = ImageFiles(config, pack, "train", config.data.image_size)
    validation_files = ImageFiles(config, pack, "val", config.data.image_size)
    device = choose_device(config.device)
    model = build_model(config.model, len(pack.classes)).to(device)
    optimizer = build_optimizer(model, training)
    loader = data_loader(train_files, training.batch_size_for(len(train_files)), workers)
    validation_labels = pack.load("val").labels  # read before the clock starts
    started = time.perf_counter()
    for epoch in range(training.epochs):
        model.train()
        with progress_bar(f"baseline epoch {epoch + 1}/{training.epochs}", len(loader)) as bar:
            for step, (images, labels) in enumerate(loader, start=1):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images.to(device)), labels.to(device))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if step % 50 == 0 or step == len(loader):
                    bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
        batches = data_loader(validation_files, config.evaluation.batch_size, workers, shuffle=False)
        predicted = torch.from_numpy(predict_logits(model, batches)).argmax(1).numpy()
        yield time.perf_counter() - started, float((predicted == validation_labels).mean())
