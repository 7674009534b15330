"""The documentation site: `make docs` builds it from the pages beside this file."""

import inspect
import re
from importlib import metadata

project = "titans-dna"
author = "titans-dna developers"
release = metadata.version("titans-dna")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"titans-dna {release}"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_last_updated_fmt = None

# Pages are Markdown, and link to each other's headings; code in the wild is not coloured where its language is not named.
myst_heading_anchors = 3
highlight_language = "none"

# Docstrings are prose with `code` in single backquotes.
default_role = "code"
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88

_ITEM = re.compile(r"(?P<names>\w+(?:, \w+)*): +(?P<text>\S.*)")
_NEXT = re.compile(r"(?<=[.;]) (?=\w+(?:, \w+)*: )")


def names_of(thing):
    """Parameters of a function or fields of a class."""
    try:
        found = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        found = set()
    return found | set(getattr(thing, "__annotations__", {}))


def list_parameters(app, what, name, thing, options, lines):
    """Paragraphs `name, name: text` of a docstring, names being parameters or fields, become items of a list."""
    known, made, inside = names_of(thing), [], False

    def item_of(text):
        found = _ITEM.fullmatch(text)
        return found if found and known.issuperset(found["names"].split(", ")) else None

    for line in lines:
        parts = _NEXT.split(line) if inside or item_of(line) else [line]
        for part in parts:
            if item := item_of(part):
                names = ", ".join(f"**{one}**" for one in item["names"].split(", "))
                made += [""] * (not inside) + [f"- {names}: {item['text']}"]
                inside = True
            elif inside and part.strip() and not (made[-1].endswith(".") and part[:1].isupper()):
                made.append(f"  {part.strip()}")
            else:
                made += [""] * (inside and bool(part.strip())) + [part]
                inside = False
    lines[:] = made


def setup(app):
    app.connect("autodoc-process-docstring", list_parameters)
