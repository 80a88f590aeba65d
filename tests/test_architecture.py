"""The house: who may import whom, that nothing goes in circles, and how light the command line is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "piflow_cli"
FLOORS = {
    "errors": 0,
    "registry": 1,
    "io": 2,
    "core": 3,
    "metrics": 3,
    "objectives": 4,
    "teachers": 4,
    "policies": 4,
    "formats": 4,
    "data": 4,
    "preset": 5,
    "engine": 6,
    "cli": 7,
    "__main__": 8,
    "__init__": 8,
}
LEAVES = {"zoo": 6, "speed": 6}
"""Scripts a person runs: they may use what lies below the engine's floor or on it, and nobody imports them."""
ROOMS = {
    "students": set(),
    "processes": set(),
    "report": {"benchmark"},
    "pipelines": {"students"},
    "plan": {"processes"},
    "check": {"students"},
    "convert": {"students"},
    "sample": {"students", "pipelines", "processes"},
    "studio": {"students", "sample"},
    "benchmark": {"students", "sample", "processes"},
    "distill": {"students", "plan", "processes", "report"},
}
"""The rooms of the engine, and which others each may import: a verb builds on what verbs share, not on another verb."""
MAX_LINES, MAX_FILES = 300, 12
FILES = sorted(PACKAGE.rglob("*.py"))
FAMILY_NAMES = {"gmflow", "dx", "dit", "flux", "qwen", "arcflow", "pdd", "lakonlab"}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and module of every import of the package in a file, type-checking ones included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            if node.module == "piflow_cli":
                found += [(node.lineno, f"piflow_cli.{alias.name}") for alias in node.names if alias.name[0] != "_"]
            elif node.module:
                found.append((node.lineno, node.module))
    return found


def top_level_imports(path: Path) -> set[str]:
    """First names of the modules imported when the file itself is, outside functions and TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    here = room(path)
    floor = (FLOORS | LEAVES)[here]
    for line, module in imports(path):
        if not module.startswith("piflow_cli."):
            continue
        there = module.split(".")[1]
        if there == here:
            continue
        assert there not in LEAVES, f"{path}:{line} imports the leaf {module}"
        allowed = FLOORS[there] <= floor if here in LEAVES else FLOORS[there] < floor
        assert allowed, f"{path}:{line}: {here} (F{floor}) imports {module} (F{FLOORS[there]})"


@pytest.mark.parametrize("path", [p for p in FILES if room(p) == "core"], ids=lambda p: p.stem)
def test_core_is_torch_only_and_names_no_family(path: Path) -> None:
    heavy = {"diffusers", "transformers", "accelerate", "peft", "torchmetrics"}
    assert not top_level_imports(path) & heavy
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {n.id.lower() for n in ast.walk(tree) if isinstance(n, ast.Name)}
    names |= {n.name.lower() for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    assert not names & FAMILY_NAMES


@pytest.mark.parametrize("path", [p for p in FILES if room(p) == "cli"], ids=lambda p: p.stem)
def test_commands_import_late(path: Path) -> None:
    if path.stem != "reference":  # a script for maintainers, not a command
        assert not top_level_imports(path) & {"torch", "diffusers", "pydantic", "rich", "numpy", "PIL"}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["distill", "--help"], ["report", "--help"], ["ui", "--help"], ["presets", "list"]],
)
def test_light_commands_load_no_network_library(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['piflow', *{arguments!r}]\n"
        "from piflow_cli.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as exit:\n    assert not exit.code, exit.code\n"
        "loaded = {'torch', 'diffusers', 'transformers', 'accelerate', 'gradio'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_importing_the_package_is_light() -> None:
    code = "import sys, piflow_cli; assert not {'torch', 'pydantic', 'typer'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", [p for p in FILES if room(p) == "engine"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_of_the_engine(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[1]
    if path.name == "__init__.py" and here == path.name:
        assert not imports(path)
        return
    assert here in ROOMS, f"{path}: engine/ has no files of its own but rooms: {', '.join(ROOMS)}"
    for line, module in imports(path):
        there = module.split(".")[2:3] if module.startswith("piflow_cli.engine.") else []
        assert set(there) <= ROOMS[here] | {here}, f"{path}:{line}: engine/{here} imports {module}"


def test_families_of_a_floor_are_strangers() -> None:
    """No teacher imports a policy or a format, and so on: families meet in the engine."""
    families = {"teachers", "policies", "objectives", "formats", "data"}
    found = [
        f"{path}:{line} imports {module}"
        for path in FILES
        if room(path) in families
        for line, module in imports(path)
        if module.startswith("piflow_cli.") and module.split(".")[1] in families - {room(path)}
    ]
    assert found == []


def import_graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Which module of the package imports which, those for type checking and inside functions included."""
    modules = {}
    for path in package.rglob("*.py"):
        name = ".".join(("piflow_cli", *path.relative_to(package).with_suffix("").parts))
        modules[name.removesuffix(".__init__")] = path
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole in modules and modules[node.module].name == "__init__.py"
                graph[name].add(whole if is_module else node.module)
        graph[name] &= set(modules) - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Leaves that import nothing left are taken away until nothing is left; what stays is a circle, or leads to one."""
    while free := {name for name, imported in graph.items() if not imported & set(graph)}:
        graph = {name: imported for name, imported in graph.items() if name not in free}
    return sorted(graph)


def test_nothing_goes_in_circles() -> None:
    assert circles(import_graph()) == []


@pytest.mark.parametrize(
    "back",
    [
        "from piflow_cli.one import x",
        "import piflow_cli.one",
        "from piflow_cli import one",
        "if TYPE_CHECKING:\n    from piflow_cli.one import x",
        "def late():\n    from piflow_cli.one import x",
    ],
)
def test_circles_of_any_kind_are_found(back: str, tmp_path: Path) -> None:
    for name, text in {"__init__": "", "one": "from piflow_cli.two import y", "two": back, "three": ""}.items():
        (tmp_path / f"{name}.py").write_text(f"{text}\n")
    assert circles(import_graph(tmp_path)) == ["piflow_cli.one", "piflow_cli.two"]


def test_files_stay_readable() -> None:
    long = {str(p.relative_to(PACKAGE)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert {name: lines for name, lines in long.items() if lines > MAX_LINES} == {}


def test_folders_stay_small() -> None:
    files = [path for path in FILES if path.name != "__init__.py"]
    counts = {folder: len([p for p in files if p.parent == folder]) for folder in {p.parent for p in files}}
    assert {str(folder): count for folder, count in counts.items() if count > MAX_FILES} == {}
