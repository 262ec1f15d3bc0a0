"""Makes pages of docs/, which are written for readers of the repository, into pages of the site.

MkDocs calls this file: see ``hooks`` in mkdocs.yml. Two things differ between the two places:

- A page may link to a file outside docs/, such as a source, which the site does not have. There it is a link
  to the repository, or without ``repo_url`` its text alone.
- A block may say which library it needs: ```` ```python needs=boto3 ````. On the site this is its title.
"""

import logging
import os.path
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# MkDocs counts the warnings of its own loggers. One fails a strict build.
_log = logging.getLogger("mkdocs.hooks.pages")

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
_NEEDS = re.compile(r"^(\w+) needs=([\w.]+)$")
# Not a picture, not an address, not a place on the same page.
_LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(((?![a-z]+:|#)[^()\s#]+)(#[^()\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Change the text of a page, before it is read as Markdown."""
    repository = config.repo_url and f"{config.repo_url.rstrip('/')}/blob/{config.extra.get('branch', 'main')}"
    return for_site(markdown, page.file.src_uri, repository)


def for_site(markdown: str, page: str, repository: str | None) -> str:
    r"""Return the text of a page as the site needs it.

    Args:
        markdown: The text.
        page: Where it stands below docs/, with slashes.
        repository: Where the files of the repository can be read, without a slash at its end; None if
            nowhere.

    Returns:
        The text. Blocks of code keep their lines.

    >>> for_site("See [lib.rs](../src/lib.rs) and [health](health.md).", "guide.md", None)
    'See `lib.rs` and [health](health.md).'
    >>> for_site("See [lib.rs](../src/lib.rs).", "guide.md", "https://example.com/blob/main")
    'See [lib.rs](https://example.com/blob/main/src/lib.rs).'
    >>> print(for_site("```python needs=boto3\nx = 1\n```", "clients.md", None))
    ```python title="needs boto3"
    x = 1
    ```
    """
    lines, fence = [], ""
    for line in markdown.split("\n"):
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[2]
            line = found[1] + found[2] + _NEEDS.sub(r'\1 title="needs \2"', found[3])
        elif found and found[2].startswith(fence) and not found[3].strip():
            fence = ""
        elif not fence:
            line = _LINK.sub(lambda link: _link(link, page, repository), line)
        lines.append(line)
    return "\n".join(lines)


def _link(link: re.Match[str], page: str, repository: str | None) -> str:
    text, target, place = link[1], link[2], link[3] or ""
    path = os.path.normpath(os.path.join("docs", os.path.dirname(page), target)).replace(os.sep, "/")
    if path.startswith("docs/"):
        return link[0]  # MkDocs checks it
    if path.startswith("..") or not (ROOT / path).exists():
        _log.warning("docs/%s links to %s, which does not exist", page, target)
    if repository:
        return f"[{text}]({repository}/{path}{place})"
    return text if "`" in text else f"`{text}`" if "/" in text or "." in text else f"{text} (`{path}`)"
