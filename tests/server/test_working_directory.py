"""Working directory and language of commands: those of the image, or else those of every backend."""

import uuid

import pytest


@pytest.fixture
def configured(client, images):
    """An image with a working directory and a language of its own."""
    repository, tag = images.sandbox.partition(":")[0], f"configured-{uuid.uuid4().hex[:8]}"
    container = client.containers.create(images.sandbox, command=["true"])
    container.commit(repository=repository, tag=tag, conf={"WorkingDir": "/srv", "Env": ["LANG=de_DE.UTF-8"]})
    container.remove()
    yield f"{repository}:{tag}"
    client.images.remove(f"{repository}:{tag}")


def test_the_image_sets_working_directory_and_language(pytester, on_docker, images, configured):
    pytester.makepyfile(f"""
        import pytest

        @pytest.mark.parametrize(
            ("sandbox", "output"),
            [("{images.sandbox}", "/workspace C.UTF-8\\n"), ("{configured}", "/srv de_DE.UTF-8\\n")],
            indirect=["sandbox"],
        )
        def test_it(sandbox, output):
            assert sandbox.run("echo $PWD $LANG").stdout == output
            assert sandbox.run(["test", "-d", "/workspace"]).ok
            assert sandbox.run("pwd", uid=1000, cwd="/workspace").stdout == "/workspace\\n"
    """)

    result = pytester.runpytest_subprocess(*on_docker)

    result.assert_outcomes(passed=2)


def test_the_first_command_of_another_user_has_the_workspace(pytester, on_docker):
    pytester.makepyfile("""
        def test_it(sandbox):
            assert sandbox.run("pwd; id -u", uid=1000).stdout == "/workspace\\n1000\\n"
    """)

    result = pytester.runpytest_subprocess(*on_docker)

    result.assert_outcomes(passed=1)
