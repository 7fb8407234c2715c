"""How torch is set up for a device, the one place where this is done."""

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def prepare(model: M, device: torch.device) -> M:
    """The model on its device, in the memory format and with the settings that PyTorch's tuning guide recommends there.

    - channels_last: the convolutions of oneDNN (CPU) and of tensor cores (GPU) read images so, without copies.
    - cuDNN's benchmark: every step has the same shapes, so the quickest of its convolutions is chosen once. Two runs
      may choose differently, and then differ by rounding.
    - TF32 for products of float32 matrices: convolutions have it by default, and the products of projector and
      dictionary are as large. It keeps float32's range, with ten bits of precision; float64 is not touched.

    Nothing of this has been measured on a GPU yet.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
    return model.to(device).to(memory_format=torch.channels_last)
