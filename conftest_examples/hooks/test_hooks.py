"""The variable and the file that conftest.py adds to every sandbox."""


def test_the_variable_is_set(sandbox):
    assert sandbox.run("echo $CI").stdout == "1\n"


def test_the_file_is_there(sandbox):
    assert sandbox.get("/workspace/RULES") == b"be kind\n"
