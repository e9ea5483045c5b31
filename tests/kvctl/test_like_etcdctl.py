"""The same lines, exit codes and errors as etcdctl, byte for byte, over the same store.

Each case puts the same keys twice, runs one program and then the other, and compares what they print after taking out
what cannot be equal: how far the revision had come before. etcdctl is the one on the PATH; where its release prints
less than the one that kvctl follows, the case says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.kvctl.programs import Etcdctl, Kvctl, Outcome

ALL = ("simple", "json", "fields", "table")
KEYS = "simple", "json", "fields"
ODD = 'x\x01é\u2028"\\<&>\t\u00a0\U0001f600\udcff'


def relative(outcome: Outcome, base: int) -> Outcome:
    """With revisions counted from `base`, and terms as they are."""

    def shift(match: re.Match[bytes]) -> bytes:
        number = int(match[2])
        return match[1] + (b"+%d" % (number - base) if number > base else match[2])

    revisions = rb'((?:"(?:Prev)?(?:Create|Mod)?Revision" : |"(?:create_|mod_)?revision":))(\d+)'
    return Outcome(outcome.code, re.sub(revisions, shift, outcome.out), outcome.err)


@pytest.fixture
def same(kvctl: Kvctl, etcdctl: Etcdctl, revision: Callable[[], int]) -> Callable[..., Outcome]:
    """Run the same with both after putting the keys `k1` to `k3` and `odd`; they must agree. What kvctl printed."""

    def compare(*args: str, stdin: bytes = b"") -> Outcome:
        outcomes: list[Outcome] = []
        for program in (etcdctl, kvctl):
            kvctl("del", "", "--prefix")
            base = revision()
            for key, value in (("k1", "v1"), ("k3", "v2"), ("k2", "v3"), ("k1", "w"), ("odd", ODD)):
                assert kvctl("put", key, "--", value).code == 0
            outcomes.append(relative(program(*args, stdin=stdin), base))
        assert outcomes[1] == outcomes[0]
        return outcomes[1]

    return compare


Same = Callable[..., Outcome]


@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize(
    "args",
    [
        "get k1",
        "get none",
        "get k --prefix",
        "get k1 k3",
        "get k2 --from-key",
        "get odd",
        "put k1 new --prev-kv",
        "put new v --prev-kv",
        "del k1",
        "del k --prefix --prev-kv",
        "del k2 --from-key",
        "del none --prev-kv",
    ],
)
def test_keys_are_printed_in_every_format(same: Same, args: str, format: str) -> None:
    outcome = same(*args.split(), "-w", format)
    assert outcome.code == (4 if format == "table" else 0)


@pytest.mark.parametrize(
    "args",
    [
        "get k --prefix --limit 2 -w json",
        "get k --prefix --order descend",
        "get k --prefix --sort-by modify --order=ASCEND",
        "get k --prefix --sort-by CREATE",
        "get k --prefix --sort-by VALUE --order DESCEND",
        "get k --prefix --sort-by version",
        "get k --prefix --keys-only",
        "get k --prefix --keys-only -w fields",
        "get k --prefix --print-value-only",
        "get k --prefix --print-value-only --hex",
        "get odd --hex",
        "get k1 --consistency=s",
        "get k1 k3 extra",
        "get k --prefix=true --keys-only=false",
        "get k --prefix=false",
        "get k --prefix=0 -w=json",
        "--write-out json get k1",
        "get -w fields k1",
        "get -wjson k1",
        "put k1 --ignore-value --prev-kv",
        "put k1 new --ignore-lease",
        "put -- k1 -dash",
    ],
)
def test_flags_mean_the_same(same: Same, args: str) -> None:
    same(*args.split())


def test_an_empty_key_with_a_range_flag_is_every_key(same: Same) -> None:
    assert same("get", "", "--prefix", "--keys-only").out.count(b"\n") == 8
    assert same("get", "", "--from-key", "--limit", "1").out == b"k1\nw\n"
    assert same("del", "", "--prefix").out == b"4\n"


def test_a_value_is_read_from_standard_input(same: Same) -> None:
    assert same("put", "k1", stdin=b"line\n\xff\x00").code == 0
    assert same("put", "k1", stdin=b"").code == 128


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ("get", 128),
        ("get k1 --prefix --from-key", 128),
        ("get a b --prefix", 128),
        ("get a --order up", 4),
        ("get a --sort-by age", 4),
        ("get a --consistency x", 4),
        ("get a --print-value-only -w json", 128),
        ("get a -w yaml", 4),
        ("get a --rev 99999999", 1),
        ("get a --cert= --key=k", 128),
        ("get a --cert none", 128),
        ("get a --cacert /none/ca.pem", 128),
        ("get a --endpoints=", 2),
        ("put", 128),
        ("put k --ignore-value v", 128),
        ("put k v --lease zz", 128),
        ("put k v --lease 7ea5e", 1),
        ("put none --ignore-value", 1),
        ("del", 128),
        ("del a b --from-key", 128),
        ("compaction", 128),
        ("compaction x", 1),
        ("compact 99999999", 1),
        ("compaction 99999999", 1),
        ("lease grant", 128),
        ("lease grant x", 128),
        ("lease grant 99999999999", 1),
        ("lease revoke", 128),
        ("lease revoke zz", 128),
        ("lease revoke 7ea5e", 1),
        ("lease timetolive", 128),
        ("lease keep-alive", 128),
        ("lease keep-alive --once 7ea5e", 2),
        ("lease keep-alive 7ea5e", 0),
        ("lease timetolive 7ea5e", 0),
        ("lease timetolive 7ea5e -w json", 0),
        ("lease timetolive 7ea5e -w fields", 0),
        ("lease timetolive 7ea5e -w table", 4),
        ("txn extra", 128),
        ("member add", 128),
        ("member add m9", 128),
        ("member add a b --peer-urls=http://h:1", 128),
        ("member remove", 128),
        ("member remove zz", 128),
        ("member remove 7ea5e", 1),
        ("member update 7ea5e", 128),
        ("member update 7ea5e --peer-urls=http://h:1", 1),
        ("member promote 7ea5e", 1),
        ("member list -w xml", 4),
        ("alarm list extra", 128),
        ("alarm disarm extra", 128),
        ("move-leader", 128),
        ("move-leader zz", 128),
        ("move-leader 7ea5e", 1),
        ("endpoint hashkv --rev 99999999", 1),
        ("snapshot save", 128),
        ("snapshot save x --endpoints=127.0.0.1:1,127.0.0.1:2", 5),
        ("watch a b --prefix", 128),
        ("watch", 128),
        ("watch a --", 128),
    ],
)
def test_mistakes_earn_the_same_message_and_exit_code(kvctl: Kvctl, etcdctl: Etcdctl, args: str, code: int) -> None:
    if "--endpoints" in args:
        # etcdctl does not bear a flag that the environment also has.
        etcdctl = Etcdctl(etcdctl._program, {"ETCDCTL_API": "3"}, etcdctl._directory)
    expected = etcdctl(*args.split())
    assert kvctl(*args.split()) == expected
    assert expected.code == code


LEASE_ID = re.compile(rb"\b[0-9a-f]{16}\b|(?<=\"ID\":)\d+|(?<=\"id\":)\d+|(?<=\"ID\" : )\d+")


@pytest.mark.parametrize("format", ALL)
def test_leases_are_printed_in_every_format(kvctl: Kvctl, etcdctl: Etcdctl, format: str) -> None:
    printed: list[list[tuple[int, bytes, bytes]]] = []
    for line in kvctl("lease", "list").out.splitlines()[1:]:
        kvctl("lease", "revoke", line.decode())
    for program in (etcdctl, kvctl):
        lease = kvctl("lease", "grant", "1000").out.split()[1].decode()
        kvctl("put", "attached/1", "v", f"--lease={lease}")
        kvctl("put", "attached/2", "v", "--lease", lease)
        outcomes = [
            program(*args, "-w", format)
            for args in (
                ("lease", "list"),
                ("lease", "keep-alive", "--once", lease),
                ("get", "attached/1", "--keys-only"),
                ("lease", "revoke", lease),
            )
        ]
        if format == "table":
            kvctl("lease", "revoke", lease)
        fresh = program("lease", "grant", "1000", "-w", format)
        for left in kvctl("lease", "list").out.splitlines()[1:]:
            kvctl("lease", "revoke", left.decode())
        numbers = re.compile(rb"(evision\"?(?: :|:) ?)\d+|(\"lease\":|\"Lease\" : )\d+")
        printed.append(
            [
                # Numbers first: one that happens to have sixteen digits looks like an id.
                (each.code, LEASE_ID.sub(b"ID", numbers.sub(rb"\1\2N", each.out)), each.err)
                for each in (*outcomes, fresh)
            ]
        )
    if format == "table":
        # etcdctl revokes and renews before it finds that it cannot print the answer; kvctl asks first.
        assert {code for code, _, _ in printed[1]} == {4}
        assert printed[1][0] == printed[0][0]
    else:
        assert printed[1] == printed[0]
        assert {code for code, _, _ in printed[1]} == {0}


@pytest.mark.parametrize("format", KEYS)
@pytest.mark.parametrize("flags", [[], ["--keys"]])
def test_the_time_of_a_lease_is_printed_in_every_format(
    kvctl: Kvctl, etcdctl: Etcdctl, format: str, flags: list[str]
) -> None:
    lease = kvctl("lease", "grant", "1000").out.split()[1].decode()
    kvctl("put", "attached/a", "v", "--lease", lease)
    kvctl("put", "attached/b", "v", "--lease", lease)
    remaining = re.compile(rb"(remaining\(|\"ttl\":|\"TTL\" : )\d+")
    expected, got = (program("lease", "timetolive", lease, *flags, "-w", format) for program in (etcdctl, kvctl))
    # The keys come in any order.
    split = re.compile(rb"[\n ,()\[\]]+")
    parts = [sorted(split.split(remaining.sub(rb"\1T", each.out))) for each in (expected, got)]
    assert parts[1] == parts[0]
    assert (b"attached/b" in got.out or b"YXR0YWNoZWQvYg==" in got.out) == bool(flags)
    kvctl("lease", "revoke", lease)


TXN = b"""value("k1") = "w"
version("k1") > "1"
create("none") = "0"
mod("k2") != "0"
lease("k1") = "0"
ver("odd") < "2"

put k1 "over\\x77rote \\u00e9"
get k --prefix
del k2 --prev-kv

get k1

"""


@pytest.mark.parametrize("format", ALL)
def test_a_transaction_is_read_and_printed_in_every_format(same: Same, format: str) -> None:
    if format != "table":
        # The release at hand gives up on comparing a lease.
        assert same("txn", "-w", format, stdin=TXN.replace(b'lease("k1") = "0"\n', b"")).code == 0
        assert same("txn", "-w", format, stdin=b'm("none") > "0"\n\n\nget k1\n\n').code == 0
        assert same("txn", "-w", format, "-i", stdin=b"\n\n\n").code == 0
    else:
        assert same("txn", "-w", format, stdin=b"\n\n\n").code == 4


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"\n\n",
        b'mod("k1") > 0\n\n\n\n',
        b'age("k1") > "0"\n\n\n\n',
        b'mod(k1) > "0"\n\n\n\n',
        b"nonsense\n\n\n\n",
        b'mod("k1")="0"\n\n\n\n',
        b'mod ("k1") = "0"\n\n\n\n',
        b'  mod("k1")   =   "0" trailing \n \n\n\n',
        b"\nget\n\n\n",
        b"\nfetch k1\n\n\n",
        b"\nput k1\n\n\n",
        b"\nput k1 a\nput k1 b\n\n\n",
        b'\nget "k\\x32"\n\n\n',
    ],
)
def test_a_transaction_that_is_not_understood_earns_the_same_message(same: Same, stdin: bytes) -> None:
    same("txn", stdin=stdin)


@pytest.mark.parametrize(
    "args",
    [
        "member list -w simple",
        "member list -w json",
        "member list -w table",
        "member list --hex",
        "endpoint health -w bogus",
        "alarm list",
        "alarm disarm",
        "defrag",
        "defrag --cluster",
        "snapshot save saved.db",
    ],
)
def test_members_and_maintenance_print_the_same(kvctl: Kvctl, etcdctl: Etcdctl, args: str) -> None:
    expected = etcdctl(*args.split())
    got = kvctl(*args.split())
    # etcdctl logs each step of a snapshot; a newer one, asked by a newer server, tells the server's version.
    assert (got.code, got.out.partition(b"Server version")[0]) == (expected.code, expected.out)


@pytest.mark.parametrize("format", ["simple", "json"])
def test_membership_changes_print_the_same(kvctl: Kvctl, etcdctl: Etcdctl, format: str) -> None:
    printed: list[list[bytes]] = []
    for number, program in enumerate((etcdctl, kvctl)):
        # An id that was removed does not come back, and it is made from the address and the second.
        url = f"http://127.0.{len(format)}.{number}:1"
        added = program("member", "add", "extra", "--learner", f"--peer-urls={url}", "-w", format)
        listed = program("member", "list", "-w", format)
        rows = kvctl("member", "list").out.decode().splitlines()
        extra = next(row for row in rows if "unstarted" in row).split(",")[0]
        outcomes = [
            added,
            listed,
            program("member", "promote", extra, "-w", format),
            program("member", "update", extra, f"--peer-urls={url}0", "-w", format),
            program("member", "remove", extra, "-w", format),
        ]
        ids = {extra.encode(): b"ID", str(int(extra, 16)).encode(): b"ID", url.encode(): b"URL"}
        texts = []
        for outcome in outcomes:
            text = outcome.out + outcome.err
            for found, name in ids.items():
                text = text.replace(found, name)
            if format == "json" and text.startswith(b"{"):
                text = b"".join(sorted(re.findall(rb'\{"ID".*?\}', text))) + text.partition(b'"members"')[0]
            else:
                # Ids decide the order, and are padded to one width.
                text = b" ".join(sorted(re.split(rb"[\s,\"]+", text)))
            texts.append(text)
        printed.append(texts)
    assert printed[1] == printed[0]


def test_health_prints_the_same_but_for_the_time(kvctl: Kvctl, etcdctl: Etcdctl) -> None:
    took = re.compile(rb"[0-9.]+(?:ms|\xc2\xb5s|s)\b *")

    def normal(outcome: Outcome) -> bytes:
        text = took.sub(b"TIME", outcome.out + outcome.err)
        return re.sub(rb"[-+|]+ *(?:TOOK *\|)?", b"", text)

    for format in ALL:
        assert normal(kvctl("endpoint", "health", "-w", format)) == normal(etcdctl("endpoint", "health", "-w", format))
        clustered = ("endpoint", "--cluster", "health", "-w", format)
        assert normal(kvctl(*clustered)) == normal(etcdctl(*clustered))


def test_status_prints_what_etcdctl_does_and_what_came_later(kvctl: Kvctl, etcdctl: Etcdctl) -> None:
    expected, got = (program("endpoint", "status").out.decode().strip("\n").split(", ") for program in (etcdctl, kvctl))
    later = {3: "storage version", 5: "in use", 6: "percentage", 7: "quota", 14: "target version", 15: "enabled"}
    assert [text for column, text in enumerate(got) if column not in later] == expected
    shared_fields = etcdctl("endpoint", "status", "-w", "fields").out.splitlines()
    assert [line for line in kvctl("endpoint", "status", "-w", "fields").out.splitlines() if line in shared_fields] == (
        shared_fields
    )
    json_text = etcdctl("endpoint", "status", "-w", "json").out.rstrip(b"}]\n")
    assert kvctl("endpoint", "status", "-w", "json").out.startswith(json_text)
    head = kvctl("endpoint", "status", "-w", "table").out.splitlines()[1]
    assert [title.strip() for title in head.decode().split("|")][1:4] == ["ENDPOINT", "ID", "VERSION"]


def test_hashes_print_what_etcdctl_does_and_the_revision(kvctl: Kvctl, etcdctl: Etcdctl) -> None:
    expected, got = (program("endpoint", "hashkv").out for program in (etcdctl, kvctl))
    assert got.rpartition(b", ")[0] + b"\n" == expected
    shared_json = etcdctl("endpoint", "hashkv", "-w", "json").out.rstrip(b"}]\n")
    assert kvctl("endpoint", "hashkv", "-w", "json").out.startswith(shared_json)
    fields = kvctl("endpoint", "hashkv", "-w", "fields").out.splitlines()
    assert [line for line in fields if not line.startswith(b'"HashRevision"')] == (
        etcdctl("endpoint", "hashkv", "-w", "fields").out.splitlines()
    )


def test_an_endpoint_that_cannot_be_reached_is_reported_the_same(
    kvctl: Kvctl, etcdctl: Etcdctl, member_endpoint: str
) -> None:
    both = f"{member_endpoint},127.0.0.1:1"
    quick = "--command-timeout=300ms"
    # The other endpoint must have answered by then, also on a busy machine.
    patient = "--command-timeout=1500ms"
    for command in ("get k", "put k v", "lease grant 5", "member list", "move-leader 1"):
        words = command.split()
        assert kvctl.on("127.0.0.1:1")(*words, quick) == etcdctl.on("127.0.0.1:1")(*words, quick)
    for command in ("defrag", "endpoint hashkv"):
        words = command.split()
        expected, got = etcdctl.on(both)(*words, patient), kvctl.on(both)(*words, patient)
        assert (got.code, got.err) == (expected.code, expected.err)
    healthy = kvctl.on(both)("endpoint", "health", patient)
    # The release at hand prints the good news on standard error, too.
    expected = etcdctl.on(both)("endpoint", "health", patient)
    assert healthy.code == expected.code == 1
    assert healthy.err.splitlines() == [line for line in expected.err.splitlines() if b"is healthy" not in line]
    saved = kvctl.on("127.0.0.1:1")("snapshot", "save", "none.db", quick)
    assert (saved.code, saved.err) == (5, b"Error: context deadline exceeded\n")


@pytest.fixture
def member_endpoint(kvctl: Kvctl) -> str:
    return kvctl._environment["KVCTL_ENDPOINTS"]
