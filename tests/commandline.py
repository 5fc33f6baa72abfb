"""A command as its user runs it, within the process of the tests; and what another process of less rights begins with."""

import os
import shutil

import pytest


def run(main, capsys, *words):
    """(exit code, lines of stdout, lines of stderr)."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stopped:
        code = stopped.code
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err.strip().splitlines()


def refused(main, capsys, *words):
    """The one line on stderr of a command that must refuse its input."""
    code, _, lines = run(main, capsys, *words)
    assert code == 2, lines
    assert len(lines) == 1, lines
    return lines[0]


def without_right_to(path):
    """The words before a command that may not read what has no permissions: who is root may, but for those rights given up.

    Skips the test where that can't be had.
    """
    if not os.access(path, os.R_OK):
        return []
    if not shutil.which("setpriv"):
        pytest.skip("needs a user who may not read everything, or setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
