//! What may be stored, what is refused and how: scopes, responses, options, errors.

use std::time::Duration;

use oncelog::{
    Background, Durability, Error, Fingerprint, Kept, OperationId, Options, Scope, Store, Token,
};

use crate::contract::support::{
    BUFFERED, SEGMENT_BYTES, World, body, claim, granted, in_progress, kind, orphaned, other_body,
    replay, run, scope,
};

const MIB: usize = 1 << 20;

/// Segments in which a response of the default size fits.
fn roomy(world: &World) -> Options {
    world.options().segment_bytes(64 << 20)
}

#[test]
fn a_scope_holds_any_utf8_up_to_4096_bytes_and_no_more() {
    let store = World::new().open_with_room();
    let long = "\u{1F980}\0\n\"k".repeat(1_000);
    let key = &long[..4_096 - "acme".len() - "POST".len() - "/v1/contacts".len()];
    assert!(long.is_char_boundary(key.len()));
    run(&store, key, b"fits");
    assert_eq!(replay(claim(&store, key)).bytes(), Some(&b"fits"[..]));
    let over = format!("{key}x");
    let refused = store.claim(scope(&over), body());
    let Err(Error::TooLarge { bytes: 4_097, limit: 4_096, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(matches!(store.lookup(scope(&over)), Err(Error::TooLarge { .. })));
    assert!(matches!(store.orphan(scope(&over)), Err(Error::TooLarge { .. })));
    let huge = "x".repeat(10 * MIB);
    assert!(matches!(store.claim(scope(&huge), body()), Err(Error::TooLarge { .. })));
}

impl World {
    fn open_with_room(&self) -> Store {
        self.open_with(roomy(self))
    }
}

#[test]
fn an_empty_method_path_or_key_is_invalid_and_an_empty_organization_is_a_tenant() {
    let store = World::new().open();
    let full = scope("k");
    for bad in [Scope { method: "", ..full }, Scope { path: "", ..full }, Scope { key: "", ..full }]
    {
        assert!(matches!(store.claim(bad, body()), Err(Error::Invalid { .. })));
        assert!(matches!(store.lookup(bad), Err(Error::Invalid { .. })));
    }
    let nobody = Scope { organization: "", ..full };
    granted(store.claim(nobody, body()).unwrap()).complete(b"").unwrap();
    assert_eq!(kind(&store, "k"), "free");
    assert_eq!(store.claim(nobody, body()).unwrap().kind(), "replay");
}

#[test]
fn the_four_fields_are_separate_exact_and_case_sensitive() {
    let store = World::new().open();
    let scopes = [
        ["a", "b", "c", "d"],
        ["ab", "c", "d", "e"],
        ["a", "bc", "d", "e"],
        ["a", "b", "cd", "e"],
        ["a", "b", "c", "de"],
        ["", "ab", "c", "de"],
        ["A", "b", "c", "d"],
        ["a", "B", "c", "d"],
        ["a", "b", "C", "d"],
        ["a", "b", "c", "D"],
        ["a", "b", "c", "d "],
        ["a", "b", "c/", "d"],
        ["e\u{301}", "b", "c", "d"],
        ["\u{e9}", "b", "c", "d"],
        ["a\0", "b", "c", "d"],
    ];
    let of = |[organization, method, path, key]: [&'static str; 4]| Scope {
        organization,
        method,
        path,
        key,
    };
    for (number, fields) in scopes.into_iter().enumerate() {
        let permit = granted(store.claim(of(fields), body()).unwrap());
        permit.complete(number.to_string().as_bytes()).unwrap();
    }
    let mut digests = std::collections::BTreeSet::new();
    for (number, fields) in scopes.into_iter().enumerate() {
        let stored = replay(store.claim(of(fields), body()).unwrap());
        assert_eq!(stored.bytes(), Some(number.to_string().as_bytes()));
        assert!(digests.insert(of(fields).digest()));
    }
}

#[test]
fn debug_shows_a_hash_of_the_key_and_never_the_key() {
    let store = World::new().open();
    let key = "hubspot-contact-123";
    let permit = granted(claim(&store, key));
    let shown = [format!("{:?}", scope(key)), format!("{permit:?}"), format!("{store:?}")];
    drop(permit);
    let orphan = orphaned(claim(&store, key));
    let more = [format!("{orphan:?}"), format!("{:?}", orphan.info())];
    for shown in shown.iter().chain(&more) {
        assert!(!shown.contains("hubspot") && !shown.contains("contact-123"), "{shown}");
    }
    assert_ne!(format!("{:?}", scope("one")), format!("{:?}", scope("two")));
    assert!(format!("{:?}", scope(key)).contains("acme"));
}

#[test]
fn responses_are_replayed_byte_for_byte_whatever_their_size() {
    for durability in [Durability::Synced, BUFFERED] {
        let world = World::new();
        let store = world.open_with(roomy(&world).durability(durability));
        let byte = |at: usize| u8::try_from(at * 31 % 251).unwrap();
        let sizes = [0, 1, 15, 16, 17, 511, 512, 4_095, 4_096, 65_536, MIB - 1, MIB];
        let response = |size: usize| (0..size).map(byte).collect::<Vec<u8>>();
        for size in sizes {
            let stored = run(&store, &size.to_string(), &response(size));
            assert_eq!((stored.kept(), stored.bytes()), (Kept::Whole, Some(&response(size)[..])));
        }
        store.clone().sync().unwrap();
        let killed = world.on(world.disk.after_kill()).open_with_room();
        store.close().unwrap();
        for store in [killed, world.open_with_room()] {
            for size in sizes {
                let stored = replay(claim(&store, &size.to_string()));
                assert_eq!(stored.bytes(), Some(&response(size)[..]), "{size} bytes");
                let owned = stored.into_bytes().unwrap();
                let seen: &[u8] = owned.as_ref();
                assert_eq!(seen, response(size));
                assert_eq!(Vec::from(owned), response(size));
            }
        }
    }
}

#[test]
fn a_response_that_is_too_large_is_left_out_and_the_completion_is_stored() {
    let world = World::new();
    let store = world.open_with_room();
    let stored = run(&store, "k", &vec![1; MIB + 1]);
    assert_eq!((stored.bytes(), stored.kept()), (None, Kept::TooLarge));
    let small = world.on(crate::support::disk::SimDisk::new());
    let small = small.open_with(small.options().response_bytes_max(3));
    assert_eq!(run(&small, "fits", b"abc").kept(), Kept::Whole);
    assert_eq!(run(&small, "k", b"abcd").kept(), Kept::TooLarge);
    let parts = granted(claim(&small, "parts")).complete_parts(&[b"ab", b"cd"]).unwrap();
    assert_eq!(parts.kept(), Kept::TooLarge);
    let after = world.on(world.disk.after_kill()).open_with_room();
    for store in [store, small, after] {
        let stored = replay(claim(&store, "k"));
        assert_eq!((stored.bytes(), stored.kept()), (None, Kept::TooLarge), "never a second run");
        assert!(stored.into_bytes().is_none());
        assert_eq!(store.claim(scope("k"), other_body()).unwrap().kind(), "conflict");
    }
}

#[test]
fn complete_without_response_says_that_it_ran() {
    let world = World::new();
    let store = world.open();
    let stored = granted(claim(&store, "k")).complete_without_response().unwrap();
    assert_eq!((stored.bytes(), stored.kept()), (None, Kept::Omitted));
    assert_eq!(run(&store, "empty", b"").bytes(), Some(&[][..]), "empty is not absent");
    drop(store);
    let store = world.open();
    assert_eq!(replay(claim(&store, "k")).kept(), Kept::Omitted);
    assert_eq!(replay(claim(&store, "empty")).bytes(), Some(&[][..]));
}

#[test]
fn complete_parts_stores_one_value() {
    let store = World::new().open();
    let permit = granted(claim(&store, "k"));
    permit.complete_parts(&[b"", b"201", b" ", b"created", b""]).unwrap();
    assert_eq!(replay(claim(&store, "k")).bytes(), Some(&b"201 created"[..]));
    let permit = granted(claim(&store, "none"));
    permit.complete_parts(&[]).unwrap();
    assert_eq!(replay(claim(&store, "none")).bytes(), Some(&[][..]));
}

#[test]
fn a_checkpoint_of_64_kib_is_saved_and_a_larger_one_refused() {
    let world = World::new();
    let store = world.open_with_room();
    let permit = granted(claim(&store, "k"));
    permit.save_checkpoint(&[9; 65_536]).unwrap();
    let refused = permit.save_checkpoint(&[8; 65_537]);
    assert!(matches!(refused, Err(Error::TooLarge { limit: 65_536, .. })), "{refused:?}");
    drop(permit);
    let orphan = orphaned(claim(&store, "k"));
    assert_eq!(orphan.info().checkpoint(), Some(&[9; 65_536][..]));
}

#[test]
fn checkpoints_that_take_more_than_a_quarter_of_a_segment_are_refused_and_the_last_one_stays() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    permit.save_checkpoint(&[1; 14_000]).unwrap();
    let refused = permit.save_checkpoint(&[2; SEGMENT_BYTES as usize / 4]);
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    drop(permit);
    let orphan = orphaned(claim(&store, "k"));
    assert_eq!(orphan.info().checkpoint(), Some(&[1; 14_000][..]));
}

#[test]
fn open_claims_that_take_too_much_room_are_refused_and_all_else_goes_on() {
    let world = World::new();
    let store = world.open();
    run(&store, "done", b"created");
    let long = "x".repeat(1_000);
    let mut permits = Vec::new();
    let refused = loop {
        match store.claim(scope(&format!("{long}{}", permits.len())), body()) {
            Ok(claim) => permits.push(granted(claim)),
            Err(error) => break error,
        }
        assert!(permits.len() < 1_000, "64 KiB cannot carry so many");
    };
    assert!(matches!(refused, Error::Full { .. }) && refused.is_retryable(), "{refused:?}");
    assert_eq!(store.stats().refused, 1);
    assert_eq!(replay(claim(&store, "done")).bytes(), Some(&b"created"[..]));
    assert_eq!(store.claim(scope("done"), other_body()).unwrap().kind(), "conflict");
    in_progress(store.claim(permits[0].scope(), body()).unwrap());
    // Every granted claim, an orphan too, can complete or release.
    let orphan = permits.pop().unwrap();
    let key = orphan.scope().key.to_owned();
    drop(orphan);
    assert_eq!(orphaned(claim(&store, &key)).resolve(b"found").unwrap().kept(), Kept::Whole);
    permits.pop().unwrap().release().unwrap();
    for permit in permits {
        permit.complete(&[7; 8_000]).unwrap();
    }
    run(&store, "room again", b"");
}

#[test]
fn options_outside_their_range_are_invalid() {
    let second = Duration::from_secs(1);
    let century = Duration::from_secs(101 * 365 * 24 * 3_600);
    let buffered = |sync_every| Store::options().durability(Durability::Buffered { sync_every });
    let bad = [
        Store::options().ttl(second - Duration::from_nanos(1)),
        Store::options().ttl(century),
        Store::options().ttl(Duration::MAX),
        Store::options().bucket(Duration::from_millis(9)),
        Store::options().ttl(2 * second).bucket(3 * second),
        Store::options().lease(Duration::ZERO),
        Store::options().lease(century),
        buffered(Duration::ZERO),
        buffered(2 * Duration::from_secs(3_600)),
        Store::options().segment_bytes(0),
        Store::options().segment_bytes(SEGMENT_BYTES - 4_096),
        Store::options().segment_bytes(SEGMENT_BYTES + 1),
        Store::options().segment_bytes((64 << 20) + 4_096),
        Store::options().segment_bytes(u64::MAX),
        Store::options().response_bytes_max(u32::MAX),
        Store::options().segment_bytes(SEGMENT_BYTES).response_bytes_max(8_193),
        Store::options().expected_keys(u64::MAX),
    ];
    for options in bad {
        let shown = format!("{options:?}");
        let dir = tempfile::tempdir().unwrap();
        let opened = options.open(dir.path());
        assert!(matches!(opened, Err(Error::Invalid { .. })), "{shown}: {opened:?}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing was created");
    }
}

#[test]
fn options_at_the_ends_of_their_range_open() {
    let good = |options: Options| {
        let world = World::new();
        let store = world.open_with(options.background(Background::Inline));
        run(&store, "k", b"created");
        assert_eq!(claim(&store, "k").kind(), "replay");
    };
    let second = Duration::from_secs(1);
    let century = Duration::from_secs(100 * 365 * 24 * 3_600);
    good(Store::options().ttl(second));
    good(Store::options().ttl(century).lease(century));
    good(Store::options().bucket(Duration::from_millis(10)));
    good(Store::options().ttl(second).bucket(second));
    good(Store::options().segment_bytes(SEGMENT_BYTES).response_bytes_max(8_192));
    good(Store::options().segment_bytes(64 << 20));
    good(Store::options().response_bytes_max((16 << 20) - 8_192));
}

#[test]
fn errors_can_be_cloned_sent_and_shown_and_say_whether_to_retry() {
    fn is_shared<T: Clone + Send + Sync + std::error::Error + 'static>() {}
    is_shared::<Error>();
    let store = World::new().open();
    let empty = store.claim(scope(""), body()).unwrap_err();
    store.clone().close().unwrap();
    let closed = store.claim(scope("k"), body()).unwrap_err();
    for error in [empty, closed, Error::Superseded] {
        assert!(!error.is_retryable());
        let shown = error.clone().to_string();
        assert!(!shown.ends_with('.') && !shown.is_empty());
    }
    assert!(Error::Full { what: "disk" }.is_retryable());
    assert!(Error::AlreadyOpen { dir: "d".into() }.is_retryable());
}

#[test]
fn a_claim_names_its_kind() {
    let store = World::new().open();
    let running = claim(&store, "k");
    assert_eq!(running.kind(), "granted");
    assert_eq!(claim(&store, "k").kind(), "in_progress");
    assert_eq!(store.claim(scope("k"), other_body()).unwrap().kind(), "conflict");
    drop(running);
    let orphan = claim(&store, "k");
    assert_eq!(orphan.kind(), "orphaned");
    drop(orphaned(orphan).resolve(b"").unwrap());
    assert_eq!(claim(&store, "k").kind(), "replay");
}

#[test]
fn tokens_operations_and_fingerprints_survive_text_and_bytes() {
    let store = World::new().open();
    let permit = granted(claim(&store, "k"));
    let (token, operation) = (permit.token(), permit.operation());
    assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
    assert_eq!(Token::from_bytes(token.to_bytes()), token);
    let text = operation.to_string();
    assert_eq!(text.parse::<OperationId>().unwrap(), operation);
    assert_eq!(OperationId::from_bytes(operation.to_bytes()), operation);
    let dashes: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
    assert_eq!((text.len(), dashes), (36, vec![8, 13, 18, 23]));
    assert_eq!(&text[14..15], "8", "a version 8 UUID");
    assert!("89ab".contains(&text[19..20]), "of the RFC 9562 variant");
    assert_eq!(body().to_string().parse::<Fingerprint>().unwrap(), body());
    assert_eq!(Fingerprint::from_bytes(body().to_bytes()), body());
    assert!("zz".parse::<Token>().is_err() && "zz".parse::<OperationId>().is_err());
    assert!("zz".parse::<Fingerprint>().is_err());
    permit.complete(b"").unwrap();
}

#[test]
fn a_fingerprint_of_parts_is_length_prefixed() {
    assert_ne!(Fingerprint::of_parts(&[b"a", b"bc"]), Fingerprint::of_parts(&[b"ab", b"c"]));
    assert_ne!(Fingerprint::of_parts(&[b"a"]), Fingerprint::of_parts(&[b"a", b""]));
    assert_eq!(Fingerprint::of(b"a"), Fingerprint::of(b"a"));
    assert_ne!(Fingerprint::of(b"a"), Fingerprint::of(b"A"));
}

#[test]
fn a_store_keeps_its_segment_size_and_stores_every_completion_whatever_is_asked_for_later() {
    let world = World::new();
    world.open().close().unwrap();
    let store = world.open_with_room();
    for size in [0, 8_192, 16_000, 40_000, 57_000, 65_000, 100_000, MIB] {
        let key = size.to_string();
        let response = vec![5; size];
        let stored = run(&store, &key, &response);
        let again = replay(claim(&store, &key));
        assert_eq!((again.kept(), again.bytes()), (stored.kept(), stored.bytes()), "{size}");
        let whole = stored.kept() == Kept::Whole;
        assert_eq!(stored.bytes(), whole.then_some(&response[..]));
        assert!(whole || size > 8_192, "{size}");
    }
    assert!(world.disk.names().iter().filter(|name| name.ends_with(".seg")).all(|name| {
        world.disk.read(name).is_some_and(|bytes| bytes.len() as u64 == SEGMENT_BYTES)
    }));
}
