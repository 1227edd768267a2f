"""What the tests of downloads run in their processes."""

REPO = "org/unet"
# what every test runs: the unet in the worker is 4 wide, as the manifest's entry cannot say a width
SETUP = """
import ddrsapc
from tests.hub.checkouts import digest_of
ddrsapc.registry._ENTRYPOINTS["unet"].__kwdefaults__["width"] = 4
"""
CREATE = "result = digest_of(ddrsapc.create_model(name, cache_dir=cache, **options))"


def blob(tmp_path, cache="cache"):
    """The cached file of weights, the largest there is."""
    return max((tmp_path / cache).rglob("blobs/*"), key=lambda path: path.stat().st_size)
