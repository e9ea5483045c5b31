"""What a member says of itself when it calls another one."""

from kvstore.peer.identity import Caller

URLS = ("http://etcd-0.etcd-headless.default.svc:2380", "https://[2001:db8::1]:2380", "http://10.0.0.1:2380")


def test_where_a_caller_is_reached_arrives() -> None:
    caller = Caller(1, 2, 3, (1, 2), URLS)
    assert Caller.parse(caller.metadata()) == caller
    assert Caller.parse(Caller(1, 2, 3).metadata()).urls == ()


def test_what_is_no_url_is_left_out_and_the_caller_is_not_refused() -> None:
    bad = ("ftp://a:1", "http://a", "http://a b:1", "http://a:123456", "")
    assert Caller.parse(Caller(1, 2, 3, (1, 2), (*bad, URLS[0])).metadata()).urls == (URLS[0],)
    assert len(Caller.parse(Caller(1, 2, 3, (1, 2), tuple(f"http://a:{n}" for n in range(99))).metadata()).urls) == 16
