"""Looks for links in a built site that lead nowhere: `python docs/check_links.py HTML`."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and what it refers to."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.targets = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Note what an element is called, and where it leads."""
        attrs = dict(attrs)
        self.anchors |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        self.targets |= {attrs[name] for name in ("href", "src") if attrs.get(name)}


def broken_links(root: Path) -> list[str]:
    """List the links of each page to files or anchors that are not there."""
    pages = {
        path.resolve(): Page(path) for path in root.rglob("*.html") if "_static" not in path.parts
    }
    broken = []
    for path, page in pages.items():
        for target in sorted(page.targets):
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            anchor = unquote(url.fragment)
            lost = anchor and file in pages and anchor not in pages[file].anchors
            if lost or not file.exists():
                broken.append(f"{path.relative_to(root.resolve())}: {target}")
    return broken


if __name__ == "__main__":
    found = broken_links(Path(sys.argv[1]))
    print("\n".join(found) or "all links within the site lead somewhere")
    sys.exit(bool(found))
