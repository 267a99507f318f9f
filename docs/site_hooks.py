"""Hooks of mkdocs: pages link to files of the repository, which the site takes along under files/."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((\.\./[^)#\s]+|results/[^)#\s]*)\)")
"""A link out of docs/, or to its measurements."""


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files point to copies of them; those to folders become their names. A link to nothing is left, which a
    strict build refuses."""

    def replaced(link: re.Match[str]) -> str:
        bang, words, target = link.groups()
        path = posixpath.normpath(posixpath.join("docs", target))
        if (ROOT / path).is_dir():
            return f"{words} (`{path}/`)"
        if not (ROOT / path).is_file():
            return link[0]
        suffix = "" if path.endswith(".png") else ".txt"  # read in the browser, and not rendered
        name = f"files/{path}{suffix}"
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
        return f"{bang}[{words}]({posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or '.')})"

    return LINK.sub(replaced, markdown)
