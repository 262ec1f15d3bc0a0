"""What a fresh installation must do: import without the network and without other packages, and route.

It is no test of pytest's: it runs where nothing but turnout is installed. `python tests/smoke.py [VERSION]`
"""

import sys
import sysconfig
from importlib import metadata
from importlib.resources import files


def refuse_the_network(event: str, _arguments: tuple[object, ...]) -> None:
    if event.startswith("socket."):
        raise AssertionError(f"a fresh installation asks for the network: {event}")


def main(expected: str | None) -> None:
    sys.addaudithook(refuse_the_network)
    import turnout

    version = metadata.version("turnout")
    assert expected in (None, version), f"version {version} is installed, not {expected}"
    assert turnout.__version__ == version, f"the native half is {turnout.__version__}, the package {version}"
    assert all("extra ==" in need for need in metadata.requires("turnout") or []), "turnout depends on nothing"
    assert all((files(turnout) / name).is_file() for name in ("py.typed", "_core.pyi"))
    if sys.version_info >= (3, 13) and sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert not sys._is_gil_enabled(), "the import of turnout switched the GIL on"

    router = turnout.Router([turnout.Deployment("a", "m", max_parallel_requests=1)])
    with router.acquire("m", tokens=5) as lease:
        try:
            router.acquire("m")
        except turnout.NoAvailableDeployment as refused:
            print(f"turnout {version} on Python {sys.version}: {refused}")
        else:
            raise AssertionError("a limit of one in flight let two pass")
        lease.success(tokens=7)
    assert router.stats("a").total_tokens == 7


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
