//! What other programs hand back: replies, files, counters, names, settings; and keys, which have
//! to stay apart there.
//!
//! Input: a byte that chooses, a byte of size, then what is read.
#![no_main]

use axum_cache::backend::parse_counter;
use axum_cache::codec::Codec;
use axum_cache::fuzzing::{file, memcached, redis, sql};
use axum_cache::key::{
    DjangoKeys, Facet, KeyPart, KeyPolicy, KeyWriter, PageKeyFunction, PageTarget,
};
use axum_cache::{Cache, Settings, backend::Dummy, key};
use bytes::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, size], data)) = data.split_first_chunk() else {
        return;
    };
    match choice % 8 {
        0 => replies(data, usize::from(size)),
        1 => files(data, size),
        2 => numbers(data),
        3 => answers(data),
        4 => names(data),
        5 => settings(data),
        6 => keys(data),
        _ => django(data),
    }
});

fn replies(data: &[u8], piece: usize) {
    let (whole, left) = memcached::replies(data, usize::MAX);
    let (pieces, left_of_pieces) = memcached::replies(data, piece);
    // Where a line is too long, it may be seen before or after its end came.
    if left.is_some() && left_of_pieces.is_some() {
        assert_eq!((whole, left), (pieces, left_of_pieces));
    }
}

fn files(data: &[u8], size: u8) {
    let bytes = Bytes::copy_from_slice(data);
    if let Some((expires, key, value)) = file::decode(&bytes) {
        let key = std::str::from_utf8(&key);
        if let Ok(key) = key {
            assert_eq!(file::encode(key, expires, &value), data);
        }
        assert_eq!(file::expiry_in_head(data, data.len() as u64), Some(expires));
    }
    // The same behind a checksum that holds.
    if data.len() > 16 {
        let mut mended = data.to_vec();
        mended[..8].copy_from_slice(b"axcfile\x01");
        let checksum = xxh3_64(&mended[16..]);
        mended[8..16].copy_from_slice(&checksum.to_le_bytes());
        if size % 2 == 0 && data.len() > 36 {
            let key = u32::from(size).to_le_bytes();
            mended[24..28].copy_from_slice(&key);
            let value = (mended.len() as u64 - 36).wrapping_sub(u64::from(size));
            mended[28..36].copy_from_slice(&value.to_le_bytes());
            let checksum = xxh3_64(&mended[16..]);
            mended[8..16].copy_from_slice(&checksum.to_le_bytes());
        }
        if let Some((expires, key, value)) = file::decode(&mended.clone().into()) {
            assert_eq!(key.len() + value.len() + 36, mended.len());
            assert_eq!(
                file::expiry_in_head(&mended[..36], mended.len() as u64),
                Some(expires)
            );
        }
    }
    let (key, value) = data.split_at(usize::from(size).min(data.len()));
    if let Ok(key) = std::str::from_utf8(key) {
        let whole = Bytes::from(file::encode(key, 7, value));
        let (expires, read, same) = file::decode(&whole).unwrap();
        assert_eq!((expires, &read[..], &same[..]), (7, key.as_bytes(), value));
        assert!(file::decode(&whole.slice(..whole.len() - 1)).is_none());
    }
}

fn numbers(data: &[u8]) {
    if let Ok(counter) = parse_counter(data) {
        assert_eq!(counter.to_string().as_bytes(), data);
    }
    assert_eq!(memcached::round_trip(data).as_deref(), Some(data));
    let (generation, counter) = memcached::numbers(data);
    assert_eq!(generation.is_some(), counter.is_some());
    let json: Result<serde_json::Value, _> = serde_json::from_slice(data);
    let mut same = None;
    let _ = Json.decode(data, &mut |deserializer| {
        same = Some(erased_serde::deserialize::<serde_json::Value>(
            deserializer,
        )?);
        Ok(())
    });
    if let (Ok(json), Some(same)) = (json, same) {
        assert_eq!(json, same);
    }
}

/// As a codec of the application's would be.
#[derive(Debug)]
struct Json;

impl Codec for Json {
    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, axum_cache::BoxError> {
        Ok(serde_json::to_vec(value)?)
    }

    fn decode(
        &self,
        bytes: &[u8],
        visit: axum_cache::codec::Visit<'_>,
    ) -> Result<(), axum_cache::BoxError> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))?;
        Ok(json.end()?)
    }
}

fn answers(data: &[u8]) {
    let _ = redis::answer(data);
    if let Ok(prefix) = std::str::from_utf8(data) {
        let pattern = redis::pattern(prefix);
        let mut rest = pattern.strip_suffix(b"*").unwrap().iter();
        let mut meant = Vec::new();
        while let Some(byte) = rest.next() {
            meant.push(if *byte == b'\\' {
                *rest.next().unwrap()
            } else {
                *byte
            });
            assert!(*byte == b'\\' || !b"*?[".contains(byte));
        }
        assert_eq!(meant, prefix.as_bytes());
    }
}

fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some((table, index)) = sql::table(text) {
        assert_eq!(table.replace('"', ""), text);
        assert!(
            index
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_\"".contains(&byte))
        );
    }
    if file::is_own(text) {
        assert!(text.is_ascii() && text.len() == 36 && !text.contains('/'));
    }
    let _ = memcached::is_server(text);
}

fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = Settings::from_json(text);
    let _ = Settings::from_toml(text);
    let _ = Settings::new().with_url("default", text);
}

#[derive(Arbitrary, Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Integer(i64),
    Large(u128),
    Truth(bool),
    Letter(char),
    Maybe(Option<Box<Part>>),
    Several(Vec<Part>),
    Pair(Box<(Part, Part)>),
}

impl KeyPart for Part {
    fn write_key(&self, writer: &mut KeyWriter) {
        match self {
            Self::Text(text) => text.write_key(writer),
            Self::Integer(integer) => integer.write_key(writer),
            Self::Large(integer) => integer.write_key(writer),
            Self::Truth(truth) => truth.write_key(writer),
            Self::Letter(letter) => letter.write_key(writer),
            Self::Maybe(part) => part.write_key(writer),
            Self::Several(parts) => parts.write_key(writer),
            Self::Pair(pair) => pair.write_key(writer),
        }
    }
}

/// What a part says, whatever type says it: a letter is a text, a pair a list of two.
fn plain(part: &Part) -> Part {
    match part {
        Part::Letter(letter) => Part::Text(letter.to_string()),
        Part::Integer(integer) if *integer >= 0 => Part::Large(integer.unsigned_abs().into()),
        Part::Maybe(None) => Part::Maybe(None),
        // What is there reads as itself, unless it could be taken for an absence.
        Part::Maybe(Some(part)) => match plain(part) {
            part @ (Part::Maybe(_) | Part::Truth(_)) => Part::Maybe(Some(Box::new(part))),
            part => part,
        },
        Part::Several(parts) => Part::Several(parts.iter().map(plain).collect()),
        Part::Pair(pair) => Part::Several(vec![plain(&pair.0), plain(&pair.1)]),
        part => part.clone(),
    }
}

fn keys(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((one, other)) = <([Part; 2], [Part; 2])>::arbitrary(&mut input) else {
        return;
    };
    let key = |parts: &[Part; 2]| key!(parts[0], parts[1]);
    let same = one.each_ref().map(plain) == other.each_ref().map(plain);
    assert_eq!(key(&one) == key(&other), same, "{one:?} {other:?}");
    let alone = key!(one[0]);
    assert_ne!(alone, key(&other), "{one:?} {other:?}");

    // The final keys of caches, and those on the wire.
    type Place = (String, u64, String);
    let Ok((one, other, generation)) = <(Place, Place, u64)>::arbitrary(&mut input) else {
        return;
    };
    let last = |place: &Place, policy| {
        let cache = Cache::builder(Dummy)
            .key_prefix(&place.0)
            .key_policy(policy)
            .build();
        cache.ok()?.with_version(place.1).final_key(&place.2).ok()
    };
    let hash = KeyPolicy::Hash;
    if let (Some(first), Some(second)) = (last(&one, hash), last(&other, hash)) {
        assert_eq!(first.as_str() == second.as_str(), one == other);
        assert!(first.as_str().starts_with(first.namespace()));
        let portable =
            |text: &str| text.len() <= 250 && text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
        assert!(portable(first.as_str()));
        if one.0 != other.0 {
            assert!(!first.as_str().starts_with(second.namespace()));
        }
        let wire = memcached::wire_key(&first, generation);
        assert!(portable(&wire));
        assert_eq!(
            wire == memcached::wire_key(&second, generation),
            first == second
        );
        assert_ne!(wire, memcached::wire_key(&second, !generation));
        assert_ne!(wire, memcached::generation_key(second.namespace()));
    }
    if let Some(strict) = last(&one, KeyPolicy::Error) {
        // One that looks like a hashed key is hashed, to be told from those that are.
        let text = strict.as_str().as_bytes();
        let looks_hashed = text.len() > 64 && text[text.len() - 65] == b'#';
        assert_eq!(Some(&strict) == last(&one, hash).as_ref(), !looks_hashed);
    }
}

fn django(data: &[u8]) {
    type Cookies = Vec<(String, Option<String>)>;
    type Asked = (
        String,
        Option<String>,
        String,
        Option<String>,
        Cookies,
        Cookies,
    );
    let mut input = Unstructured::new(data);
    let Ok((asked, values, tags)) =
        <(Asked, Vec<(String, Option<Vec<u8>>)>, Vec<String>)>::arbitrary(&mut input)
    else {
        return;
    };
    let (prefix, authority, path, query, cookies, facets) = &asked;
    let facets_of = |pairs: &Cookies| -> Vec<_> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| Facet::new(name.clone(), value.clone()))
            .collect()
    };
    let (cookies, facets) = (facets_of(cookies), facets_of(facets));
    let mut target = PageTarget::new("http", authority.as_deref(), path, query.as_deref());
    target.key_prefix = prefix;
    target.cookies = &cookies;
    target.facets = &facets;
    let values: Vec<_> = values
        .iter()
        .map(|(name, value)| (&**name, value.as_deref()))
        .collect();
    for keys in [
        DjangoKeys::new(),
        DjangoKeys::new().with_language("en").with_time_zone("UTC"),
    ] {
        assert_eq!(keys.primary(&target), keys.primary(&target.clone()));
        assert_ne!(keys.primary(&target), keys.variant(&target, &values, 1));
        assert_eq!(
            keys.variant(&target, &values, 1),
            keys.variant(&target, &values, 2)
        );
    }
    let tags: Vec<_> = tags.iter().map(String::as_str).collect();
    let fragment = DjangoKeys::fragment(path, &tags);
    assert_eq!(key!(fragment), fragment.as_str());
}
