"""The deployed form of a network: it includes the calibration and computes everything that a prediction needs.

The input is `images`, uint8 [N, 3, S, S], where S is the image size of the model. The outputs are float32:

- `probabilities` [N, C], at the calibrated temperature;
- `embedding` [N, D];
- `energy` [N], from which the unknown score follows, together with the probabilities;
- `evidence` [N, C, h, w], the contribution of each region of the image to the logit of each class (class activation
  maps, Zhou et al. 2016). Only networks with average pooling before the last layer have this output.
"""

import torch
from torch import Tensor, nn

from src.mlops.model import Network


class Deployed(nn.Module):
    """A network with its calibration.

    Args:
        model: The trained network, in float32 or float16. Normalisation, softmax and evidence stay in float32.
        temperature: Divisor of the logits.
    """

    def __init__(self, model: Network, temperature: float) -> None:
        super().__init__()
        self.model = model.eval()
        self.temperature = temperature
        self.output_names = ["probabilities", "embedding", "energy", *(["evidence"] if model.pooling else [])]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs listed in the docstring of this module, in the order of `output_names`."""
        pixels = self.model.features[:1](images)
        maps = self.model.features[1:-2](pixels.to(self.model.head.weight.dtype))
        embedding = self.model.features[-2:](maps)
        scaled = self.model.head(embedding).float() / self.temperature
        energy = -self.temperature * scaled.logsumexp(dim=1)
        pooling = self.model.pooling
        evidence = () if pooling is None else (_evidence(maps.float(), pooling, self.model.head.weight.float()),)
        return scaled.softmax(dim=1), embedding.float(), energy, *evidence


def _evidence(maps: Tensor, pooling: nn.AdaptiveAvgPool2d, head: Tensor) -> Tensor:
    """Splits each logit, without the bias, into the contributions of the positions in the last feature maps.

    Args:
        maps: The last feature maps, float [N, C, h, w].
        pooling: The layer that averages the maps into cells.
        head: The weights of the linear layer that follows, float [C, D].

    Returns:
        The contributions, float [N, C, h, w].
    """
    height, width = maps.shape[2:]
    # The pooling as a matrix [h * w, cells]: the share of each position in the average of each cell.
    shares = pooling(torch.eye(height * width).view(-1, 1, height, width)).flatten(1)
    weights = head.view(len(head), maps.shape[1], -1) @ shares.T
    return torch.einsum("nchw,kchw->nkhw", maps, weights.view(len(weights), -1, height, width))
