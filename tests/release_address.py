"""Names the project's public address in what is published: its URLs, and the links of README.md.

    python tests/release_address.py https://forge.example/owner/project [directory]

A release is built by the forge that keeps the project, which knows its own address; so the address stands nowhere else,
and a fork that publishes names itself. `pyproject.toml` and `README.md` of the directory (default: this clone) are
changed, not to be committed: a package index shows the README, where links to files of the project would lead nowhere.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def urls(address: str) -> str:
    """Return the table of `pyproject.toml` for an address."""
    return (
        f'\n[project.urls]\nSource = "{address}"\nDocumentation = "{address}/blob/main/docs/index.md"\n'
        f'Changelog = "{address}/blob/main/CHANGELOG.md"\nIssues = "{address}/issues"\n'
    )


def absolute(text: str, address: str) -> str:
    """Return Markdown whose links to files of the project lead to its address; pictures are shown from there."""

    def place(link: re.Match[str]) -> str:
        target = link["target"]
        if "://" in target or target.startswith("#"):
            return link[0]
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({address}/{kind}/main/{target})"

    return LINK.sub(place, text)


def main(arguments: list[str]) -> None:
    """Change the two files; end with a message if there is no address, or they have one."""
    if not arguments or not re.fullmatch(r"https://[\w.-]+(/[\w.-]+)+", arguments[0]):
        sys.exit(__doc__)
    address, directory = arguments[0], Path(arguments[1]) if len(arguments) > 1 else ROOT
    project, readme = directory / "pyproject.toml", directory / "README.md"
    described = project.read_text(encoding="utf-8")
    if "[project.urls]" in described:
        sys.exit(f"{project} names an address already")
    project.write_text(described + urls(address), encoding="utf-8")
    readme.write_text(absolute(readme.read_text(encoding="utf-8"), address), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
