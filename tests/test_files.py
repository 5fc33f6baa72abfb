import os
import subprocess
import sys

import pytest

from fer_keras import files
from fer_keras.errors import ConfigError


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    files.write_whole(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


def test_a_file_with_the_longest_name_that_there_can_be_is_written(tmp_path):
    names = ["ü" * 125 + end for end in (".txt", ".jpg")]  # 254 bytes
    with files.writing_whole(tmp_path / names[0], text=True) as one, files.writing_whole(tmp_path / names[1], text=True) as other:
        one.write("one")
        other.write("other")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict(zip(names, ("one", "other"), strict=True))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("length", [10, 10**6])
def test_a_file_that_finds_no_room_is_named_and_is_not_blamed_for_another(tmp_path, length):
    target, part = tmp_path / "a.txt", tmp_path / f"a.txt.{os.getpid()}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as told:
        files.write_whole(target, "x" * length)
    assert told.value.filename == str(target)
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as told, files.writing_whole(target, text=True) as file:
        file.write("x")
        with open("/dev/full", "w") as other:
            other.write("x" * length)
    assert told.value.filename is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["data set", "model"])
def test_a_link_to_a_folder_stays_one_and_that_folder_is_replaced(tmp_path, kind):
    from fer_keras.data.dataset import DatasetWriter
    from fer_keras.models.exported import export_model
    from fer_keras.models.registry import ModelSpec

    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big", target_is_directory=True)
    if kind == "model":
        spec = ModelSpec("cnn", 2, 8, 1, {"layers": [4]})
        for overwrite in (False, True):
            export_model(spec.build(), spec, tmp_path / "link", {"labels": ["a", "b"], "trained_on": "noise"}, overwrite)
        assert (tmp_path / "big" / "metadata.json").is_file()
    else:
        for overwrite in (False, True):
            with DatasetWriter(tmp_path / "link", image_size=8, channels=1, overwrite=overwrite) as writer:
                writer.add(None)
                columns = {"label": ["a"], "split": ["train"], "kept": [True], "reason": [""], "source": [""]}
                writer.finish(columns, labels=["a", "b"])
        assert (tmp_path / "big" / "dataset.json").is_file()
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "link"]


BUILDING = """
import sys
from fer_keras.files import whole_folder
with whole_folder(sys.argv[1], overwrite=True) as folder:
    (folder / "theirs").touch()
    print("building", flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_a_killed_process_was_building_goes_with_the_next_and_that_of_a_live_one_stays(tmp_path):
    target, words = tmp_path / "model", [sys.executable, "-c", BUILDING, str(tmp_path / "model")]
    killed, live = (subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2))
    with killed, live:
        assert (killed.stdout.readline(), live.stdout.readline()) == (b"building\n", b"building\n")
        killed.kill()
        killed.wait()
        (tmp_path / ".model.1.old").mkdir()  # of one that was killed when it was done
        (tmp_path / ".model.v2.1.part").mkdir()  # of another model
        assert (tmp_path / f".model.{killed.pid}.part").is_dir()
        with files.whole_folder(target) as folder:
            (folder / "ours").touch()
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"model", f".model.{live.pid}.part", f".model.{live.pid}.lock", ".model.1.old", ".model.v2.1.part"}
        live.communicate()
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.v2.1.part"}
    assert [path.name for path in target.iterdir()] == ["theirs"]


def test_no_file_takes_the_place_of_a_pipe_or_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is a device or a pipe; name a file"):
        files.write_whole(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        files.write_whole(tmp_path, "x")
    with pytest.raises(ConfigError, match="/dev/stdout is a device or a pipe"):  # whatever it leads to just now
        files.file_to_write("/dev/stdout")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="can't be written: .*file is no folder"):
        files.write_whole(tmp_path / "file" / "below.txt", "x")


@pytest.mark.skipif(os.name == "nt", reason="pipes of Windows break otherwise")
def test_who_stops_reading_the_lines_still_gets_the_files(tmp_path):
    code = (
        "from fer_keras import cli, files\n"
        "def command(args):\n"
        "    for number in range(20000):\n"
        "        print('line', number, flush=True)\n"
        f"    files.write_whole({str(tmp_path / 'made.txt')!r}, 'whole')\n"
        "raise SystemExit(cli.run(command, cli.CommandParser(), []))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"line 0\n"
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""
    assert (tmp_path / "made.txt").read_text() == "whole"


def test_what_the_console_can_not_write_is_written_otherwise(tmp_path):
    code = "from fer_keras import cli\nraise SystemExit(cli.run(lambda args: print('\u4f1a.png'), cli.CommandParser(), []))"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\u4f1a.png\n", b"")
