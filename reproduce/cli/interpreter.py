"""Have Python as this package needs it: whose modules it finds, how it reads text, what it does about warnings.

Python's variables and flags are the user's. What would only mislead is set aside; what cannot work is named.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec

from reproduce.errors import UserError, shown

# What this package imports, wherever in it, and what Colossal-AI cannot do without.
PACKAGES = (
    "PIL", "click", "colossalai", "filelock", "jinja2", "joblib", "markupsafe", "matplotlib", "mlflow", "numpy",
    "pandas", "psutil", "pydantic", "pydantic_core", "ray", "requests", "rocrate", "safetensors", "scipy", "sklearn",
    "sqlalchemy", "tenacity", "torch", "torchvision", "tqdm", "transformers", "yaml",
)  # fmt: skip
# The Pythons that all of them have, as pyproject.toml says.
OLDEST, NEWEST = (3, 10), (3, 12)
MODULE_ENDINGS = (".py", ".pyc", ".so")
INSTALLED_ENDINGS = (".dist-info", ".egg-info")
# Python itself ignores these by default.
UNSAID = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def check_system() -> None:
    """Refuse another operating system and another Python than the libraries are made for. UserError names both."""
    if sys.platform != "linux":
        raise UserError("this needs Linux; on another system use the container: docs/container.md")
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found, oldest, newest = (".".join(map(str, version[:2])) for version in (sys.version_info, OLDEST, NEWEST))
        raise UserError(f"this is Python {found}, and the study's libraries need {oldest} to {newest}: type make env")


def check_names() -> None:
    """Refuse a file that an import would take for a library or for a module of Python's own. UserError names it."""
    for folder in _searched_first():
        for name, path in _modules(folder):
            if (name in PACKAGES or name in sys.stdlib_module_names) and _is_taken(name, path):
                whose = f"the package {name}" if name in PACKAGES else f"Python's own module {name}"
                raise UserError(f"{path} would be imported in place of {whose}: rename it, or {_without(folder)}")


def _searched_first() -> list[str]:
    """List the folders before Python's own: the current one under `python -m`, and those of PYTHONPATH."""
    own = os.path.dirname(os.__file__)
    return sys.path[: sys.path.index(own)] if own in sys.path else []


def _modules(folder: str) -> Iterator[tuple[str, str]]:
    """List a folder's modules, by name and path; none of a folder that packages were installed into."""
    try:
        entries = sorted(os.listdir(folder or "."))
    # The folder does not exist, or is an archive.
    except OSError:
        return
    if any(entry.endswith(INSTALLED_ENDINGS) for entry in entries):
        return
    for entry in entries:
        path = os.path.abspath(os.path.join(folder, entry))
        if entry.endswith(MODULE_ENDINGS) or os.path.isfile(os.path.join(path, "__init__.py")):
            yield entry.partition(".")[0], path


def _is_taken(name: str, path: str) -> bool:
    """Return whether an import of that name takes that file: some modules are within Python, or imported already."""
    try:
        found = find_spec(name)
    except (ImportError, ValueError):
        return False
    origin = found.origin if found else None
    return origin is not None and os.path.abspath(origin) in (path, os.path.join(path, "__init__.py"))


def _without(folder: str) -> str:
    named = os.environ.get("PYTHONPATH")
    if named and os.path.abspath(folder) in map(os.path.abspath, named.split(os.pathsep)):
        return f"remove {folder} from PYTHONPATH"
    return "start reproduce from another folder"


def read_text_as_utf8() -> None:
    """Start this command again in Python's UTF-8 mode, where its encoding has no letters beyond ASCII.

    Python does so itself in such a locale, unless its variables forbid it; but nothing could record a path with other
    letters. Encodings that have letters stay.
    """
    # This flag comes before the user's own flags.
    flags = ["-X", "utf8"]
    if sys.getfilesystemencoding() != "ascii" or sys.orig_argv[1:3] == flags or not sys.executable:
        return
    # This is for the programs that this process starts.
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *flags, *sys.orig_argv[1:]])


def settle() -> None:
    """Set aside what the user has set that would only stop a library. UserError where the docstrings are missing."""
    if sys.flags.optimize > 1:
        raise UserError(
            "Python runs without docstrings, and transformers, which Colossal-AI imports, cannot be imported then: "
            f"{_with_docstrings()}"
        )
    # Colossal-AI imports PyTorch's compiler, which starts a process for each core: they would be there in every worker,
    # print a traceback each where Ctrl-C ends them, and compile nothing.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # Otherwise a program that is started with -m would look for modules in the current folder.
    os.environ["PYTHONSAFEPATH"] = "1"
    # Libraries warn of many things that work, so a warning must not become an error.
    if any(action == "error" for action, *_ in warnings.filters):
        sys.warnoptions.clear()
        os.environ.pop("PYTHONWARNINGS", None)
        warnings.resetwarnings()
        for category in UNSAID:
            warnings.simplefilter("ignore", category)


def _with_docstrings() -> str:
    named = os.environ.get("PYTHONOPTIMIZE", "")
    if named.isdecimal() and int(named) > 1 and not sys.flags.ignore_environment:
        return f"PYTHONOPTIMIZE is {shown(named)}, unset it"
    return "leave out -OO"
