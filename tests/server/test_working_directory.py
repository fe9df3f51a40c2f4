"""Where commands begin and in which language: as the image says, or else as on every other backend."""

import uuid

import pytest


@pytest.fixture
def opinionated(client, images):
    """An image with a working directory and a language of its own."""
    repository, tag = images.sandbox.partition(":")[0], f"opinionated-{uuid.uuid4().hex[:8]}"
    container = client.containers.create(images.sandbox, command=["true"])
    container.commit(repository=repository, tag=tag, conf={"WorkingDir": "/srv", "Env": ["LANG=de_DE.UTF-8"]})
    container.remove()
    yield f"{repository}:{tag}"
    client.images.remove(f"{repository}:{tag}")


def test_the_image_has_the_first_word(pytester, on_docker, images, opinionated):
    pytester.makepyfile(f"""
        import pytest

        @pytest.mark.parametrize(
            ("sandbox", "said"),
            [("{images.sandbox}", "/workspace C.UTF-8\\n"), ("{opinionated}", "/srv de_DE.UTF-8\\n")],
            indirect=["sandbox"],
        )
        def test_it(sandbox, said):
            assert sandbox.run("echo $PWD $LANG").stdout == said
            assert sandbox.run(["test", "-d", "/workspace"]).ok
            assert sandbox.run("pwd", uid=1000, cwd="/workspace").stdout == "/workspace\\n"
    """)

    result = pytester.runpytest_subprocess(*on_docker)

    result.assert_outcomes(passed=2)


def test_the_first_command_of_another_user_finds_the_workspace(pytester, on_docker):
    pytester.makepyfile("""
        def test_it(sandbox):
            assert sandbox.run("pwd; id -u", uid=1000).stdout == "/workspace\\n1000\\n"
    """)

    result = pytester.runpytest_subprocess(*on_docker)

    result.assert_outcomes(passed=1)
