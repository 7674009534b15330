"""The inner loop held to both sides: bounded on what breaks it, and able to recall. Figures for docs/stability.md.

python scripts/bench_stability.py bounded [--bases 1000000] [--fasta genome.fa]
python scripts/bench_stability.py recall [--depth 2] [--steps 600]
python scripts/bench_stability.py gradients
"""

from __future__ import annotations

import argparse
import math
import time
from importlib import resources

import torch
import torch.nn.functional as F

from titans_dna.config import TitansConfig
from titans_dna.genome.genome import open_genome
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.vocabulary import NucleotideTokenizer

ETAS = {"0": -200.0, "0.5": 0.0, "0.998": 6.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("bounded", "recall", "gradients"))
    parser.add_argument("--bases", type=int, default=1_000_000)
    parser.add_argument(
        "--fasta", default="lambda", help="real sequence; lambda (the embedded phage, repeated) or a file"
    )
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    {"bounded": bounded, "recall": recall, "gradients": gradients}[options.what](options)


@torch.no_grad()
def bounded(options: argparse.Namespace) -> None:
    """Gates forced open (no forgetting, the largest rate): largest norms of memory and momentum, anything not finite."""
    print(
        "| sequence | dtype | L | eta | largest norm of M | of S | bound | all finite |\n|---|---|---|---|---|---|---|---|"
    )
    rows = sequences(options)
    for dtype in (torch.float32, torch.bfloat16):
        for depth in (1, 2):
            for eta, bias in ETAS.items():
                found = read_forced(torch.stack(list(rows.values())), dtype, depth, bias)
                for name, (memory, momentum, bound, finite) in zip(rows, found, strict=True):
                    kind = str(dtype).removeprefix("torch.")
                    print(
                        f"| {name} | {kind} | {depth} | {eta} | {memory:.2f} | {momentum:.2f} | {bound:.1f} | {finite} |",
                        flush=True,
                    )


def sequences(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    n, tokenizer = options.bases, NucleotideTokenizer()
    path = resources.files("titans_dna") / "genomes" / "lambda.fa" if options.fasta == "lambda" else options.fasta
    genome = open_genome(str(path))
    name, length = next(iter(genome.contigs.items()))
    real = genome.fetch(name, 0, min(n, length))
    texts = {"poly-A": b"A" * n, "CA repeat": (b"CA" * n)[:n], "N": b"N" * n, "real": (real * -(-n // len(real)))[:n]}
    return {name: torch.from_numpy(tokenizer.encode(text)).long() for name, text in texts.items()}


def read_forced(
    ids: torch.Tensor, dtype: torch.dtype, depth: int, eta: float
) -> list[tuple[float, float, float, bool]]:
    torch.manual_seed(0)
    config = TitansConfig(variant="lmm", width=64, layers=1, heads=1, memory_depth=depth)
    model = TitansDNA(config).eval()
    memory = model.blocks[0].memory
    memory.gates.weight.zero_()
    for name, value in {"theta": 200.0, "eta": eta, "alpha": -200.0}.items():
        memory.gates.bias[memory.gate_rows(name)] = value
    state, largest, finite = None, torch.zeros(2, len(ids)), torch.ones(len(ids), dtype=torch.bool)
    for piece in ids.split(8192, dim=1):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = model(piece, state)
        state = out.state
        finite &= out.logits.isfinite().flatten(1).all(1)
        for i, group in enumerate((state[0].scan.memory, state[0].scan.momentum)):
            for w in group:
                largest[i] = torch.maximum(largest[i], w.norm(dim=(-2, -1)).amax(1))
    bound = config.max_norm * config.head_width**0.5
    return [(*pair, bound, bool(ok)) for pair, ok in zip(largest.T.tolist(), finite, strict=True)]


def recall(options: argparse.Namespace) -> None:
    """32 pairs, vocabulary 64, 128 tokens, a two-layer width-64 model: share of the values recalled, on fresh pairs."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    config = TitansConfig("lmm", vocab_size=64, width=64, layers=2, heads=1, memory_depth=options.depth)
    model = TitansDNA(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    asked, start = torch.arange(64, 128, 2), time.perf_counter()
    for step in range(1, options.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 * min(1, step / 50) * (0.5 + 0.5 * math.cos(math.pi * step / options.steps))
        ids = pairs(32, generator)
        loss = F.cross_entropy(model(ids[:, :-1]).logits[:, asked].flatten(0, 1), ids[:, asked + 1].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 0 or step == options.steps:
            with torch.no_grad():
                fresh = pairs(256, generator)
                out = model(fresh[:, :-1])
                right = (out.logits[:, asked].argmax(-1) == fresh[:, asked + 1]).float().mean()
                norm = max(w.norm(dim=(-2, -1)).max() for block in out.state for w in block.scan.memory)
            seconds = time.perf_counter() - start
            print(
                f"L = {options.depth}, step {step}: {right:.2%} recalled, largest |W| {norm:.1f}, {seconds:.0f} s",
                flush=True,
            )


def pairs(rows: int, generator: torch.Generator) -> torch.Tensor:
    keys = torch.stack([torch.randperm(32, generator=generator) for _ in range(rows)])
    values = torch.randint(32, 64, (rows, 32), generator=generator)
    order = torch.stack([torch.randperm(32, generator=generator) for _ in range(rows)])
    again = torch.stack([keys.gather(1, order), values.gather(1, order)], dim=2)
    return torch.cat([torch.stack([keys, values], dim=2).flatten(1), again.flatten(1)], dim=1)


def gradients(options: argparse.Namespace) -> None:
    """Norm of the gradient at the start, over length, for several largest rates: Σ 2θ/(1−η) of a chunk is theta_max / 2."""
    ids = sequences(options)["real"]
    print("| theta_max | " + " | ".join(f"{t} bases" for t in (64, 256, 1024, 4096)) + " |\n|---|---|---|---|---|")
    for theta_max in (1.0, 2.0, 4.0, 8.0, 32.0):
        norms = []
        for t in (64, 256, 1024, 4096):
            torch.manual_seed(0)
            model = TitansDNA(TitansConfig(variant="lmm", width=64, layers=2, heads=2, theta_max=theta_max))
            batch = ids[: 4 * (t + 1)].view(4, t + 1)
            F.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
            norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item())
        print(f"| {theta_max:g} | " + " | ".join(f"{n:.2g}" for n in norms) + " |", flush=True)


if __name__ == "__main__":
    main()
