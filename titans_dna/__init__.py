"""titans-dna: Titans models (neural memory that learns at test time, arXiv 2501.00663) on DNA."""

from __future__ import annotations

import ast
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # The one list of public names. Type checkers take it as it is, `_homes` reads it from this text.
    from titans_dna.checkpoint import load as load
    from titans_dna.checkpoint import load_finetuned as load_finetuned
    from titans_dna.checkpoint import push as push
    from titans_dna.checkpoint import save as save
    from titans_dna.config import TitansConfig as TitansConfig
    from titans_dna.nn.finetuned import FineTuned as FineTuned
    from titans_dna.nn.model import TitansDNA as TitansDNA
    from titans_dna.nn.state import load_state as load_state
    from titans_dna.nn.state import save_state as save_state
    from titans_dna.reading.embed import embed as embed
    from titans_dna.reading.remember import remember as remember
    from titans_dna.tasks.evaluate import evaluate as evaluate
    from titans_dna.tasks.score import predict as predict


def _homes() -> dict[str, str]:
    """The module of each public name."""
    tree = ast.parse(__loader__.get_source(__name__))
    found = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {alias.asname: str(node.module) for node in found for alias in node.names if alias.asname}


_HOMES = _homes()
__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # which would take any name then

    def __getattr__(name: str) -> Any:
        """Names are imported when they are first used, so that the package itself imports at once."""
        if name == "__version__":
            from importlib.metadata import version

            return version("titans-dna")
        if name not in _HOMES:
            raise AttributeError(f"module 'titans_dna' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})
