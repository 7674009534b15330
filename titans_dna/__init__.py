"""titans-dna: Titans models (neural memory that learns at test time, arXiv 2501.00663) on DNA."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from titans_dna.checkpoint import load
    from titans_dna.config import TitansConfig
    from titans_dna.nn.model import TitansDNA
    from titans_dna.reading.remember import remember
    from titans_dna.reading.state_file import load_state, save_state
    from titans_dna.tasks.saved import load_finetuned

__version__ = version("titans-dna")
__all__ = ["TitansConfig", "TitansDNA", "load", "load_finetuned", "load_state", "remember", "save_state"]

_HOMES = {
    "TitansConfig": "titans_dna.config",
    "TitansDNA": "titans_dna.nn.model",
    "load": "titans_dna.checkpoint",
    "load_finetuned": "titans_dna.tasks.saved",
    "load_state": "titans_dna.reading.state_file",
    "remember": "titans_dna.reading.remember",
    "save_state": "titans_dna.reading.state_file",
}


def __getattr__(name: str) -> Any:
    """Names are imported when they are first used, so that the package itself imports at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'titans_dna' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
