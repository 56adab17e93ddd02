"""Build the documentation, in English and Japanese, into ci/docs/site; any warning ends the build.

    pip install -e ".[docs]"
    python ci/docs/build.py            draws the pictures of all examples, which takes a minute
    python ci/docs/build.py --quick    leaves out the pictures that are not there yet

The pages in ci/docs/pages are completed by those that stand elsewhere: README, CONTRIBUTING, PROMISES, a gallery of the
examples, and the API reference, which has every name in the `__all__` of every public module.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parents[1]
PAGES, DRAWN, SITE = DOCS / "build", DOCS / "drawn", DOCS / "site"
REPOSITORY = os.environ.get("REPOSITORY_URL", "")  # what is no page is linked there, if it is known
BORROWED = {  # pages that stand elsewhere in the repository
    "index.md": "README.md",
    "ja/index.md": "README.ja.md",
    "extending.md": ".github/CONTRIBUTING.md",
    "promises.md": "tests/PROMISES.md",
    "conformance.md": "ci/docs/conformance.md",
}
INTERNAL = ("nnbackend.checks", "nnbackend.cli", "nnbackend.markup")
WITH_MODULES = (
    "nnbackend.book.",
    "nnbackend.book2.",
    "nnbackend.functions.optimizers",
)  # where modules within a room are public, too


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run no examples")
    arguments = parser.parse_args()
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(DOCS / "pages", PAGES)
    for page, source in BORROWED.items():
        (PAGES / page).write_text(borrowed(page, source), encoding="utf-8")
    for page in (PAGES / "ja").glob("*.md"):
        page.write_text(joined(page.read_text(encoding="utf-8")), encoding="utf-8")
    examples = sorted((ROOT / "examples").glob("*.py"))
    if not arguments.quick:
        for example in examples:
            draw(example)
    (PAGES / "pictures").mkdir()
    for picture in [*(ROOT / "examples" / "pictures").iterdir(), *DRAWN.glob("*.png")]:
        shutil.copy(picture, PAGES / "pictures" / picture.name)
    (PAGES / "gallery.md").write_text("\n".join(gallery(examples)), encoding="utf-8")
    names = reference()
    configuration = settings()
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--config-file", str(configuration)]
    done = subprocess.run(command, cwd=DOCS, check=False)
    if done.returncode:
        return done.returncode
    faults = [*missing_names(names), *broken_links()]
    print("\n".join(faults) or f"{len(names)} public names and all links are there: {SITE / 'index.html'}")
    return 1 if faults else 0


# --- pages that stand elsewhere


def borrowed(page: str, source: str) -> str:
    """Return a Markdown file of the repository with its links led to the pages, or else to the repository.

    page: where it stands in the documentation. source: where it stands in the repository.
    """
    path = ROOT / source
    pages = {file: page for page, file in BORROWED.items()}
    up = "../" * page.count("/")

    def led(found: re.Match[str]) -> str:
        target = found["target"]
        if "://" in target or target.startswith("#"):
            return found[0]
        file = (path.parent / target).resolve().relative_to(ROOT).as_posix()
        if not (ROOT / file).exists():
            raise FileNotFoundError(f"{source} links to {target}, which is not there")
        if file.startswith("examples/pictures/"):
            return f"[{found['text']}]({up}{file.removeprefix('examples/')})"
        if file.startswith("ci/docs/pages/"):
            return f"[{found['text']}]({up}{file.removeprefix('ci/docs/pages/')})"
        if file in pages:
            return f"[{found['text']}]({up}{pages[file]})"
        return f"[{found['text']}]({REPOSITORY}/blob/main/{file})" if REPOSITORY else found["text"]

    return re.sub(r"\[(?P<text>[^\[\]]*)\]\((?P<target>[^)\s]+)\)", led, path.read_text(encoding="utf-8"))


def joined(text: str) -> str:
    """Return Japanese Markdown without the line breaks within a sentence, which a browser would show as spaces."""
    letter, mark = r"[\u3040-\u30ff\u3400-\u9fff\uff10-\uff5a]", r"[\u3000-\u303f\uff01-\uff0f\uff1a-\uff1f]"
    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    more = r"\n *"  # an item of a list goes on with spaces; what begins another item, a table or a block stays apart
    goes_on = r"(?!\d+\. )[^\n #|`-]|`[^`]"
    breaks = re.compile(rf"(?<={letter}){more}(?={letter})|(?<={mark}){more}(?={goes_on})|(?<=[^\n]){more}(?={mark})")
    return "".join(part if part.startswith("```") else breaks.sub("", part) for part in parts)


# --- the gallery


def draw(example: Path) -> None:
    """Run an example in the folder of pictures, unless its picture is newer than it."""
    picture = DRAWN / f"{example.stem}.png"
    if picture.exists() and picture.stat().st_mtime > example.stat().st_mtime:
        return
    DRAWN.mkdir(exist_ok=True)
    print(f"draws {picture.name}", flush=True)
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    settings = {"PYTHONPATH": path, "NNBACKEND": "numpy"}
    subprocess.run([sys.executable, str(example)], cwd=DRAWN, check=True, env={**os.environ, **settings})


def gallery(examples: list[Path]) -> Iterator[str]:
    """Yield the lines of a page that shows each example: what it tells, its picture and its source."""
    yield "# Gallery\n\nEach example runs as it stands, on every backend, and draws its picture.\n"
    for example in examples:
        source = example.read_text(encoding="utf-8")
        title, _, text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
        yield f"## {title.rstrip('.')}\n\n{text}\n"
        if (PAGES / "pictures" / f"{example.stem}.png").exists():
            yield f"![What {example.name} draws](pictures/{example.stem}.png)\n"
        yield f'??? example "{example.name}"\n\n    ```python'
        yield from (f"    {line}".rstrip() for line in source.splitlines())
        yield "    ```\n"


# --- the reference


def modules() -> list[ModuleType]:
    """Return all public modules that say what they offer: nnbackend first, then by name."""
    found = []
    for path in (ROOT / "nnbackend").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        public = name not in INTERNAL and (name.count(".") < 2 or name.startswith(WITH_MODULES))
        if public and re.search(r"^__all__\b", path.read_text("utf-8"), re.M):
            found.append(importlib.import_module(name))
    return sorted(found, key=lambda module: module.__name__)


def reference() -> list[str]:
    """Write a page for each module. Return the paths of all names, each where it is described."""
    folder = PAGES / "reference"
    folder.mkdir()
    offered = {module.__name__: module for module in modules()}
    described: dict[int, str] = {}
    for module in offered.values():
        for name in module.__all__:
            path = f"{module.__name__}.{name}"
            if path not in offered:  # nnbackend.backend is a function, and also a module
                described.setdefault(id(getattr(module, name)), path)
    found = []
    for module in offered.values():
        own, others, constants = [], [], []
        for name in sorted(module.__all__, key=lambda name: (not name[0].isupper(), name.lower())):
            value = getattr(module, name)
            if isinstance(value, ModuleType):
                if value.__name__ in offered:
                    others.append(f"- [`{name}`]({value.__name__}.md): a module")
            elif not callable(value):
                constants.append(f"`{name}`: a constant, {type(value).__name__}\n")
            elif not value.__module__.startswith("nnbackend"):
                continue  # the book's star imports also give names of Python's own library
            elif described[id(value)] == f"{module.__name__}.{name}":
                own.append(f"{module.__name__}.{name}")
            else:
                others.append(f"- [`{name}`][{described[id(value)]}]")
        lines = [f"# {module.__name__}\n", inspect.getdoc(module) or "", "", *constants]
        lines += [f"::: {path}\n    options:\n      heading_level: 2\n" for path in own]
        lines += ["## Described elsewhere\n", *others] if others else []
        (folder / f"{module.__name__}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        found += own
    return found


def settings() -> Path:
    """Write the settings of MkDocs with the pages of the reference in the navigation. Return the path."""
    text = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    pages = sorted((PAGES / "reference").glob("*.md"), key=lambda page: page.stem)
    lines = [f"      - {page.stem}: reference/{page.name}" for page in pages]
    text += "\n".join(["  - Reference:", *lines, "  - Changelog: changelog.md", ""])
    path = DOCS / "mkdocs.built.yml"
    path.write_text(text, encoding="utf-8")
    return path


# --- checks of what was built


class Links(HTMLParser):
    """Gathers what a page links to, and the anchors that it has."""

    def __init__(self, page: Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def missing_names(names: list[str]) -> Iterator[str]:
    """Yield a line for each public name that has no anchor in the reference."""
    anchors = set().union(*(Links(page).anchors for page in (SITE / "reference").rglob("index.html")))
    yield from (f"not in the reference: {name}" for name in names if name not in anchors)


def broken_links() -> Iterator[str]:
    """Yield a line for each link within the site that leads nowhere."""
    pages = {page: Links(page) for page in SITE.rglob("*.html") if page.name != "404.html"}
    for page, found in pages.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                yield f"{page.relative_to(SITE)} links to {link}, which is not there"


if __name__ == "__main__":
    sys.exit(main())
