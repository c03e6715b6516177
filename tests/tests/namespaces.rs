//! Devices on a network of their own: found by multicast, cut off, moved to other addresses. Linux namespaces that the test makes itself; nothing of
//! the machine's network is touched. Behind a feature, for not every machine allows it: `cargo test --workspace --features isle-tests/namespaces --test namespaces`.
#![cfg(feature = "namespaces")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Command;

use isle_tests::{describe, isle_binary};

/// Two namespaces, each with a device, on one bridge.
const NETWORK: &str = r#"
set -euo pipefail
ip link set lo up
unshare -n sleep 1000 & ONE=$!
unshare -n sleep 1000 & TWO=$!
one() { (cd "$PLACE/one" && ISLE_HOME="$PLACE/one/home" nsenter -t $ONE -n "$@"); }
two() { (cd "$PLACE/two" && ISLE_HOME="$PLACE/two/home" nsenter -t $TWO -n "$@"); }
# Waits until a command succeeds.
until_it() { for _ in $(seq 300); do if "$@" >/dev/null 2>&1; then return 0; fi; sleep 0.1; done; echo "never: $*" >&2; return 1; }
# `!` before a command would not end the script.
not() { if "$@"; then echo "should not be: $*" >&2; exit 1; fi; }
own_network() { [ "$(readlink /proc/$1/ns/net)" != "$(readlink /proc/self/ns/net)" ]; }
until_it own_network $ONE; until_it own_network $TWO
ip link add br0 type bridge
ip link set br0 type bridge mcast_snooping 0
ip link set br0 up
for n in 1 2; do
  pid=$ONE; [ $n = 2 ] && pid=$TWO
  ip link add v$n type veth peer name eth0 netns $pid
  ip link set v$n master br0 up
  nsenter -t $pid -n ip addr add 10.99.0.$n/24 dev eth0
  nsenter -t $pid -n ip link set eth0 up
  nsenter -t $pid -n ip link set lo up
  nsenter -t $pid -n ip route add default dev eth0
done
mkdir -p "$PLACE/one" "$PLACE/two"
has() { "$1" isle query --csv "SELECT title FROM notes" | grep -qx "$2"; }
same() { [ "$(one isle hash --json)" = "$(two isle hash --json)" ]; }
"#;

/// They pair, and from then on find each other by themselves.
const PAIRED: &str = r#"
one isle init notes.db
one isle exec "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)"
one isle track notes
one isle exec "INSERT INTO notes VALUES(1, 'Dune')"
one isle invite > "$PLACE/said" &
until_it grep -q "isle join" "$PLACE/said"
two isle join "$(grep -o 'isle1[a-z2-7]*' "$PLACE/said")" notes.db
has two Dune
two isle peers forget "$(two isle peers --json | python3 -c 'import json, sys; print(next(p["key"] for p in json.load(sys.stdin) if not p["own"]))')"
(one isle serve > "$PLACE/serve") &
(two isle sync --live > "$PLACE/live") &
until_it grep -q "have the same" "$PLACE/live"
echo found
"#;

const CUT: &str = r#"
ip link set v2 down
one isle exec "INSERT INTO notes VALUES(2, 'one alone')"
two isle exec "INSERT INTO notes VALUES(3, 'two alone')"
not has two "one alone"
ip link set v2 up
until_it has two "one alone"
until_it has one "two alone"
until_it same
echo again
"#;

const MOVED: &str = r#"
# The one that called gets another address: the connection moves with it.
nsenter -t $TWO -n ip addr add 10.99.0.22/24 dev eth0
nsenter -t $TWO -n ip addr del 10.99.0.2/24 dev eth0
nsenter -t $TWO -n ip addr add 10.99.0.22/24 dev eth0 2>/dev/null || true
nsenter -t $TWO -n ip route replace default dev eth0
two isle exec "INSERT INTO notes VALUES(4, 'from another address')"
until_it has one "from another address"
# The one that listens moves: it is found anew.
nsenter -t $ONE -n ip addr add 10.99.0.11/24 dev eth0
nsenter -t $ONE -n ip addr del 10.99.0.1/24 dev eth0
nsenter -t $ONE -n ip addr add 10.99.0.11/24 dev eth0 2>/dev/null || true
nsenter -t $ONE -n ip route replace default dev eth0
one isle exec "INSERT INTO notes VALUES(5, 'after the move')"
for _ in 1 2 3; do until_it has two "after the move" && break; done
until_it same
echo moved
"#;

/// No network at all, not even the machine's own loopback.
const OFFLINE: &str = r#"
off() { local dir=$1; shift; (cd "$PLACE/$dir" && ISLE_HOME="$PLACE/$dir/home" unshare -n "$@"); }
off one isle init notes.db
off one isle exec "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)"
off one isle track notes
off one isle exec "INSERT INTO notes VALUES(1, 'Dune'), (2, 'Emma')"
echo 'CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT);' > "$PLACE/one/schema.sql"
off one isle schema apply schema.sql
off one isle exec "UPDATE notes SET stars = 5 WHERE id = 1"
off one isle remote add home "$PLACE/bucket"
off one isle sync
off one isle key export "$PLACE/notes.key"
off two isle init notes.db
off two isle key import "$PLACE/notes.key"
off two isle remote add home "$PLACE/bucket"
off two isle sync
off two isle exec "DELETE FROM notes WHERE id = 2"
off two isle sync
off two isle compact
off one isle sync
off one isle status
off one isle doctor
same
has one Dune
not has one Emma
echo offline
"#;

/// A link of 400 kbit/s with a queue of half a second, cut in the middle.
const SLOW: &str = r#"
slow="tbf rate 400kbit burst 16kb latency 500ms"
tc qdisc add dev v2 root $slow
nsenter -t $TWO -n tc qdisc add dev eth0 root $slow
BULK=$(( 1200 * 1000 ))
one isle exec "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1599)
  INSERT INTO notes SELECT i, CAST(randomblob(2000) AS BLOB) FROM n"
# While that is on its way, what the other one writes comes through.
two isle exec "INSERT INTO notes VALUES(6, 'against the stream')"
until_it has one "against the stream"
not same
ip link set v2 down
ip link set v2 up
for _ in 1 2 3 4; do until_it same && break; done
same
# It went on where it was: not much more went over the link than what there was to send.
sent=$(tc -s qdisc show dev v2 | grep -o 'Sent [0-9]*' | head -1 | cut -d ' ' -f 2)
echo "sent $sent bytes for $BULK"
[ "$sent" -lt $(( BULK * 3 / 2 )) ]
echo slowly
"#;

fn run(parts: &[&str]) -> String {
    let place = tempfile::tempdir().unwrap();
    let tools = isle_binary().parent().unwrap().to_owned();
    let around = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(tools).chain(std::env::split_paths(&around));
    // Whatever goes on in there ends with the script, or when it takes too long.
    let mut command = Command::new("timeout");
    command.args(["240", "unshare", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"]);
    command.args(["--mount-proc", "bash", "-c", &[&[NETWORK], parts].concat().concat()]);
    command.env("PATH", std::env::join_paths(path).unwrap()).env("PLACE", place.path()).env_remove("ISLE_DB");
    let output = command.output().expect("unshare and ip run; install them: apt-get install util-linux iproute2");
    let file = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap_or_default();
    let said = format!("{}\nserve: {}\nlive: {}", describe(&output), file("serve"), file("live"));
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn devices_find_each_other_and_go_on_after_a_cut() {
    let said = run(&[PAIRED, CUT]);
    assert!(said.contains("found") && said.contains("again"), "{said}");
}

#[test]
fn without_a_network_everything_else_works() {
    let said = run(&[OFFLINE]);
    assert!(said.contains("offline"), "{said}");
}

#[test]
fn a_slow_link_that_is_cut_carries_both_ways_and_goes_on_where_it_was() {
    let said = run(&[PAIRED, SLOW]);
    assert!(said.contains("slowly"), "{said}");
}

#[test]
fn devices_that_get_other_addresses_go_on() {
    let said = run(&[PAIRED, MOVED]);
    assert!(said.contains("found") && said.contains("moved"), "{said}");
}
