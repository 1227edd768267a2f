import pytest

from ddrsapc.cli.app import run


@pytest.fixture
def command(capsys):
    """Run the command: exit code, what it printed, what it said of errors."""

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
