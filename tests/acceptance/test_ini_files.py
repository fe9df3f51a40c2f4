"""Ini files of every format: the natural spelling of a value works in each, and so does text."""

import pytest

NEW = pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 9 brought the typed table")
TOML = [
    pytest.param("pyproject.toml", "[tool.pytest.ini_options]", id="ini_options"),
    pytest.param("pyproject.toml", "[tool.pytest]", id="tool.pytest", marks=NEW),
    pytest.param("pytest.toml", "[pytest]", id="pytest.toml", marks=NEW),
]
INI = [
    pytest.param("pytest.ini", "[pytest]", id="pytest.ini"),
    pytest.param("tox.ini", "[pytest]", id="tox.ini"),
    pytest.param("setup.cfg", "[tool:pytest]", id="setup.cfg"),
]


@pytest.fixture
def settings(pytester):
    """Run pytest with a line in an ini file, and return the value of an option."""

    def settings(file, table, line, name, *arguments):
        (pytester.path / file).write_text(f"{table}\n{line}\n")
        pytester.makepyfile(f"""
            def test_it(opensandbox_settings):
                print("=>", repr(opensandbox_settings.{name}))
        """)
        result = pytester.runpytest_subprocess("-s", *arguments)
        result.assert_outcomes(passed=1)
        return next(line for line in result.outlines if "=> " in line).partition("=> ")[2].rstrip(".")

    return settings


@pytest.mark.parametrize(("file", "table"), TOML)
@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        pytest.param("lease = 90", "lease_seconds", "90", id="number"),
        pytest.param("ready_timeout = 0.5", "ready_timeout_seconds", "0.5", id="fraction"),
        pytest.param("signals = false", "signals", "False", id="false"),
        pytest.param("server_proxy = true", "server_proxy", "True", id="true"),
        pytest.param("setup = ['true', 'echo 1\\n  2']", "setup", "('true', 'echo 1\\\\n  2')", id="setup as a list"),
        pytest.param("setup = []", "setup", "()", id="empty list"),
        pytest.param("put = ['a,b=/b', 'c = /d e']", "put", "{'a,b': '/b', 'c': '/d e'}", id="put as a list"),
        pytest.param("put = {'a=b' = '/b'}", "put", "{'a=b': '/b'}", id="put as a table"),
        pytest.param(
            "resources = {cpu = 1, memory = '1Gi'}", "resources", "{'cpu': '1', 'memory': '1Gi'}", id="limits"
        ),
        pytest.param("resources = ['cpu=1']", "resources", "{'cpu': '1'}", id="limits as a list"),
    ],
)
def test_the_natural_form_is_read_in_toml(settings, file, table, line, name, value):
    line = line.replace("\n", "\\n").replace("'", '"')

    assert settings(file, table, f"opensandbox_{line}", name) == value.replace("\\\\n", "\\n")


@pytest.mark.parametrize(("file", "table"), [*TOML, *INI])
@pytest.mark.parametrize(
    ("key", "text", "name", "value"),
    [
        pytest.param("lease", "90", "lease_seconds", "90", id="number"),
        pytest.param("signals", "no", "signals", "False", id="switch"),
        pytest.param("setup", "true", "setup", "('true',)", id="command"),
        pytest.param("put", "a=/b,c=/d", "put", "{'a': '/b', 'c': '/d'}", id="pairs"),
        pytest.param("setup", "['true']", "setup", "(\"['true']\",)", id="text that resembles a list"),
    ],
)
def test_text_is_read_everywhere(settings, file, table, key, text, name, value):
    text = f'"{text}"' if file.endswith(".toml") else text

    assert settings(file, table, f"opensandbox_{key} = {text}", name) == value


@pytest.mark.parametrize(("file", "table"), INI)
def test_an_ini_file_has_a_command_a_line(settings, file, table):
    found = settings(file, table, "opensandbox_setup =\n  true\n  echo 1", "setup")

    assert found == "('true', 'echo 1')"


@pytest.mark.parametrize(("file", "table"), TOML)
@pytest.mark.parametrize(
    ("line", "override", "name", "value"),
    [
        pytest.param("lease = 90", "lease=100", "lease_seconds", "100", id="number"),
        pytest.param("setup = ['false']", "setup=true", "setup", "('true',)", id="list"),
        pytest.param("put = {a = '/b'}", "put=c=/d", "put", "{'c': '/d'}", id="table"),
    ],
)
def test_the_command_line_overrides_what_toml_has(settings, file, table, line, override, name, value):
    found = settings(file, table, f"opensandbox_{line}", name, "-o", f"opensandbox_{override}")

    assert found == value


def test_warnings_as_errors_change_nothing(settings):
    found = settings("pyproject.toml", "[tool.pytest.ini_options]", "opensandbox_setup = ['a']", "setup", "-Werror")

    assert found == "('a',)"


@pytest.mark.parametrize(("file", "table"), TOML)
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        pytest.param("lease = 5", "opensandbox_lease must be whole seconds, 60 to 86400; got 5", id="number"),
        pytest.param("lease = true", "opensandbox_lease must be whole seconds, 60 to 86400; got True", id="boolean"),
        pytest.param("image = ['a']", "opensandbox_image must be one value, not a list or a table; *", id="list"),
        pytest.param("setup = [1]", "opensandbox_setup must be text with a command a line, or a list *", id="commands"),
        pytest.param("setup = {a = 'b'}", "opensandbox_setup must be text with a command a line, *", id="table"),
        pytest.param("put = ['a']", 'opensandbox_put must be text, a list of "path=/path", or a table *', id="pairs"),
        pytest.param("put = {a = 'b'}", "opensandbox_put must be text, a list of *, or a table *", id="relative path"),
        pytest.param("resources = ['cpu']", "opensandbox_resources must be name=value pairs *", id="limits"),
    ],
)
def test_what_no_form_allows_is_one_usage_error_with_the_right_spelling(pytester, file, table, line, sentence):
    (pytester.path / file).write_text(f"{table}\nopensandbox_{line}\n")
    pytester.makepyfile("def test_plain(): pass")

    result = pytester.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: opensandbox: {sentence}"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_list_runs_as_the_commands_that_it_holds(pytester):
    (pytester.path / "pyproject.toml").write_text("""
[tool.pytest.ini_options]
opensandbox_setup = ["echo 1 > /srv/one", "echo 2 > /srv/two"]
opensandbox_put = ["here.txt=/srv/here"]
""")
    (pytester.path / "here.txt").write_text("3\n")
    pytester.makepyfile("""
        def test_it(sandbox):
            assert sandbox.run("cat /srv/one /srv/two /srv/here").stdout == "1\\n2\\n3\\n"
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["opensandbox: *, setup=echo 1 > /srv/one; echo 2 > /srv/two (ini), put=*(ini), *"])


def test_the_header_names_the_ini_file_as_the_source(pytester):
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nopensandbox_lease = 90")
    pytester.makepyfile("def test_plain(): pass")

    result = pytester.runpytest_subprocess()

    result.stdout.fnmatch_lines(["opensandbox: *, lease=90 s (ini), *"])
