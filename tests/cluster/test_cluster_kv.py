"""The KV service of a running cluster: every option of put, range, delete and compact, and their errors."""

import grpc
import pytest

from kvstore.pb.rpc_pb2 import CompactionRequest, RangeRequest
from tests.cluster.harness import Binary, Client, Cluster, ClusterFactory, Member, prefix_end, refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
NOT_FOUND = grpc.StatusCode.NOT_FOUND

MAX_REQUEST_BYTES = 1_572_864


@pytest.fixture
def letters(client: Client, prefix: bytes) -> bytes:
    """Keys a to e, written in that order; b twice, d three times. Values in the opposite order of the keys."""
    for letter, value in zip(b"abcde", b"zyxwv", strict=True):
        client.put(prefix + bytes([letter]), bytes([value]))
    for letter in b"bdd":
        client.put(prefix + bytes([letter]), b"m")
    return prefix


def names(response: object, prefix: bytes) -> bytes:
    """The last letters of the keys of a range response."""
    return b"".join(kv.key.removeprefix(prefix) for kv in response.kvs)  # type: ignore[attr-defined]


def test_a_put_is_read_through_every_member(cluster: Cluster, prefix: bytes) -> None:
    for number, writer in enumerate(cluster.members):
        key, value = prefix + b"%d" % number, b"from-%d" % number
        revision = writer.client.put(key, value).header.revision
        for reader in cluster.members:
            kv = reader.client.get(key)
            assert kv is not None
            assert (kv.value, kv.mod_revision, kv.create_revision, kv.version) == (value, revision, revision, 1)


def test_every_response_header_names_the_answering_member(cluster: Cluster, prefix: bytes) -> None:
    clusters, members, terms = set(), set(), set()
    for member in cluster.members:
        headers = [
            member.client.put(prefix, b"").header,
            member.client.range(prefix).header,
            member.client.delete(prefix).header,
            member.client.status().header,
        ]
        clusters |= {header.cluster_id for header in headers}
        terms |= {header.raft_term for header in headers}
        assert len({header.member_id for header in headers}) == 1
        members.add(headers[0].member_id)
        assert headers[0].revision == headers[1].revision == headers[2].revision - 1
    assert len(clusters) == 1
    assert 0 not in clusters
    assert len(members) == len(cluster.members)
    assert len(terms) == 1


def test_a_new_cluster_is_at_revision_one(make_cluster: ClusterFactory) -> None:
    client = make_cluster(1).members[0].client
    assert client.range(b"none").header.revision == 1
    assert client.put(b"first").header.revision == 2


def test_a_key_counts_its_versions_anew_after_a_delete(client: Client, prefix: bytes) -> None:
    first = client.put(prefix, b"1").header.revision
    client.put(prefix, b"2")
    kv = client.get(prefix)
    assert kv is not None
    assert (kv.version, kv.create_revision) == (2, first)
    client.delete(prefix)
    again = client.put(prefix, b"3").header.revision
    kv = client.get(prefix)
    assert kv is not None
    assert (kv.version, kv.create_revision, kv.mod_revision) == (1, again, again)


def test_what_changes_nothing_leaves_the_revision(client: Client, prefix: bytes) -> None:
    before = client.put(prefix).header.revision
    assert client.delete(prefix + b"missing").header.revision == before
    assert client.range(prefix).header.revision == before
    with refused(INVALID, "etcdserver: key is not provided"):
        client.put(b"", b"value")
    assert client.range(prefix).header.revision == before


class TestPut:
    def test_returns_the_previous_pair_when_asked(self, client: Client, prefix: bytes) -> None:
        assert not client.put(prefix, b"old", prev_kv=True).HasField("prev_kv")
        assert client.put(prefix, b"new", prev_kv=True).prev_kv.value == b"old"
        assert not client.put(prefix, b"newer").HasField("prev_kv")

    def test_ignore_value_keeps_the_value_and_takes_the_lease(self, client: Client, prefix: bytes) -> None:
        lease = client.grant(600)
        client.put(prefix, b"kept")
        client.put(prefix, lease=lease, ignore_value=True)
        kv = client.get(prefix)
        assert kv is not None
        assert (kv.value, kv.lease, kv.version) == (b"kept", lease, 2)

    def test_ignore_lease_keeps_the_lease_and_takes_the_value(self, client: Client, prefix: bytes) -> None:
        lease = client.grant(600)
        client.put(prefix, b"old", lease=lease)
        client.put(prefix, b"new", ignore_lease=True)
        kv = client.get(prefix)
        assert kv is not None
        assert (kv.value, kv.lease) == (b"new", lease)

    def test_without_a_lease_detaches_the_key(self, client: Client, prefix: bytes) -> None:
        client.put(prefix, lease=client.grant(600))
        client.put(prefix)
        kv = client.get(prefix)
        assert kv is not None
        assert kv.lease == 0

    def test_errors(self, client: Client, prefix: bytes) -> None:
        with refused(INVALID, "etcdserver: key is not provided"):
            client.put(b"")
        with refused(INVALID, "etcdserver: value is provided"):
            client.put(prefix, b"value", ignore_value=True)
        with refused(INVALID, "etcdserver: lease is provided"):
            client.put(prefix, lease=5, ignore_lease=True)
        with refused(INVALID, "etcdserver: key not found"):
            client.put(prefix + b"none", ignore_value=True)
        with refused(INVALID, "etcdserver: key not found"):
            client.put(prefix + b"none", ignore_lease=True)
        with refused(NOT_FOUND, "etcdserver: requested lease not found"):
            client.put(prefix, lease=123_456)
        assert client.prefix(prefix).count == 0

    def test_a_request_above_the_limit_is_refused_and_one_below_taken(self, client: Client, prefix: bytes) -> None:
        with refused(INVALID, "etcdserver: request is too large"):
            client.put(prefix, bytes(MAX_REQUEST_BYTES + 1))
        client.put(prefix, bytes(MAX_REQUEST_BYTES - 1_000))
        kv = client.get(prefix)
        assert kv is not None
        assert len(kv.value) == MAX_REQUEST_BYTES - 1_000

    def test_long_and_strange_keys_keep_their_order(self, client: Client, prefix: bytes) -> None:
        keys = [b"\xff", b"\xff" * 600, b"a" * 480, b"a" * 511, b"a" * 512, b"a" * 5_000, b"a\0", b"\xc3\xa4", b"~"]
        for key in keys:
            client.put(prefix + key, key[:3])
        assert [kv.key.removeprefix(prefix) for kv in client.prefix(prefix).kvs] == sorted(keys)
        assert client.delete(prefix + b"a" * 512).deleted == 1
        assert client.prefix(prefix + b"a" * 500).count == 2


class TestRange:
    def test_the_forms_of_a_range(self, client: Client, letters: bytes) -> None:
        assert names(client.range(letters + b"b"), letters) == b"b"
        assert names(client.range(letters + b"b", letters + b"d"), letters) == b"bc"
        assert names(client.prefix(letters), letters) == b"abcde"
        assert names(client.range(letters + b"d", letters + b"b"), letters) == b""
        from_key = client.range(letters + b"d", b"\0")
        assert names(from_key, letters).startswith(b"de")
        everything = client.range(b"\0", b"\0", count_only=True)
        assert everything.count >= from_key.count + 3

    def test_limit_count_and_more(self, client: Client, letters: bytes) -> None:
        cut = client.prefix(letters, limit=2)
        assert (names(cut, letters), cut.more, cut.count) == (b"ab", True, 5)
        whole = client.prefix(letters, limit=5)
        assert (names(whole, letters), whole.more, whole.count) == (b"abcde", False, 5)
        assert names(client.prefix(letters, limit=-1), letters) == b"abcde"

    def test_count_only_and_keys_only(self, client: Client, letters: bytes) -> None:
        counted = client.prefix(letters, count_only=True)
        assert (len(counted.kvs), counted.count, counted.more) == (0, 5, False)
        keys = client.prefix(letters, keys_only=True)
        assert names(keys, letters) == b"abcde"
        assert {kv.value for kv in keys.kvs} == {b""}
        assert [kv.version for kv in keys.kvs] == [1, 2, 1, 3, 1]

    @pytest.mark.parametrize(
        ("target", "ascending"),
        [("KEY", b"abcde"), ("VERSION", b"acebd"), ("CREATE", b"abcde"), ("MOD", b"acebd"), ("VALUE", b"bdeca")],
    )
    def test_sorting(self, client: Client, letters: bytes, target: str, ascending: bytes) -> None:
        fields = {"sort_target": RangeRequest.SortTarget.Value(target)}
        assert names(client.prefix(letters, sort_order=RangeRequest.ASCEND, **fields), letters) == ascending
        descending = names(client.prefix(letters, sort_order=RangeRequest.DESCEND, **fields), letters)
        # Keys that compare equal keep no promised order, so only the distinct ones are compared.
        distinct = {"VERSION": b"db", "VALUE": b"ace"}.get(target, ascending[::-1])
        assert bytes(letter for letter in descending if letter in distinct) == distinct
        assert sorted(descending) == sorted(ascending)

    def test_a_target_without_an_order_sorts_ascending(self, client: Client, letters: bytes) -> None:
        assert names(client.prefix(letters, sort_target=RangeRequest.MOD), letters) == b"acebd"

    def test_the_limit_cuts_after_sorting(self, client: Client, letters: bytes) -> None:
        newest = client.prefix(letters, sort_target=RangeRequest.MOD, sort_order=RangeRequest.DESCEND, limit=2)
        assert (names(newest, letters), newest.more, newest.count) == (b"db", True, 5)

    def test_revision_filters(self, client: Client, letters: bytes) -> None:
        rows = {kv.key.removeprefix(letters): kv for kv in client.prefix(letters).kvs}
        modified, created = rows[b"b"].mod_revision, rows[b"c"].create_revision
        assert names(client.prefix(letters, min_mod_revision=modified), letters) == b"bd"
        assert names(client.prefix(letters, max_mod_revision=modified), letters) == b"abce"
        assert names(client.prefix(letters, min_create_revision=created), letters) == b"cde"
        assert names(client.prefix(letters, max_create_revision=created), letters) == b"abc"
        assert names(client.prefix(letters, min_mod_revision=modified, limit=1), letters) == b"b"
        assert names(client.prefix(letters, min_create_revision=created, max_mod_revision=modified), letters) == b"ce"

    def test_an_old_revision_shows_the_store_as_it_was(self, client: Client, prefix: bytes) -> None:
        first = client.put(prefix + b"a", b"1").header.revision
        second = client.put(prefix + b"b", b"2").header.revision
        client.put(prefix + b"a", b"3")
        client.delete(prefix + b"b")
        now = client.put(prefix + b"c").header.revision
        then = client.prefix(prefix, revision=second)
        assert [(kv.key.removeprefix(prefix), kv.value) for kv in then.kvs] == [(b"a", b"1"), (b"b", b"2")]
        assert (then.count, then.header.revision) == (2, now)
        assert client.prefix(prefix, revision=first, count_only=True).count == 1
        assert names(client.prefix(prefix, revision=now), prefix) == b"ac"

    def test_serializable_is_answered_by_every_member(self, cluster: Cluster, prefix: bytes) -> None:
        cluster.leader().client.put(prefix, b"v")
        cluster.wait_agreed()
        for member in cluster.members:
            kv = member.client.get(prefix, serializable=True)
            assert kv is not None
            assert kv.value == b"v"

    def test_errors(self, client: Client, prefix: bytes) -> None:
        with refused(INVALID, "etcdserver: key is not provided"):
            client.range(b"")
        future = client.put(prefix).header.revision + 1_000_000
        with refused(OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"):
            client.range(prefix, revision=future)

    @pytest.mark.parametrize("field", ["sort_order", "sort_target"])
    def test_an_unknown_sort_option_is_refused(self, binary: Binary, client: Client, prefix: bytes, field: str) -> None:
        if binary.api_level < (3, 5):
            pytest.skip("an etcd of this age takes unknown sort options")
        client.put(prefix)
        with refused(INVALID, "etcdserver: invalid sort option"):
            client.kv.Range(RangeRequest(key=prefix, **{field: 9}))  # type: ignore[arg-type]

    def test_a_large_answer_arrives_whole(self, client: Client, prefix: bytes) -> None:
        for number in range(40):
            client.put(prefix + b"%03d" % number, bytes([number]) * 200_000)
        answer = client.prefix(prefix)
        assert [kv.value for kv in answer.kvs] == [bytes([number]) * 200_000 for number in range(40)]
        client.delete(prefix, prefix_end(prefix))


class TestDelete:
    def test_one_key_a_range_and_what_was_there(self, client: Client, letters: bytes) -> None:
        assert client.delete(letters + b"a").deleted == 1
        assert client.delete(letters + b"a").deleted == 0
        gone = client.delete(letters + b"b", letters + b"d", prev_kv=True)
        assert gone.deleted == 2
        assert [(kv.key.removeprefix(letters), kv.value) for kv in gone.prev_kvs] == [(b"b", b"m"), (b"c", b"x")]
        rest = client.delete(letters, prefix_end(letters))
        assert (rest.deleted, len(rest.prev_kvs)) == (2, 0)
        assert client.prefix(letters).count == 0

    def test_many_keys_are_one_revision(self, client: Client, letters: bytes) -> None:
        before = client.range(letters).header.revision
        assert client.delete(letters, prefix_end(letters)).header.revision == before + 1

    def test_errors(self, client: Client) -> None:
        with refused(INVALID, "etcdserver: key is not provided"):
            client.delete(b"")


class TestCompact:
    @pytest.mark.parametrize("physical", [False, True])
    def test_history_before_it_is_gone_and_the_present_stays(
        self, member: Member, prefix: bytes, physical: bool
    ) -> None:
        client = member.client
        client.put(prefix + b"old", b"still here")
        client.put(prefix + b"key", b"1")
        at = client.put(prefix + b"key", b"2").header.revision
        client.put(prefix + b"key", b"3")
        client.kv.Compact(CompactionRequest(revision=at, physical=physical))
        with refused(OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
            client.range(prefix + b"key", revision=at - 1)
        served = client.prefix(prefix, revision=at)
        assert [kv.value for kv in served.kvs] == [b"2", b"still here"]
        assert [kv.value for kv in client.prefix(prefix).kvs] == [b"3", b"still here"]
        with refused(OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
            client.kv.Compact(CompactionRequest(revision=at))
        with refused(OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"):
            client.kv.Compact(CompactionRequest(revision=at + 1_000_000))


def test_range_stream_sends_the_answer_in_parts(binary: Binary, client: Client, prefix: bytes) -> None:
    if binary.api_level < (3, 7):
        pytest.skip("RangeStream came with API level 3.7")
    for number in range(30):
        client.put(prefix + b"%02d" % number, bytes(100_000))
    request = RangeRequest(key=prefix, range_end=prefix_end(prefix))
    parts = [part.range_response for part in client.kv.RangeStream(request)]
    assert [kv.key for part in parts for kv in part.kvs] == [prefix + b"%02d" % number for number in range(30)]
    assert sum(len(kv.value) for part in parts for kv in part.kvs) == 3_000_000
    assert parts[-1].count == 30
    assert not parts[-1].more


def test_nonsense_instead_of_a_message_is_refused_and_the_connection_lives(client: Client, prefix: bytes) -> None:
    put = client.channel.unary_unary("/etcdserverpb.KV/Put", None, None)
    with pytest.raises(grpc.RpcError) as caught:
        put(b"\xff\xff\xff\xff", timeout=10)
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
    unknown = client.channel.unary_unary("/etcdserverpb.KV/Nothing", None, None)
    with pytest.raises(grpc.RpcError) as caught:
        unknown(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert client.put(prefix).header.revision > 0
