"""The rooms of the package: their order, the imports between them, and the picture of ARCHITECTURE.md.

Run as `python -m tools.docs.rooms` to write docs/assets/rooms.svg.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kdbench"
PICTURE = ROOT / "docs" / "assets" / "rooms.svg"
ROOMS = (
    *(
        "core",
        "utils",
        "functional",
        "config",
        "models",
        "jobs",
        "distributed",
        "objectives",
        "losses",
        "metrics",
    ),
    *("data", "tasks", "teachers", "training", "runs", "tables", "analysis", "benchmark", "reports", "cli"),
)
"""A room may import only rooms that stand before it."""

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 122, 40, 22, 38, 16

Graph = dict[str, set[str]]


def imports(file: Path) -> Iterator[str]:
    """Yield the modules that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def file_graph(package: Path = PACKAGE) -> Graph:
    """Return the imports between the modules of the package, by dotted name."""
    modules = {_dotted(file, package): file for file in package.rglob("*.py")}
    return {
        name: {other for other in imports(file) if other in modules and other != name}
        for name, file in modules.items()
    }


def room_graph(files: Mapping[str, Set[str]]) -> Graph:
    """Return the imports between rooms."""
    graph: Graph = {}
    for name, others in files.items():
        rooms = {room for other in others if (room := room_of(other))}
        if room := room_of(name):
            graph.setdefault(room, set()).update(rooms - {room})
    return graph


def room_of(module: str) -> str | None:
    """Return the room of a module; None for the package itself and `__main__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else None


def circles(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def reduced(graph: Mapping[str, Set[str]]) -> Graph:
    """Return the graph without the arrows that follow from others."""

    def reachable(node: str) -> set[str]:
        return set().union(*({other} | reachable(other) for other in graph.get(node, ())))

    return {
        node: {one for one in others if not any(one in reachable(two) for two in others if two != one)}
        for node, others in graph.items()
    }


def levels(graph: Mapping[str, Set[str]]) -> dict[str, int]:
    """Return the length of the longest chain of imports below each room."""
    level: dict[str, int] = {}

    def of(room: str) -> int:
        if room not in level:
            level[room] = 1 + max((of(other) for other in graph.get(room, ())), default=-1)
        return level[room]

    for room in graph:
        of(room)
    return level


def picture(graph: Mapping[str, Set[str]]) -> str:
    """Draw the rooms as SVG, high rooms above those that they import."""
    graph = {room: {other for other in others if _precedes(other, room)} for room, others in graph.items()}
    level = levels(graph)
    rows = [
        [room for room in ROOMS if level.get(room) == height] for height in range(max(level.values()) + 1)
    ]
    widest = max(len(row) for row in rows)
    width = 2 * MARGIN + widest * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + len(rows) * (HEIGHT + GAP_Y) - GAP_Y
    place = {}
    for number, row in enumerate(rows):
        start = (width - len(row) * (WIDTH + GAP_X) + GAP_X) / 2 + (30 if number % 2 else -30)
        for column, room in enumerate(row):
            top = height - MARGIN - HEIGHT - number * (HEIGHT + GAP_Y)
            place[room] = (start + column * (WIDTH + GAP_X), top)
    arrows = [
        _arrow(place[room], place[other]) for room in place for other in sorted(reduced(graph).get(room, ()))
    ]
    boxes = [_box(room, *place[room]) for room in place]
    return "\n".join([_HEAD.format(width=width, height=height), *arrows, *boxes, "</svg>"]) + "\n"


def upward(graph: Mapping[str, Set[str]]) -> list[tuple[str, str]]:
    """Return the imports of a room that does not stand before the importing one."""
    return [(room, other) for room, others in graph.items() for other in others if not _precedes(other, room)]


def _precedes(low: str, high: str) -> bool:
    return low in ROOMS and high in ROOMS and ROOMS.index(low) < ROOMS.index(high)


_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" \
font-family="sans-serif" font-size="14">
<title>Rooms of kdbench and their imports</title>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path d="M0 0L8 4L0 8z" fill="#7a8ca5"/></marker></defs>
<rect width="100%" height="100%" fill="white"/>"""


def _arrow(source: tuple[float, float], target: tuple[float, float]) -> str:
    x1, y1, x2, y2 = source[0] + WIDTH / 2, source[1] + HEIGHT, target[0] + WIDTH / 2, target[1]
    bend = (y2 - y1) / 2
    path = f"M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"
    return f'<path d="{path}" fill="none" stroke="#7a8ca5" stroke-width="1.2" marker-end="url(#head)"/>'


def _box(room: str, left: float, top: float) -> str:
    about = (ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or "").splitlines()
    return (
        f'<g><title>{escape(about[0] if about else room)}</title><rect x="{left:g}" y="{top:g}" width="{WIDTH}" '
        f'height="{HEIGHT}" rx="6" fill="#e8eef7" stroke="#1f3f66"/><text x="{left + WIDTH / 2:g}" '
        f'y="{top + HEIGHT / 2 + 5:g}" text-anchor="middle" fill="#10243d">{escape(room)}</text></g>'
    )


def _dotted(file: Path, package: Path) -> str:
    parts = (package.name, *file.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


if __name__ == "__main__":
    PICTURE.write_text(picture(room_graph(file_graph())))
