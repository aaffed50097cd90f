"""The folder a report is written to: refused, locked, cleared."""

import threading
import time

import pytest

from helpers.reports import SMALL_STUDY, write_report
from reproduce.errors import UserError
from reproduce.report import build, output_folder
from reproduce.results.run_collection import RunCollection


@pytest.mark.parametrize("foreign", ["mlflow.db", "notes.txt", ".git/config", "figure-1.txt"])
def test_a_directory_that_holds_anything_else_is_refused_and_left_as_it_was(store, paper, tmp_path, foreign):
    output = tmp_path / "mine"
    (output / foreign).parent.mkdir(parents=True)
    (output / foreign).write_text("keep me")
    (output / "report.md").write_text("and me")
    with pytest.raises(UserError, match="is no part of a report"):
        write_report(store, paper, output)
    assert ((output / foreign).read_text(), (output / "report.md").read_text()) == ("keep me", "and me")


def test_the_report_of_another_study_is_not_replaced_without_a_word(tmp_path, capsys):
    (tmp_path / "report.md").write_text("A report.\n")
    (tmp_path / "study.yaml").write_text("title: Two rates\n")
    output_folder.say_what_is_replaced(tmp_path, "Two rates")
    assert capsys.readouterr().err == ""
    output_folder.say_what_is_replaced(tmp_path, "Three rates")
    line = f"{tmp_path} holds the report of 'Two rates', which this one replaces; --output writes it elsewhere\n"
    assert capsys.readouterr().err == line
    for damaged in ("title: [", "- a\n"):
        (tmp_path / "study.yaml").write_text(damaged)
        output_folder.say_what_is_replaced(tmp_path, "Three rates")
    (tmp_path / "study.yaml").unlink()
    output_folder.say_what_is_replaced(tmp_path, "Three rates")
    assert capsys.readouterr().err == ""


def test_a_report_is_not_replaced_by_one_without_a_single_run(store, paper, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "report.md").write_text("keep me")
    with pytest.raises(UserError, match="holds a report, which is kept"):
        write_report(store, paper, tmp_path / "output")
    assert (tmp_path / "output" / "report.md").read_text() == "keep me"


def test_what_a_killed_report_had_begun_is_cleared_and_no_part_of_the_next(finished, paper, tmp_path):
    store, _, _ = finished
    output = tmp_path / "report"
    (output / output_folder.UNFINISHED).mkdir(parents=True)
    (output / output_folder.UNFINISHED / "figure-1.png").write_bytes(b"half")
    write_report(store, paper, output)
    assert not (output / output_folder.UNFINISHED).exists()
    assert (output / "index.html").is_file()


def test_a_report_that_another_command_writes_to_the_same_place_is_waited_for(finished, paper, tmp_path, monkeypatch):
    store, _, _ = finished
    output = tmp_path / "report"
    holding, seen = threading.Event(), []
    monkeypatch.setattr(output_folder, "say", seen.append)

    def hold():
        with output_folder.hold(output):
            holding.set()
            while not seen:
                time.sleep(0.01)

    other = threading.Thread(target=hold)
    other.start()
    holding.wait()
    kept = []
    collection = RunCollection(store.reader, paper, SMALL_STUDY, 0.9)
    build.write(collection, output, when_written=lambda written: kept.append(sorted(written.iterdir())))
    other.join()
    assert seen == [f"another command is writing a report to {output}; waiting for it, for up to 300 s"]
    assert kept == [sorted(output.iterdir())]


def test_a_report_that_somebody_else_goes_on_writing_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder, "LOCK_SECONDS", 1)
    with output_folder.hold(tmp_path), pytest.raises(UserError) as refused, output_folder.hold(tmp_path):
        pass
    assert str(refused.value) == (
        f"another command is writing a report to {tmp_path}, and has been for 1 s: end it if it is suspended"
    )


def test_a_folder_or_link_named_as_python_is_no_part_of_a_report(tmp_path):
    (tmp_path / "report.md").write_text("a report")
    (tmp_path / "index.html").write_text("its page")
    (tmp_path / "x.py").mkdir()
    with pytest.raises(UserError, match=r"holds 'x\.py', which is no part of a report"):
        output_folder.check_output(tmp_path)
    (tmp_path / "x.py").rmdir()
    (tmp_path / "y.py").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds 'y\.py', which is no part of a report"):
        output_folder.check_output(tmp_path)
