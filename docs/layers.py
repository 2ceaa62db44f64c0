"""Draws the picture of the layers from the layers that the tests hold the imports to."""

import ast
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
_ROW, _PAD, _WIDTH, _NAME = 22, 10, 860, 160  # pixels
_STYLE = """
    rect { fill: #eef3f8; stroke: #9fb3c8; }
    text { font: 13px sans-serif; fill: #24323f; dominant-baseline: central; }
    .name { font-family: monospace; font-weight: bold; }
    path { stroke: #5b7083; fill: none; stroke-width: 1.5; }
"""


def layers() -> list[list[tuple[str, str]]]:
    """Name and summary of each module, layer by layer, from top to bottom."""
    tree = ast.parse((ROOT / "tests" / "test_layering.py").read_text(encoding="utf-8"))
    value = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "LAYERS"
    )
    return [[(name, _summary(name)) for name in sorted(layer)] for layer in ast.literal_eval(value)]


def _summary(name: str) -> str:
    """First line of a module's docstring, without what is in the second half of it."""
    text = (ROOT / "sklearn_simclr" / f"{name}.py").read_text(encoding="utf-8")
    line = ast.get_docstring(ast.parse(text)).splitlines()[0].rstrip(".")
    return line.removeprefix("SimCLRTransformer: ").removeprefix("SimCLRClassifier: ")


def picture() -> str:
    """Return the layers as an SVG picture."""
    shapes, y = [], _PAD
    for layer in layers():
        height = _ROW * len(layer) + _PAD
        if shapes:
            shapes.append(f'<path d="M{_WIDTH / 2} {y - _PAD} v7 m-4 -4 l4 4 l4 -4"/>')
        shapes.append(f'<rect x="1" y="{y}" width="{_WIDTH - 2}" height="{height}" rx="5"/>')
        for number, (name, summary) in enumerate(layer):
            middle = y + _PAD / 2 + _ROW * (number + 0.5)
            shapes.append(f'<text class="name" x="14" y="{middle}">{name}</text>')
            shapes.append(f'<text x="{_NAME}" y="{middle}">{escape(summary)}</text>')
        y += height + _PAD
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}">'
        f"<style>{_STYLE}</style>\n" + "\n".join(shapes) + "\n</svg>\n"
    )
