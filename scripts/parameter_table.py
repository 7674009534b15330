"""Print the parameter table of docs/models.md."""

import torch

from titans_dna.config import VARIANTS, TitansConfig, preset_names
from titans_dna.nn.model import TitansDNA

print("| preset | variant | parameters | width | blocks | heads | memory | chunk |\n|---|---|---|---|---|---|---|---|")
for name in preset_names():
    for variant in VARIANTS:
        config = TitansConfig.preset(name, variant=variant)
        with torch.device("meta"):
            count = TitansDNA(config).parameter_count() / 1e6
        memory = " → ".join(map(str, config.memory_widths))
        print(
            f"| {name} | {variant} | {count:.2f} M | {config.width} | {config.layers} | {config.heads} | {memory} "
            f"| {config.chunk} |"
        )
