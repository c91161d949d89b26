"""Draws sampled stacks as a flame graph that is legible on light and dark pages, without scripts.

Record with `py-spy <https://github.com/benfred/py-spy>`_, then draw::

    py-spy record -r 500 -F -f raw -o stacks.txt -- python tests/bench/steps_per_second.py --rounds 2
    python tests/bench/flame_graph.py stacks.txt docs/images/flame-graph.svg

The form is that of B. Gregg, "The Flame Graph" (Communications of the ACM 59, 2016), the root on top: the width of a
frame is the share of the samples in which it was on the stack. Who drives the event loop is left out, and so is all
that is not the engine's run.
"""

from __future__ import annotations

import argparse
import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_WIDTH: Final = 1_200
_ROW: Final = 20
_TOP: Final = 40
_LETTER: Final = 6.1
_NARROWEST: Final = 0.8
_COLOURS: Final = {
    "SQLite": "#8fbf88",
    "store": "#c9dfa5",
    "engine": "#f2c07a",
    "asyncio": "#a9c4e6",
    "benchmark": "#d5c3e0",
}
_LOOP: Final = "BaseEventLoop._run_once"
_CALLS_SQLITE: Final = frozenset({"WritableDatabase._change_one", "WritableDatabase._change", "_Transaction.__enter__"})


@dataclass
class Frame:
    """One function on the stack, below the same callers.

    Attributes:
        name: The function.
        kind: What it belongs to, a key of the colours.
        samples: In how many samples it was on the stack.
        called: What it called, by name.
    """

    name: str
    kind: str
    samples: int = 0
    called: dict[str, Frame] = field(default_factory=dict)


def read(stacks: Path) -> Frame:
    """Add up the samples of the engine's run.

    Args:
        stacks: What ``py-spy record -f raw`` wrote.
    """
    root = Frame("the event loop", "asyncio")
    for line in stacks.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        places = [number for number, frame in enumerate(frames) if frame.startswith(_LOOP)]
        if not places or not any("workflow_core" in frame for frame in frames):
            continue
        frame = root
        frame.samples += int(samples)
        for text in frames[places[-1] + 1 :]:
            name, _, place = text.partition(" (")
            name = name.replace("<locals>.", "")
            if name not in frame.called:
                frame.called[name] = Frame(name, _kind(name, place))
            frame = frame.called[name]
            frame.samples += int(samples)
    return root


def _kind(name: str, place: str) -> str:
    if name in _CALLS_SQLITE or name.startswith("_Transaction.__exit__"):
        return "SQLite"
    if "workflow_core/database" in place or "interception" in place:
        return "store"
    if "workflow_core" in place:
        return "engine"
    return "benchmark" if "steps_per_second" in place else "asyncio"


def draw(root: Frame) -> str:
    """Return the picture, as SVG."""
    boxes: list[str] = []
    rows = _draw(root, 0.0, 0, _WIDTH / root.samples, boxes)
    height = _TOP + (rows + 1) * _ROW
    key, x = [], 10
    for name, colour in _COLOURS.items():
        key.append(
            f'<rect x="{x}" y="12" width="14" height="14" fill="{colour}"/><text x="{x + 19}" y="23">{name}</text>'
        )
        x += 110
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif"'
        f' font-size="11" role="img"><title>Where the time of a step goes</title>'
        f'<rect width="100%" height="100%" fill="#fbfbf8"/><g fill="#1c1c1c" stroke="none">'
        f"{''.join(key)}{''.join(boxes)}</g></svg>\n"
    )


def _draw(frame: Frame, x: float, row: int, scale: float, boxes: list[str]) -> int:
    width = frame.samples * scale
    share = f"{frame.samples * scale / _WIDTH:.1%}"
    text = f"{frame.name} {share}"
    room = int((width - 6) / _LETTER)
    label = text if len(text) <= room else frame.name[: room - 1] + "…" if room > 3 else ""
    y = _TOP + row * _ROW
    boxes.append(
        f'<g><title>{html.escape(text)}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 1}"'
        f' fill="{_COLOURS[frame.kind]}" stroke="#fbfbf8" stroke-width=".6"/>'
        + (f'<text x="{x + 3:.1f}" y="{y + 13}">{html.escape(label)}</text>' if label else "")
        + "</g>"
    )
    deepest = row
    for called in frame.called.values():
        if called.samples * scale >= _NARROWEST:
            deepest = max(deepest, _draw(called, x, row + 1, scale, boxes))
        x += called.samples * scale
    return deepest


def main() -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", type=Path, help="what py-spy recorded with -f raw")
    parser.add_argument("picture", type=Path, help="the SVG file to write")
    options = parser.parse_args()
    options.picture.write_text(draw(read(options.stacks)))


if __name__ == "__main__":
    main()
