//! Replies from any bytes, keys for the wire, addresses, lifetimes.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::connection::{Address, parse};
use super::protocol::{Flags, Garbled, Reply, generation_key, take, wire_key};
use super::value::{biased, on_wire, seconds, unbiased};
use crate::key::{KeyPolicy, KeySpace, MAX_KEY_BYTES, PrefixedKeys};
use crate::ttl::Lifetime;

fn all(bytes: &[u8]) -> Result<Vec<Reply>, Garbled> {
    let mut input = BytesMut::from(bytes);
    let mut replies = Vec::new();
    while let Some(reply) = take(&mut input)? {
        replies.push(reply);
    }
    Ok(replies)
}

#[test]
fn replies_are_taken_one_by_one() {
    let flags = Flags {
        client: 7,
        cas: Some(12),
        ttl: Some(-1),
    };
    let replies = all(
        b"HD\r\nVA 2 f7 c12 t-1 W\r\n\r\n\r\nEN\r\nNS\r\nEX\r\nNF\r\n\
        SERVER_ERROR out of memory\r\nOK\r\nVA 0\r\n\r\nVA 5",
    );
    let expected = [
        Reply::Done(Flags::default()),
        Reply::Value(Bytes::from_static(b"\r\n"), flags),
        Reply::Missing,
        Reply::NotStored,
        Reply::Changed,
        Reply::Missing,
        Reply::Error("SERVER_ERROR out of memory".to_owned()),
        Reply::Done(Flags::default()),
        Reply::Value(Bytes::new(), Flags::default()),
    ];
    assert_eq!(replies.unwrap(), expected);
}

#[test]
fn what_is_no_reply_is_garbled_and_never_data() {
    for bytes in [
        &b"VA x\r\n"[..],
        b"VA 2\r\nabc\r\n",
        b"VA 99999999999999999999\r\n",
        b"VA 2000000000\r\n",
        b"VALUE k 0 1\r\n",
        b"HD\n",
        b"HD f\r\n",
        b"\xff\r\n",
        b"\r\n",
    ] {
        assert_eq!(all(bytes), Err(Garbled), "{bytes:?}");
    }
    assert_eq!(all(&[b'a'; 9000]), Err(Garbled));
    assert_eq!(all(&[b'a'; 100]), Ok(Vec::new()));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = all(&bytes);
    }

    /// However the bytes arrive, the replies are the same.
    #[test]
    fn replies_do_not_depend_on_packets(
        values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6000), 1..5),
        cut in 1_usize..700,
    ) {
        let mut bytes = Vec::new();
        for value in &values {
            bytes.extend(format!("VA {} f1\r\n", value.len()).bytes());
            bytes.extend(value);
            bytes.extend(b"\r\nHD\r\n");
        }
        let (mut input, mut replies) = (BytesMut::new(), Vec::new());
        for packet in bytes.chunks(cut) {
            input.extend_from_slice(packet);
            while let Some(reply) = take(&mut input).unwrap() {
                replies.push(reply);
            }
        }
        prop_assert!(input.is_empty());
        prop_assert_eq!(replies.len(), 2 * values.len());
        for (value, reply) in values.iter().zip(replies.iter().step_by(2)) {
            let flags = Flags { client: 1, ..Flags::default() };
            prop_assert_eq!(reply, &Reply::Value(Bytes::from(value.clone()), flags));
        }
    }

    /// Keys are fit for the wire, and stay apart.
    #[test]
    fn keys_are_fit_for_the_wire(one in ".{0,300}", other in ".{0,300}", generation: u64) {
        let off = KeySpace::new(String::new(), 1, std::sync::Arc::new(PrefixedKeys), KeyPolicy::Off);
        let off = off.unwrap();
        let wire = |key: &str| wire_key(&off.key(1, key).unwrap(), generation);
        for key in [wire(&one), generation_key(&one)] {
            prop_assert!(key.len() <= MAX_KEY_BYTES, "{}", key);
            prop_assert!(key.bytes().all(|byte| byte > b' ' && byte != 0x7f), "{:?}", key);
        }
        prop_assert_eq!(wire(&one) == wire(&other), one == other);
    }

    #[test]
    fn counters_keep_their_value(counter: i64) {
        prop_assert_eq!(unbiased(format!("{}  ", biased(counter)).as_bytes()), Some(counter));
    }
}

#[test]
fn counters_keep_their_order() {
    assert_eq!(biased(i64::MIN), 0);
    assert_eq!(biased(i64::MAX), u64::MAX);
    assert_eq!(biased(-1) + 1, biased(0));
    for bad in [
        &b""[..],
        b"-1",
        b"x",
        b"18446744073709551616",
        b"1 2",
        b"\xff",
    ] {
        assert_eq!(unbiased(bad), None, "{bad:?}");
    }
}

#[test]
fn lifetimes_are_never_cut() {
    let seconds = |millis| seconds(Lifetime::For(Duration::from_millis(millis)));
    assert_eq!(seconds(1), Some(2));
    assert_eq!(seconds(1000), Some(2));
    assert_eq!(seconds(1001), Some(3));
    // Longer than 30 days is a point in time.
    assert!(seconds(30 * 86_400_000).unwrap() > 1_700_000_000);
    assert_eq!(super::value::seconds(Lifetime::Forever), None);
    assert_eq!(super::value::seconds(Lifetime::For(Duration::MAX)), None);
    assert_eq!(on_wire(u64::MAX), None);
}

#[test]
fn addresses_have_many_forms() {
    let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
    for (server, address) in [
        ("cache", tcp("cache", 11211)),
        ("10.0.0.1:1", tcp("10.0.0.1", 1)),
        ("memcached://cache:12/", tcp("cache", 12)),
        ("[::1]", tcp("::1", 11211)),
        ("memcached://[::1]:13", tcp("::1", 13)),
        #[cfg(unix)]
        ("unix:/run/a@b.sock", Address::Unix("/run/a@b.sock".into())),
        #[cfg(unix)]
        (
            "memcached+unix:///run/m%20c",
            Address::Unix("/run/m c".into()),
        ),
    ] {
        let (parsed, credentials) = parse(server).unwrap();
        assert_eq!(parsed, address, "{server}");
        assert!(credentials.is_none());
    }
    let (address, credentials) = parse("memcached://us%3Aer:p%40ss@cache:12").unwrap();
    let credentials = credentials.unwrap();
    assert_eq!(address, tcp("cache", 12));
    assert_eq!(credentials.username, "us:er");
    assert_eq!(credentials.password, "p@ss");
    for bad in [
        "",
        ":1",
        "a:b",
        "a:99999",
        "[::1",
        "redis://a",
        "user@a",
        "unix:",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
