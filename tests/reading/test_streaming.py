"""Long sequences in pieces: quick versions of scripts/check_streaming.py and of the flat memory of docs/long_context.md."""

import subprocess
import sys

import pytest
import torch

from titans_dna.config import VARIANTS, TitansConfig
from titans_dna.nn.model import TitansDNA, tensors_of

TOKENS = 8000


@torch.inference_mode()
@pytest.mark.parametrize("variant", VARIANTS)
def test_pieces_of_a_long_sequence_equal_one_call_in_float32(variant):
    torch.manual_seed(0)
    model = TitansDNA(TitansConfig.preset("tiny", variant=variant)).eval()
    ids = torch.randint(7, 12, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    ids[0, 2000:5000] = 11  # a gap of N
    whole = model(ids)
    largest = whole.logits.abs().max()
    for piece in (1000, 4099):
        state, start = None, 0
        for part in ids.split(piece, dim=1):
            out = model(part, state)
            state = out.state
            assert (out.logits - whole.logits[:, start : start + piece]).abs().max() < 1e-4 * largest
            start += piece
        for a, b in zip(tensors_of(state), tensors_of(whole.state), strict=True):
            assert (a - b).abs().max() < 1e-4 * b.abs().max().clamp(min=1e-3)


CODE = """
import resource, sys, torch
from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
torch.set_num_threads(1)
model = TitansDNA(TitansConfig.preset("tiny", variant=sys.argv[1])).eval()
state, peaks = None, []
with torch.inference_mode():
    for step in range(32):
        state = model(torch.randint(7, 11, (1, 2048)), state).state
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[7], peaks[-1])
"""


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_does_not_grow_with_the_sequence(variant):
    """Most memory after 16,384 bases and after 65,536."""
    done = subprocess.run([sys.executable, "-c", CODE, variant], capture_output=True, text=True, check=True)
    early, late = map(int, done.stdout.split())
    assert late <= 1.05 * early
