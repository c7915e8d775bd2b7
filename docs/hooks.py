"""Makes the pages of the site that come from the program: the command line, the Python names, and the root files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

ROOMS = {
    "pocketvit": "Whole jobs and their settings",
    "compress": "Data and models",
    "export": "Exported files",
    "device_bench": "Measurements and reports",
    "runtime": "Predictions, plans and errors",
}

REGISTRIES = {
    "Search methods (`--search`)": "compress.search.METHODS",
    "Importance (`--importance`)": "compress.importance.CRITERIA",
    "Data (`--data`)": "compress.data.SOURCES",
    "Kinds of file (`--formats`)": "export.formats.KINDS",
    "Integer recipes (`--int8-recipe` takes those for `int8`)": "export.quantise.recipes.RECIPES",
    "Families of processors (`--for`)": "runtime.processors.PROCESSORS",
    "Targets (`--target`)": "device_bench.targets.TARGETS",
    "Metrics": "device_bench.metrics.METRICS",
    "Engines": "runtime.engines.ENGINES",
    "File formats": "runtime.formats.FORMATS",
}

SCHEMA = re.compile(r'(?:Document|JsonLines)\(\s*"(pocketvit\.[\w-]+)",\s*(\d+)')
SCHEMA_HEADING = re.compile(r"^## (pocketvit\.[\w-]+)$", re.MULTILINE)
PANEL = re.compile(r"^╭─+ (?P<title>.+?) ─*╮$")
UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMG]?B|[kM]|[µmn]?s|[µm]J|[kM]?FLOP|px)(?:\W|$))")
INTERVAL = re.compile(r"\[[-\d., ]+\]")
COMMAND = re.compile(r"^(?P<name>[a-z][a-z-]+)(?: {2,}|:|$)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the repository's root to the site."""
    pages = {
        "index.md": from_root("README.md"),
        "contributing.md": from_root("CONTRIBUTING.md"),
        "changelog.md": from_root("CHANGELOG.md"),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def from_root(name: str) -> str:
    """Returns a Markdown file of the repository's root, with its links into ``docs/`` made relative to the site."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for old, new in {"docs/": "", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}.items():
        text = text.replace(f"]({old}", f"]({new}")
    return text


def python_names() -> str:
    """Returns the list of public Python names, grouped by room; mkdocstrings fills in the docstrings."""
    pocketvit = import_module("pocketvit")
    lines = []
    found = {name: getattr(pocketvit, name) for name in pocketvit.__all__}
    for room, title in ROOMS.items():
        lines += ["", f"## {title}"]
        for name, thing in sorted(found.items()):
            if thing.__module__.split(".")[0] == room:
                lines += ["", f"::: {thing.__module__}.{thing.__name__}", "    options:"]
                lines += [f"      heading: pocketvit.{name}", f"      toc_label: {name}"]
                lines += settings_of(thing) if is_dataclass(thing) else []
    return "\n".join(lines) + "\n"


def settings_of(kind: type) -> list[str]:
    """Returns the fields of a settings dataclass that are options, with their descriptions and defaults."""
    options = import_module("pocketvit.options").options_of(kind)
    if not options:
        return []
    lines = ["      merge_init_into_class: false", "", "**Fields**", ""]
    for option in options.values():
        fields = ", ".join(code(".".join(path)) for path in option.paths)
        default = f" The default is {code(repr(option.default))}." if option.default not in (None, "", (), {}) else ""
        lines += [fields, f":   {escaped(option.help)}{default}", ""]
    return lines


def choices() -> str:
    """Returns the lists of everything that can be chosen by name, from the registries."""
    lines = []
    for title, address in REGISTRIES.items():
        module, _, name = address.rpartition(".")
        lines += ["", f"## {title}", "", f"`{address}`", "", "| name | |", "|---|---|"]
        for key, entry in getattr(import_module(module), name).items():
            form = getattr(entry, "form", None)
            lines.append(f"| {code(form if isinstance(form, str) else key)} | {explained(entry)} |")
    return "\n".join(lines) + "\n"


def explained(entry: object) -> str:
    """Returns what an entry of a registry says of itself, for a cell of a table."""
    text = getattr(entry, "summary", "") or getattr(entry, "title", "")
    if getattr(entry, "kinds", ()):
        text = "for " + ", ".join(code(kind) for kind in entry.kinds)
    suffix = getattr(entry, "suffix", "")
    return f"{text} {code(suffix)}".strip() if suffix else text


def code(text: str) -> str:
    """Returns text as code that may stand in a table."""
    return "`" + text.replace("|", "\\|") + "`"


def command_line() -> str:
    """Returns all commands, as ``pocketvit COMMAND --help`` prints them.

    Raises:
        PluginError: a command fails, or ``pocketvit --help`` lists none.
    """
    whole = help_of(())
    words: list[tuple[str, ...]] = [(name,) for name in commands_in(whole)]
    if not words:
        raise PluginError("docs/hooks.py finds no commands in what 'pocketvit --help' prints")
    lines = section((), whole, "##")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for word, text in zip(words, pool.map(help_of, words), strict=True):
            lines += section(word, text, "##")
            for name in commands_in(text):
                lines += section((*word, name), help_of((*word, name)), "###")
    return "\n".join(lines) + "\n"


def commands_in(text: str) -> list[str]:
    """Returns the names in the panel of commands of a help text."""
    panels = [lines for title, lines in panels_of(text) if title == "Commands"]
    matches = [COMMAND.match(line) for lines in panels for line in lines]
    return [match["name"] for match in matches if match]


def help_of(words: tuple[str, ...]) -> str:
    """Returns what ``pocketvit WORDS --help`` prints on a plain terminal of 100 columns."""
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "pocketvit", *words, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, encoding="utf-8", timeout=120)
    if done.returncode:
        raise PluginError(f"'pocketvit {' '.join(words)} --help' failed: {done.stderr.strip()}")
    return done.stdout.replace("python -m pocketvit", "pocketvit")


def panels_of(text: str) -> list[tuple[str, list[str]]]:
    """Splits a help text into the titles and lines of its panels; what stands before them has the title ``""``."""
    panels: list[tuple[str, list[str]]] = [("", [])]
    for line in map(str.rstrip, text.splitlines()):
        opened = PANEL.match(line)
        if opened:
            panels.append((opened["title"], []))
        elif line.startswith("│"):
            panels[-1][1].append(line.strip("│")[1:].rstrip())
        elif not line.startswith("╰"):
            panels[-1][1].append(line.strip())
    return panels


def section(words: tuple[str, ...], text: str, heading: str) -> list[str]:
    """Returns the Markdown of one command: usage, description, and a list for each panel of options."""
    (_, head), *panels = panels_of(text)
    usage, *description = [line for line in head if line]
    lines = [
        "",
        f"{heading} {' '.join(('pocketvit', *words))} {{#{'-'.join(words) or 'pocketvit'}}}",
        "",
        *description,
        "",
    ]
    lines += ["```text", usage.removeprefix("Usage:").strip(), "```"]
    for title, rows in panels:
        lines += ["", f"**{title}**", ""]
        for name, explanation in entries_of(rows):
            lines += [f"`{name}`", f":   {escaped(explanation)}", ""]
    return lines


def entries_of(rows: list[str]) -> list[tuple[str, str]]:
    """Splits a panel into names and explanations: two columns, of which either may go on in the next line."""
    starts = [gaps[-1].end() for row in rows if (gaps := list(re.finditer(r"(?:^|\S) {2,}(?=\S)", row)))]
    column = max(set(starts), key=starts.count) if starts else 0
    entries: list[tuple[str, str]] = []
    for row in rows:
        name, explanation = " ".join(row[:column].lstrip("* ").split()), row[column:].strip()
        if name and not row.startswith(" "):
            entries.append((name, explanation))
        elif entries:
            before = entries[-1]
            entries[-1] = f"{before[0]} {name}".strip(), f"{before[1]} {explanation}".strip()
    return entries


def escaped(text: str) -> str:
    """Returns plain text with the characters escaped that mean something in Markdown."""
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", text)


def schema_versions() -> dict[str, str]:
    """Returns the current version of every persisted schema, from the sources that state it."""
    sources = (path.read_text(encoding="utf-8") for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return dict(match for source in sources for match in SCHEMA.findall(source))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Completes a page: what the program generates, links to root files, versions of schemas, and unbroken numbers."""
    path = page.file.src_uri
    text = markdown + GENERATED[path]() if path in GENERATED else markdown
    for old, new in {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}.items():
        text = text.replace(f"](../../{old}", f"](../{new}")
    if path == "reference/formats.md":
        versions = schema_versions()
        text = SCHEMA_HEADING.sub(lambda found: f"{found[0]}\n\nSchema version {versions[found[1]]}.", text)
    return re.sub(r"(?m)^\|.*$", lambda row: unbroken(row[0]), text)


def unbroken(row: str) -> str:
    """Returns a row of a table whose numbers stay in one line with their units, and intervals in one line."""
    return INTERVAL.sub(lambda found: found[0].replace(" ", "\u00a0"), UNIT.sub("\u00a0", row))


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Refuses a page that loads a script, style or picture from the network.

    Raises:
        PluginError: the page loads one.
    """
    found = re.search(r"<(?:script|img)[^>]*src=\"https?:[^>]*>|<link[^>]*stylesheet[^>]*https?:[^>]*>", output)
    if found:
        raise PluginError(f"{page.file.src_uri} loads something from the network: {found[0]}")
    return output


GENERATED = {
    "reference/cli.md": command_line,
    "reference/api.md": python_names,
    "reference/choices.md": choices,
}
"""Functions that make the rest of a page, by its path."""
