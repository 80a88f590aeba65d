"""Writes the pages of docs/ that the code itself says: `python -m piflow_cli.cli.reference [--check]`."""

import inspect
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from piflow_cli import registry
from piflow_cli.cli.app import app
from piflow_cli.io.presets import preset_headers
from piflow_cli.preset import FAMILIES, Preset

DOCS = Path(__file__).parents[2] / "docs"
NOTICE = "<!-- Written by `python -m piflow_cli.cli.reference`; do not edit. -->\n"


OFFERED = {
    "Students": ("piflow_cli.load_pipeline", "piflow_cli.engine.sample.open.open_student"),
    "Drawing": (
        "piflow_cli.engine.sample.sample",
        "piflow_cli.engine.sample.open.open_teacher",
        "piflow_cli.engine.sample.save.save_samples",
    ),
    "Distilling": (
        "piflow_cli.preset.load_preset",
        "piflow_cli.preset.changed_preset",
        "piflow_cli.engine.plan.plan.plan",
        "piflow_cli.engine.distill.distill",
        "piflow_cli.engine.report.runs.write_report",
    ),
    "Measuring": ("piflow_cli.engine.benchmark.benchmark",),
    "Converting": ("piflow_cli.engine.convert.convert", "piflow_cli.engine.convert.check.check"),
}
"""The functions that stay where they are."""


def cli_page() -> str:
    """docs/cli.md."""
    root = typer.main.get_command(app)
    lines = [NOTICE, "# Command line\n", root.help or "", ""]
    lines += [
        "Exit codes: 0 done, 1 a known error (one message), 2 usage. Results go to stdout, progress to stderr.",
        "",
    ]
    for name, command in root.commands.items():
        lines += _command_section(f"piflow {name}", command, depth=2)
    return "\n".join(lines).rstrip() + "\n"


def _command_section(path: str, command: Any, *, depth: int) -> list[str]:
    lines = [f"{'#' * depth} {path}", "", (command.help or "").strip(), ""]
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            lines += _command_section(f"{path} {name}", child, depth=depth + 1)
        return lines
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([path, *(p.metavar or p.name.upper() for p in arguments), "[OPTIONS]"])
    lines += ["```", usage, "```", "", "| option | meaning | default |", "|---|---|---|"]
    for parameter in command.params:
        lines.append(_parameter_row(parameter))
    if command.epilog:
        examples = textwrap.dedent(command.epilog.split("Examples:\n", 1)[1])
        lines += ["", "```console", examples, "```"]
    return [*lines, ""]


def _parameter_row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        if parameter.metavar:
            names += f" `{_cell(parameter.metavar)}`"
    default = (
        "required" if parameter.required else "" if parameter.default in (None, False) else f"`{parameter.default}`"
    )
    return f"| {names} | {_cell(getattr(parameter, 'help', None) or '')} | {default} |"


def presets_page() -> str:
    """docs/presets.md."""
    lines = [NOTICE, "# Presets\n"]
    lines += [
        "A preset is one TOML file. `--set key.path=value` changes a key, `--set key.path=` unsets it. A file with "
        '`extends = "flux-4nfe"` says only what differs from that preset; with another `type` of a table, or another '
        "`teacher.source`, what was said of the former one falls away.",
        "",
        "| command | what it does |",
        "|---|---|",
        "| `piflow presets list` | names, what each expects and needs |",
        "| `piflow presets show NAME` | every key resolved, with its meaning, under where teacher and data are had |",
        "| `piflow presets new FILE --from NAME --teacher FOLDER` | writes one for your teacher: sizes, guidance, "
        "length of prompts, LoRA rank and targets, what the network predicts, each with the reason |",
        "| `piflow presets check FILE` | names every problem with its full key path, and what is allowed |",
        "",
    ]
    lines += ["| preset | teacher | what | expected | needs |", "|---|---|---|---|---|"]
    for header in preset_headers():
        words = (header.summary, header.expected, header.needs)
        lines.append(f"| `{header.name}` | `{header.family}` | {' | '.join(words)} |")
    lines += ["", "## Keys", "", *_key_rows(Preset, "")]
    for key, field in Preset.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and key not in FAMILIES:
            lines += [f"### [{key}]", "", *_key_rows(field.annotation, f"{key}.")]
    for kind in FAMILIES:
        for name in registry.names(kind):
            family = registry.resolve(kind, name)
            title = f'### [{kind}] with `type = "{name}"`'
            lines += [title, "", (family.__doc__ or "").strip(), "", *_key_rows(family, f"{kind}.")]
    return "\n".join(lines).rstrip() + "\n"


def python_page() -> str:
    """docs/python.md."""
    lines = [NOTICE, "# Python\n"]
    lines += [
        "What the commands do, as functions. They return values and raise subclasses of "
        "`piflow_cli.errors.PiflowError`, whose message says what to do; nothing is printed. These names stay where "
        "they are.",
        "",
    ]
    for title, names in OFFERED.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += _function_section(name)
    return "\n".join(lines).rstrip() + "\n"


def _function_section(path: str) -> list[str]:
    """Name, signature and docstring of a function, its arguments as a list."""
    module, name = path.rsplit(".", 1)
    function = getattr(import_module(module), name)
    parameters = inspect.signature(function).parameters.values()
    shown = [f"    {_parameter(parameter)}," for parameter in parameters]
    starred = [i for i, parameter in enumerate(parameters) if parameter.kind is parameter.KEYWORD_ONLY]
    if starred:
        shown.insert(starred[0], "    *,")
    lines = [f"### {name}", "", "```python", f"from {module} import {name}", "", f"{name}(", *shown, ")", "```", ""]
    return [*lines, *_docstring(inspect.getdoc(function) or ""), ""]


def _parameter(parameter: inspect.Parameter) -> str:
    """A parameter as it is written in code; defaults that have no short form are left out."""
    plain = parameter.replace(annotation=parameter.empty)
    annotation = parameter.annotation
    said = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    name, _, default = str(plain).partition("=")
    short = "..." if re.search(r"<.* at 0x[0-9a-f]+>", default) else default
    return f"{name}: {said}" + (f" = {short}" if default else "")


def _docstring(text: str) -> list[str]:
    """A docstring of this project as Markdown: its sections as lists of bold names."""
    lines: list[str] = []
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Raises|Returns|Yields|Source):.*", line):
            lines += [f"**{line.split(':')[0]}**{line.split(':', 1)[1]}", ""]
        elif found := re.fullmatch(r"    (\w[\w, ]*): (.*)", line):
            lines.append(f"- `{found[1]}`: {found[2]}")
        elif line.startswith("        "):
            lines.append("  " + line.strip())
        else:
            lines.append(line.strip())
    return lines


def _key_rows(model: type[BaseModel], prefix: str) -> list[str]:
    """A table of a settings class's own keys."""
    rows = []
    for key, schema in model.model_json_schema()["properties"].items():
        field = model.model_fields[key]
        if not field.description:
            continue
        default = "required" if field.is_required() else f"`{field.default!r}`"
        rows.append(f"| `{prefix}{key}` | {_cell(field.description)} | {_allowed(schema)} | {default} |")
    return ["| key | meaning | allowed | default |", "|---|---|---|---|", *rows, ""] if rows else []


def _allowed(schema: dict) -> str:
    """What a key takes, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(filter(None, (_allowed(option) for option in schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    kind = {"null": "unset", "array": "list"}.get(schema.get("type", ""), schema.get("type", ""))
    return " ".join([kind, ", ".join(bounds)]).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {"cli.md": cli_page, "presets.md": presets_page, "python.md": python_page}


def main() -> int:
    """Write the pages, or with --check say which are stale; returns the exit code."""
    stale = [name for name, page in PAGES.items() if not _is_fresh(DOCS / name, page())]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"docs/{name} is stale; run python -m piflow_cli.cli.reference", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"docs/{name}")
    return 0


def _is_fresh(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
