"""The command line with float64 in the place of float32, so that sums in another order agree to many more digits.

Run as a file, by Python or torchrun: `python tests/in_float64.py distill ...`.
"""

import torch

from piflow_cli.cli.app import main
from piflow_cli.engine.students import device

if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.nn.Module.float = torch.nn.Module.double
    device.DTYPES["float32"] = torch.float64
    main()
