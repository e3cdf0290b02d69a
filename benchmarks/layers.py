"""The layers beside torch.nn, Python loops and ONNX Runtime: `glassgate bench` from the checkout.

python benchmarks/layers.py [--work NAME,...] [--shapes TxNxIxH,...] [--quick] [--json FILE]
"""

import sys

from glassgate.cli import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
