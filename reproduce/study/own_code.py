"""A study's own Python: read from its folder, hashed by what it does, and loaded from its text on any machine.

It runs with all the rights of the user who typed the command; docs/security.md says what that means.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from reproduce.errors import UserError, nearest
from reproduce.study.text_file import UnreadableError, read_text

# A class or function in a file of the study's folder: network.py:Net.
REFERENCE = r"^[A-Za-z_]\w*\.py:[A-Za-z_]\w*$"
# What a module of a study has, to tell its lines from ours.
MARK = "__reproduce_study__"
# What a study's own code may raise: anything, and it may try to end the program.
FAILURES = (Exception, SystemExit)


class OwnCodeError(Exception):
    """What is wrong with a study's own Python, with its file and line where they are known."""


@dataclass(frozen=True)
class OwnCode:
    """The Python files of a study that its study.yaml names, and those beside them that these import, as text."""

    files: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, folder: Path, references: Iterable[str]) -> OwnCode:
        """Read the files that references name, and what they import of the same folder.

        OwnCodeError where one cannot be read, or is not Python.
        """
        files = [reference.partition(":")[0] for reference in references]

        def source_of(name: str) -> str | None:
            if name not in files and not (folder / name).is_file():
                return None
            text = _read(folder / name)
            _refuse_folders(folder, name, text)
            return text

        return cls(tuple(sorted(_reach(files, source_of).items())))

    def sha256(self, reference: str) -> str:
        """Return the SHA-256 of what a reference's code does: its file and what that imports of the study.

        Comments, docstrings and layout do not count.
        """
        used = self._used([reference])
        content = [reference.partition(":")[2]]
        content += [f"{name}\n{_dump(without_docstrings(used[name]))}" for name in sorted(used)]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    def _used(self, references: Iterable[str]) -> dict[str, str]:
        """Return the files that the code of references is in, and those that it imports."""
        return _reach([reference.partition(":")[0] for reference in references], dict(self.files).get)

    def packages(self, references: Iterable[str]) -> set[str]:
        """Return the modules that the code of references imports and that are neither Python's nor the study's."""
        sources = dict(self.files)
        found = {module for source in self._used(references).values() for module in _modules(source)}
        own = {name for name in found if f"{name}.py" in sources and not _is_installed(name)}
        return found - own - sys.stdlib_module_names

    def load(self, reference: str) -> Any:
        """Return the class or function that a reference names. OwnCodeError where its file fails or has none."""
        file, _, name = reference.partition(":")
        with run_own():
            _FILES.use(self)
            module = _FILES.module(file.removesuffix(".py"))
        found = getattr(module, name, None)
        if not callable(found):
            others = [key for key, value in vars(module).items() if callable(value) and not key.startswith("__")]
            raise OwnCodeError(f"{file} has no class or function {name}{nearest(name, others)}")
        return found


# A study without Python of its own.
NO_CODE = OwnCode()


def pass_signal_on(error: BaseException) -> None:
    """Raise an error again that is a signal's, which may come while a study's own code runs.

    Ray raises a plain SystemExit with a mark of its own.
    """
    is_plain = type(error) is SystemExit and not hasattr(error, "ray_terminate_msg")
    if isinstance(error, SystemExit) and not is_plain:
        raise error


@contextmanager
def run_own() -> Iterator[None]:
    """Raise OwnCodeError for what a study's own code raises in the block; errors that say what is wrong stay."""
    try:
        yield
    except (OwnCodeError, UserError):
        raise
    except FAILURES as error:
        pass_signal_on(error)
        raise OwnCodeError(describe(error)) from error


def describe(error: BaseException) -> str:
    """Return in one line what went wrong in a study's own code: its last line that was reached, and the error."""
    if isinstance(error, OwnCodeError):
        return str(error)
    said = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    place = own_line(error)
    return f"{f'{place}: ' if place else ''}{type(error).__name__}: {said}"


def own_line(error: BaseException) -> str | None:
    """Return the last line of a study's own code that an error passed through, as network.py:12; None without one."""
    found = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if MARK in frame.f_globals
    ]
    return found[-1] if found else None


def without_docstrings(source: str) -> ast.Module:
    """Return the syntax tree of a Python source without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def _dump(node: object) -> str:
    """Return a syntax tree as text that is the same in every Python: newer ones have more fields, which are empty."""
    if isinstance(node, ast.AST):
        given = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(f'{name}={_dump(value)}' for name, value in given)})"
    return f"[{', '.join(map(_dump, node))}]" if isinstance(node, list) else repr(node)


def _read(path: Path) -> str:
    try:
        text = read_text(path)
        _dump(without_docstrings(text))
    except UnreadableError as error:
        raise OwnCodeError(str(error)) from error
    except SyntaxError as error:
        raise OwnCodeError(f"{path}:{error.lineno}: {error.msg}") from error
    # A zero byte, or an expression that is nested too deeply.
    except (ValueError, RecursionError, MemoryError) as error:
        raise OwnCodeError(f"{path} is no Python: {error}") from error
    return text


def _reach(files: Iterable[str], source_of: Callable[[str], str | None]) -> dict[str, str]:
    """Return the sources of files, and of those beside them that these import, by their names."""
    found: dict[str, str] = {}
    waiting = list(files)
    while waiting:
        name = waiting.pop()
        if name not in found and (source := source_of(name)) is not None:
            found[name] = source
            waiting += [f"{module}.py" for module in _modules(source)]
    return found


def _modules(source: str) -> set[str]:
    """Return the modules that a source imports, without what is inside of them."""

    def names() -> Iterator[str]:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module

    return {name.partition(".")[0] for name in names()}


def _refuse_folders(folder: Path, name: str, source: str) -> None:
    """OwnCodeError where a file imports of a folder beside it, whose code would be neither kept nor hashed."""
    tree = ast.parse(source)
    if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)):
        raise OwnCodeError(f"{name} has a relative import, as from . import blocks: write import blocks")
    for module in sorted(_modules(source)):
        inside = folder / module
        is_file = (folder / f"{module}.py").is_file()
        if not is_file and inside.is_dir() and any(inside.glob("**/*.py")) and not _is_installed(module):
            raise OwnCodeError(
                f"{name} imports {module}, which is a folder; expected a file: a study's Python stands beside its "
                "study.yaml"
            )


class _Files(Loader, MetaPathFinder):
    """The modules of each study's files, each run once, and an importer of those of the study in use.

    It shadows no installed package. Whatever has the same name in the current directory, where `python -m` looks first,
    is not imported in a file's place: that may be the study's own folder.
    """

    def __init__(self) -> None:
        self.code = OwnCode()
        self.modules: dict[OwnCode, dict[str, ModuleType]] = {}

    def use(self, code: OwnCode) -> None:
        """Import from that study's files from now on."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        if code == self.code:
            return
        for name, module in self._names(self.code).items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        self.code = code
        # A name that another module has by now stays that one's.
        for name, module in self._names(code).items():
            sys.modules.setdefault(name, module)

    def _names(self, code: OwnCode) -> dict[str, ModuleType]:
        """Return the names of a study's modules in `sys.modules`: each by its own name, and as what it is imported."""
        modules = self.modules.get(code, {})
        imported = {name: module for name, module in modules.items() if not _is_installed(name)}
        return {module.__name__: module for module in modules.values()} | imported

    def module(self, name: str) -> ModuleType:
        """Return a module of the study in use, run if it was not yet; half run to those that it imports itself."""
        modules = self.modules.setdefault(self.code, {})
        if name not in modules:
            before = list(modules)
            # Without a dot, as no package is there to be imported first, by pickle say.
            module = modules[name] = ModuleType(f"{MARK}{name}")
            # Classes that are defined there look their module up, to be copied say.
            sys.modules[module.__name__] = module
            try:
                _execute(self.code, f"{name}.py", module)
            except BaseException:
                # Those that it imported may hold it half run.
                for each in [each for each in modules if each not in before]:
                    dead = modules.pop(each)
                    for key in [key for key, value in sys.modules.items() if value is dead]:
                        del sys.modules[key]
                raise
        return modules[name]

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return where a module is, if it is one of the study's files."""
        if f"{name}.py" not in dict(self.code.files) or _is_installed(name):
            return None
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of the module to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the study's module in the place of the one that Python made."""
        sys.modules[module.__name__] = self.module(module.__name__)


def _is_installed(name: str) -> bool:
    """Return whether a module of that name is part of Python, or is found anywhere but in the current directory."""
    here = Path.cwd().resolve()
    elsewhere = [place for place in sys.path if place and Path(place).resolve() != here]
    found = PathFinder.find_spec(name, elsewhere)
    # A folder without code is a package too, to Python.
    return name in sys.stdlib_module_names or (found is not None and found.loader is not None and found.has_location)


_FILES = _Files()


def _execute(code: OwnCode, file: str, module: ModuleType) -> None:
    source = dict(code.files).get(file)
    if source is None:
        raise OwnCodeError(f"the study has no {file}")
    setattr(module, MARK, file)
    exec(compile(source, file, "exec"), module.__dict__)
