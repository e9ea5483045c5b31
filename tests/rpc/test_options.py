"""Options are checked where they are made."""

import pytest

from kvstore.rpc import ChannelOptions, ServerOptions


@pytest.mark.parametrize("kind", [ServerOptions, ChannelOptions])
@pytest.mark.parametrize(
    "wrong", [{"keepalive_timeout": -1.0}, {"stream_window": 1000}, {"connection_window": 1 << 31}]
)
def test_what_cannot_work_is_refused(kind: type, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)


def test_limits_reach_the_engine() -> None:
    options = ServerOptions(max_concurrent_streams=7, stream_window=70_000, connection_window=80_000, reset_burst=9)
    limits = options.h2_limits()
    assert (limits.max_concurrent_streams, limits.stream_window) == (7, 70_000)
    assert (limits.connection_window, limits.reset_burst) == (80_000, 9)
    assert ChannelOptions(stream_window=70_000).limits.stream_window == 70_000
