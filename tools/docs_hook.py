"""A hook of mkdocs: links from docs/ to files of the repository are checked, and shown as the file's path.

On a forge they are links; in the built site, which holds docs/ alone, there is nothing to link to.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called for each page before it is rendered. Raises FileNotFoundError for a link to nothing."""
    here = (ROOT / "docs" / page.file.src_path).parent

    def shown(match: re.Match[str]) -> str:
        target = (here / match[2]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return match[0]
        if not target.exists():
            raise FileNotFoundError(f"docs/{page.file.src_path}: there is no {match[2]}")
        return f"{match[1]} (`{target.relative_to(ROOT)}`)" if "`" not in match[1] else match[1]

    return _LINK.sub(shown, markdown)
