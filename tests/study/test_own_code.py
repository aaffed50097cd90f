"""A study's own Python: read with what it imports, hashed by what it does, loaded from its text, its errors placed."""

import multiprocessing
import os
import pickle
import sys

import pytest

from reproduce.cli import process
from reproduce.study.own_code import OwnCode, OwnCodeError, describe, own_line

NETWORK = '''\
"""A network."""
from layers import double


class Net:
    def __init__(self, size):
        self.size = double(size)

    def broken(self):
        return missing_name
'''
LAYERS = "def double(size):\n    return 2 * size\n"
UNUSED = "x = 1\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "layers.py").write_text(LAYERS)
    (tmp_path / "unused.py").write_text(UNUSED)
    return tmp_path


@pytest.fixture
def code(folder):
    return OwnCode.read(folder, ["network.py:Net"])


def test_what_a_file_imports_of_the_folder_is_read_with_it_and_nothing_else(code):
    assert code.files == (("layers.py", LAYERS), ("network.py", NETWORK))


def test_it_is_loaded_from_its_text_in_whatever_process(code, folder):
    for name in ("network.py", "layers.py"):
        (folder / name).unlink()
    assert pickle.loads(pickle.dumps(code)).load("network.py:Net")(3).size == 6


def test_of_two_studies_each_imports_its_own_files(code, folder):
    (folder / "layers.py").write_text("def double(size):\n    return 20 * size\n")
    other = OwnCode.read(folder, ["network.py:Net"])
    assert (code.load("network.py:Net")(3).size, other.load("network.py:Net")(3).size) == (6, 60)
    assert code.load("network.py:Net")(3).size == 6


def test_what_a_function_imports_when_it_is_called_is_of_its_own_study_too(folder):
    (folder / "network.py").write_text("def doubled(size):\n    from layers import double\n\n    return double(size)\n")
    code = OwnCode.read(folder, ["network.py:doubled"])
    (folder / "layers.py").write_text("def double(size):\n    return 20 * size\n")
    other = OwnCode.read(folder, ["network.py:doubled"])
    assert [each.load("network.py:doubled")(3) for each in (code, other, code, other)] == [6, 60, 6, 60]


def test_a_file_that_is_named_and_imported_is_run_once(folder):
    (folder / "losses.py").write_text("import network\n\n\ndef made_by():\n    return network.Net\n")
    code = OwnCode.read(folder, ["network.py:Net", "losses.py:made_by"])
    assert code.load("losses.py:made_by")() is code.load("network.py:Net")


def test_files_that_import_each_other_are_loaded_as_by_python(folder):
    (folder / "layers.py").write_text(
        "import network\n\n\ndef double(size):\n    return 2 * size + (network is None)\n"
    )
    code = OwnCode.read(folder, ["network.py:Net"])
    assert code.load("network.py:Net")(3).size == 6


def test_of_files_that_import_each_other_none_is_kept_half_run(folder):
    (folder / "layers.py").write_text("import network\nimport os\n\nos.environ['A_STUDY_NEEDS_THIS']\n")
    code = OwnCode.read(folder, ["network.py:Net"])
    with pytest.raises(OwnCodeError, match="A_STUDY_NEEDS_THIS"):
        code.load("network.py:Net")
    assert {"network", "layers"}.isdisjoint(sys.modules)


def test_a_file_beside_a_folder_of_its_name_is_what_is_imported(folder):
    (folder / "layers").mkdir()
    (folder / "layers" / "more.py").write_text("")
    assert OwnCode.read(folder, ["network.py:Net"]).load("network.py:Net")(3).size == 6


def test_functions_of_a_study_can_be_sent_to_a_process_that_is_forked(code):
    double = sys.modules[code.load("network.py:Net").__module__].double
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(double, [1, 2]) == [2, 4]


def test_a_file_that_failed_is_run_again(folder):
    (folder / "layers.py").write_text(
        "import os\n\nos.environ['A_STUDY_NEEDS_THIS']\n\n\ndef double(x):\n    return x\n"
    )
    code = OwnCode.read(folder, ["network.py:Net"])
    with pytest.raises(OwnCodeError, match=r"layers\.py:3: KeyError"):
        code.load("network.py:Net")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_STUDY_NEEDS_THIS", "1")
        assert code.load("network.py:Net")(3).size == 3


def test_the_packages_that_code_imports_are_those_of_its_references(folder):
    (folder / "layers.py").write_text(
        "import math, scipy.special\nfrom torch import nn\n\n\ndef double(x):\n    return x\n"
    )
    (folder / "measures.py").write_text("import pandas\n\n\ndef most(epochs):\n    return 1\n")
    code = OwnCode.read(folder, ["network.py:Net", "measures.py:most"])
    assert code.packages(["network.py:Net"]) == {"scipy", "torch"}
    assert code.packages(["measures.py:most"]) == {"pandas"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import blocks", "network.py imports blocks, which is a folder; expected a file: a study's Python stands "
         "beside its study.yaml"),
        ("from blocks.deep import layer", "network.py imports blocks, which is a folder; expected a file: a study's "
         "Python stands beside its study.yaml"),
        ("from . import layers", "network.py has a relative import, as from . import blocks: write import blocks"),
    ],
)  # fmt: skip
def test_code_in_a_folder_is_refused_as_it_would_not_be_kept(folder, line, said):
    (folder / "blocks").mkdir()
    (folder / "blocks" / "deep.py").write_text("layer = None\n")
    (folder / "network.py").write_text(f"{line}\n")
    with pytest.raises(OwnCodeError) as error:
        OwnCode.read(folder, ["network.py:Net"])
    assert str(error.value) == said


def test_a_file_named_as_a_package_shadows_none(folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "tabnanny", raising=False)  # which nothing here imports
    (folder / "tabnanny.py").write_text("check = None\n")
    (folder / "network.py").write_text("import tabnanny\n\n\ndef checks():\n    return callable(tabnanny.check)\n")
    assert OwnCode.read(folder, ["network.py:checks"]).load("network.py:checks")()


@pytest.mark.parametrize("beside", ["layers.py", "layers/network.py"])
def test_nothing_in_the_current_directory_is_imported_in_its_place(folder, tmp_path_factory, monkeypatch, beside):
    here = tmp_path_factory.mktemp("here")
    (here / beside).parent.mkdir(exist_ok=True)
    (here / beside).write_text("def double(size):\n    return 0\n")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)  # as by python -m
    assert OwnCode.read(folder, ["network.py:Net"]).load("network.py:Net")(3).size == 6


@pytest.mark.parametrize(
    ("file", "before", "after", "is_same"),
    [
        ("network.py", '"""A network."""', '"""The network."""  # of the paper', True),
        ("network.py", "double(size)", "double(size + 1)", False),
        ("layers.py", "2 * size", "3 * size", False),
        ("layers.py", "return", "# twice\n    return", True),
        ("unused.py", "1", "2", True),
    ],
)
def test_its_hash_changes_with_what_it_does(code, folder, file, before, after, is_same):
    text = (folder / file).read_text()
    assert text.count(before) == 1
    (folder / file).write_text(text.replace(before, after))
    changed = OwnCode.read(folder, ["network.py:Net"])
    assert (changed.sha256("network.py:Net") == code.sha256("network.py:Net")) == is_same


def test_two_classes_of_one_file_have_two_hashes_and_another_files_code_does_not_count(folder):
    (folder / "losses.py").write_text("def loss(a, b):\n    return 0\n")
    code = OwnCode.read(folder, ["network.py:Net", "losses.py:loss"])
    assert code.sha256("network.py:Net") == OwnCode.read(folder, ["network.py:Net"]).sha256("network.py:Net")
    assert code.sha256("network.py:Net") != code.sha256("network.py:Other")


def test_an_error_is_told_by_the_last_line_of_the_study(code):
    with pytest.raises(NameError) as raised:
        code.load("network.py:Net")(1).broken()
    assert own_line(raised.value) == "network.py:10"
    assert describe(raised.value) == "network.py:10: NameError: name 'missing_name' is not defined"
    assert own_line(ValueError("ours")) is None
    assert describe(ValueError()) == "ValueError: no reason given"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"def f(:\n", "{path}:1: invalid syntax"),
        (b"x = 1\ny = '\xff'\n", "{path}:2: is not UTF-8 from byte 0xff on"),
        (b"#" * (2**20 + 1), "{path} is larger than 1048576 bytes"),
        (None, "{path} cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_no_python_is_one_line(tmp_path, content, said):
    path = tmp_path / "network.py"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OwnCodeError) as refused:
        OwnCode.read(tmp_path, ["network.py:Net"])
    assert str(refused.value) == said.format(path=path)


@pytest.mark.parametrize(
    ("source", "reference", "said"),
    [
        ("x = 1\n", "network.py:Net", "network.py has no class or function Net"),
        ("class Nets: pass\n", "network.py:Net", "network.py has no class or function Net, did you mean Nets?"),
        ("Net = 3\n", "network.py:Net", "network.py has no class or function Net"),
        ("import no_such_package\n", "network.py:Net",
         "network.py:1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("import sys\n\nsys.exit(3)\n", "network.py:Net", "network.py:3: SystemExit: 3"),
        ("x = 1\nraise SystemError('at\\nonce')\n", "network.py:Net", "network.py:2: SystemError: at once"),
    ],
)  # fmt: skip
def test_code_that_cannot_be_loaded_is_one_line(tmp_path, source, reference, said):
    (tmp_path / "network.py").write_text(source)
    with pytest.raises(OwnCodeError) as refused:
        OwnCode.read(tmp_path, [reference]).load(reference)
    assert str(refused.value) == said


def test_an_expression_that_is_nested_too_deeply_is_one_line(tmp_path):
    (tmp_path / "network.py").write_text("x = " + " + ".join(["1"] * 5000) + "\n")
    with pytest.raises(OwnCodeError, match=r"network\.py is no Python: "):
        OwnCode.read(tmp_path, ["network.py:x"])


def test_no_pipe_is_waited_at(tmp_path):
    os.mkfifo(tmp_path / "network.py")
    with pytest.raises(OwnCodeError, match=r"network\.py is no file"):
        OwnCode.read(tmp_path, ["network.py:Net"])


@pytest.mark.parametrize("stop", [SystemExit, process.Terminated])
def test_code_that_ends_the_program_has_failed_and_a_signal_meanwhile_is_a_signal(tmp_path, stop):
    name = "SystemExit(3)" if stop is SystemExit else "process.Terminated"
    (tmp_path / "data.py").write_text(f"from reproduce.cli import process\n\nraise {name}\n")
    with pytest.raises(OwnCodeError if stop is SystemExit else stop) as error:
        OwnCode.read(tmp_path, ["data.py:load"]).load("data.py:load")
    if stop is SystemExit:
        assert str(error.value) == "data.py:3: SystemExit: 3"


def test_what_ray_ends_a_worker_with_is_no_failure_of_the_code_that_runs(tmp_path):
    (tmp_path / "data.py").write_text("error = SystemExit(1)\nerror.ray_terminate_msg = 'a signal'\nraise error\n")
    with pytest.raises(SystemExit):
        OwnCode.read(tmp_path, ["data.py:load"]).load("data.py:load")
