"""What a command came to."""


def failed(outcome, message):
    """Whether it ended with one line of error that has the message, and printed nothing else."""
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert message in err
    return True
