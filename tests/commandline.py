"""A command as its user runs it, within the process of the tests."""


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
