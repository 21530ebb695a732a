//! What the servers hold: tokens that outlive a release, orphans and their operator, servers
//! without memory, and keys that somebody else wrote.

use std::time::Duration;

use oncelog::cluster::{RedisError, RedisPermit, RedisStore};
use oncelog::http::{
    Administer as _, Answer, Backend as _, BackendError as _, BackendPermit as _, ErrorKind,
    Holding,
};
use oncelog::{Fingerprint, Scope, Token};
use redis::Value;

use crate::server::Server;

pub(crate) const KEY: Scope<'_> =
    Scope { organization: "acme", method: "POST", path: "/contacts", key: "import-1" };
pub(crate) const LEASE: Duration = Duration::from_secs(60);

pub(crate) fn body() -> Fingerprint {
    Fingerprint::of(b"body")
}

pub(crate) async fn claim(store: &RedisStore, scope: Scope<'_>) -> Answer<RedisPermit> {
    store.claim(scope, body(), LEASE).await.unwrap()
}

pub(crate) async fn grant(store: &RedisStore, scope: Scope<'_>) -> RedisPermit {
    match claim(store, scope).await {
        Answer::Granted(permit) => permit,
        other => panic!("a free scope is granted, not {other:?}"),
    }
}

/// The only key of a server.
fn only_key(server: &Server) -> Vec<u8> {
    let mut keys: Vec<Vec<u8>> = server.ask(&["KEYS", "*"]);
    assert_eq!(keys.len(), 1);
    keys.remove(0)
}

/// Changes bytes of a value behind the store's back, as a caller of another time would have.
fn write(server: &Server, key: &[u8], at: usize, bytes: &[u8]) {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut set = redis::cmd("SETRANGE");
    set.arg(key).arg(at).arg(bytes).exec(&mut connection).unwrap();
}

/// Claims after a release by somebody whose clock is years ahead: an error where the next token is
/// not above that.
pub(crate) async fn token_after_a_release(
    store: &RedisStore,
    server: &Server,
) -> Result<RedisPermit, String> {
    server.ask::<()>(&["FLUSHALL"]);
    let permit = grant(store, KEY).await;
    store.release(&permit).await.map_err(|error| error.to_string())?;
    if server.ask::<Vec<Value>>(&["KEYS", "*"]).is_empty() {
        return Err("nothing is left of the token".into());
    }
    let ahead = (1 << 62 | permit.token().get()).to_le_bytes();
    write(server, &only_key(server), 24, &ahead);
    let next = grant(store, KEY).await;
    if next.token().get() <= u64::from_le_bytes(ahead) {
        return Err(format!("{} after a larger token", next.token()));
    }
    Ok(next)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_take_overs_with_one_token_one_is_granted() {
    let server = Server::start(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let first = given_up(&store, KEY).await;
    // Above what any clock gives, so that all who take it over want the token after this.
    let ahead = (1 << 62 | first.token().get()).to_le_bytes();
    write(&server, &only_key(&server), 24, &ahead);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let store = store.clone();
        let seen = oncelog::Token::from_bytes(ahead);
        callers.spawn(async move { store.take_over(KEY, body(), seen, LEASE).await.unwrap() });
    }
    let answers = callers.join_all().await;
    let granted = answers.iter().filter(|answer| matches!(answer, Answer::Granted(_))).count();
    assert_eq!(granted, 1);
}

fn key(key: &str) -> Scope<'_> {
    Scope { key, ..KEY }
}

async fn given_up(store: &RedisStore, scope: Scope<'_>) -> RedisPermit {
    let permit = grant(store, scope).await;
    store.give_up(&permit).await.unwrap();
    permit
}

#[tokio::test]
async fn an_operator_sees_every_orphan_and_ends_it() {
    let server = Server::start(&[]);
    let store = RedisStore::options().prefix("a*b").connect(&server.url()).await.unwrap();
    // Another prefix that a pattern could take for this one.
    let beside = RedisStore::options().prefix("aXb").connect(&server.url()).await.unwrap();
    given_up(&beside, KEY).await;
    let mut tokens = Vec::new();
    for number in ["1", "2", "3"] {
        tokens.push(given_up(&store, key(number)).await.token());
    }
    let lapsed = grant(&store, key("lapsed")).await;
    tokens.push(lapsed.token());
    server.pass(LEASE);
    let running = grant(&store, key("running")).await;
    let done = grant(&store, key("done")).await;
    store.complete(&done, &[b"done"]).await.unwrap();
    tokens.sort_unstable();

    let all = store.unresolved(None, 10).await.unwrap();
    assert_eq!(all.iter().map(|orphan| orphan.orphan.token).collect::<Vec<_>>(), tokens);
    assert!(all.iter().all(|orphan| orphan.organization == "acme" && orphan.path == "/contacts"));
    let page = store.unresolved(Some(tokens[0]), 2).await.unwrap();
    assert_eq!(page.iter().map(|orphan| orphan.orphan.token).collect::<Vec<_>>(), tokens[1..3]);

    let seen = all.iter().find(|orphan| orphan.key == "1").unwrap().orphan.token;
    let resolved = store.resolve(key("1"), seen, b"found").await.unwrap();
    assert_eq!(resolved.response.as_deref(), Some(&b"found"[..]));
    let again = store.resolve(key("1"), seen, b"found").await.unwrap();
    assert_eq!(again, resolved, "an answer lost on the way is given again");
    let other = store.resolve(key("1"), seen, b"another").await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Superseded);
    assert_eq!(store.look_up(key("1")).await.unwrap(), Some(Holding::Completed(resolved)));

    store.release_orphan(key("lapsed"), lapsed.token()).await.unwrap();
    assert_eq!(store.look_up(key("lapsed")).await.unwrap(), None);
    let late = store.complete(&lapsed, &[b"late"]).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Superseded);
    for open in [key("running"), key("nobody's")] {
        let told = store.release_orphan(open, running.token()).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Superseded, "{open:?}");
    }
    assert_eq!(store.unresolved(None, 10).await.unwrap().len(), 2);
}

/// What a check of an operator's call finds: the first thing that is not as it should be.
pub(crate) type Checked = Result<(), String>;

fn wants(holds: impl Into<Option<bool>>, what: &str) -> Checked {
    if holds.into() == Some(true) { Ok(()) } else { Err(what.to_owned()) }
}

fn superseded<T>(told: Result<T, RedisError>, what: &str) -> Checked {
    wants(told.err().map(|error| error.kind() == ErrorKind::Superseded), what)
}

fn other(token: Token) -> Token {
    Token::from_bytes((token.get() ^ 1).to_le_bytes())
}

/// One scope in every state but orphaned: what may be neither resolved nor released.
async fn no_orphans(store: &RedisStore) -> [(&'static str, Token); 3] {
    let running = grant(store, key("running")).await;
    let done = grant(store, key("done")).await;
    store.complete(&done, &[b"done"]).await.unwrap();
    let released = grant(store, key("released")).await;
    store.release(&released).await.unwrap();
    [("running", running.token()), ("done", done.token()), ("released", released.token())]
}

/// That all of them are refused, and stay what they are.
async fn are_refused<T>(
    store: &RedisStore,
    end: impl AsyncFn(Scope<'static>, Token) -> Result<T, RedisError>,
) -> Checked {
    let scopes = no_orphans(store).await;
    for (name, token) in scopes {
        let before = look(store, key(name)).await?;
        // The released one was released by its token: that is another check.
        let token = if name == "released" { other(token) } else { token };
        superseded(end(key(name), token).await, name)?;
        match (before, look(store, key(name)).await?) {
            (Some(Holding::InProgress(before)), Some(Holding::InProgress(after))) => {
                wants(before.token == after.token, name)?;
            }
            (before, after) => wants(before == after, name)?,
        }
    }
    superseded(end(key("nobody's"), scopes[0].1).await, "nobody's")
}

async fn look(store: &RedisStore, scope: Scope<'_>) -> Result<Option<Holding>, String> {
    store.look_up(scope).await.map_err(|error| error.to_string())
}

async fn is_orphaned(store: &RedisStore, token: Token, what: &str) -> Checked {
    let held = look(store, KEY).await?;
    wants(matches!(held, Some(Holding::Orphaned(orphan)) if orphan.token == token), what)
}

/// `resolve` ends the orphan that was seen, that alone, and once.
pub(crate) async fn resolves_what_was_seen(store: &RedisStore, server: &Server) -> Checked {
    are_refused(store, async |scope, seen| store.resolve(scope, seen, b"found").await).await?;
    let permit = given_up(store, KEY).await;
    let token = permit.token();
    superseded(store.resolve(KEY, other(token), b"found").await, "another attempt")?;
    is_orphaned(store, token, "a wrong token changes nothing").await?;
    let resolved = store.resolve(KEY, token, b"found").await.map_err(|error| error.to_string())?;
    let facts = (resolved.response.as_deref(), resolved.operation, resolved.token);
    wants(facts == (Some(&b"found"[..]), permit.operation(), token), "what was found")?;
    let lives = resolved.expires_at.duration_since(resolved.completed_at);
    wants(
        lives.ok().map(|lives| lives == Duration::from_secs(30 * 24 * 3600)),
        "its time to live begins anew",
    )?;
    let kept = Some(Holding::Completed(resolved.clone()));
    wants(look(store, KEY).await? == kept, "it is kept")?;
    superseded(store.resolve(KEY, token, b"another").await, "another response")?;
    let again = store.resolve(KEY, token, b"found").await.ok();
    wants(again.map(|again| again == resolved), "an answer that was lost is given again")?;
    superseded(store.complete(&permit, &[b"late"]).await, "an attempt that completes late")?;
    wants(look(store, KEY).await? == kept, "nothing of that changes it")?;
    let lapsed = grant(store, key("lapsed")).await;
    server.pass(LEASE);
    let told = store.resolve(key("lapsed"), lapsed.token(), b"found").await;
    wants(told.is_ok(), "a lease that is over makes an orphan")
}

/// `release_orphan` frees the scope of the orphan that was seen, and of no other.
pub(crate) async fn releases_what_was_seen(store: &RedisStore, server: &Server) -> Checked {
    are_refused(store, async |scope, seen| store.release_orphan(scope, seen).await).await?;
    let permit = given_up(store, KEY).await;
    // Above what any clock gives.
    let ahead = Token::from_bytes((1 << 62 | permit.token().get()).to_le_bytes());
    write(server, &store_key(KEY), 24, &ahead.to_bytes());
    superseded(store.release_orphan(KEY, other(ahead)).await, "another attempt")?;
    is_orphaned(store, ahead, "a wrong token changes nothing").await?;
    wants(store.release_orphan(KEY, ahead).await.is_ok(), "an orphan is released")?;
    wants(look(store, KEY).await?.is_none(), "its scope is free")?;
    wants(store.release_orphan(KEY, ahead).await.is_ok(), "asked again, it is told again")?;
    superseded(store.release_orphan(KEY, other(ahead)).await, "it was not another's")?;
    superseded(store.complete(&permit, &[b"late"]).await, "the attempt has ended")?;
    let next = grant(store, KEY).await;
    wants(next.token() > ahead, "tokens increase beyond a release")?;
    superseded(store.release_orphan(KEY, ahead).await, "the next claim is kept")
}

/// `forget` erases what completed and counts it; an open claim is kept.
pub(crate) async fn forgets_what_completed(store: &RedisStore, server: &Server) -> Checked {
    let forgets = async |scope, wanted: bool, what: &str| {
        let told = store.forget(scope).await.map_err(|error| error.to_string())?;
        wants(told == wanted, what)
    };
    let permit = given_up(store, key("orphan")).await;
    forgets(key("orphan"), false, "an orphan is kept").await?;
    let released = store.release_orphan(key("orphan"), permit.token()).await;
    wants(released.is_ok(), "it was kept")?;
    let permit = grant(store, KEY).await;
    forgets(KEY, false, "a running claim is kept").await?;
    forgets(key("nobody's"), false, "nothing is not forgotten").await?;
    wants(store.complete(&permit, &[b"response"]).await.is_ok(), "and completes")?;
    // Above what any clock gives.
    let ahead = Token::from_bytes((1 << 62 | permit.token().get()).to_le_bytes());
    write(server, &store_key(KEY), 24, &ahead.to_bytes());
    forgets(KEY, true, "what completed is forgotten").await?;
    wants(look(store, KEY).await?.is_none(), "its scope is free")?;
    forgets(KEY, false, "it is free").await?;
    let next = store.claim(KEY, body(), LEASE).await.map_err(|error| error.to_string())?;
    let Answer::Granted(next) = next else { return Err("a free scope is granted".into()) };
    wants(next.token() > ahead, "tokens increase beyond what was forgotten")?;
    wants(store.complete(&next, &[b"response"]).await.is_ok(), "it completes")?;
    let count = store.forget_organization(KEY.organization).await.ok();
    wants(count.map(|count| count == 1), "one was forgotten, of three keys")
}

/// The key of a scope in the store that is connected to without a prefix of its own.
fn store_key(scope: Scope<'_>) -> Vec<u8> {
    [b"oncelog:", &scope.digest()[..]].concat()
}

#[tokio::test]
async fn what_is_forgotten_leaves_nothing_but_a_token() {
    let server = Server::start(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let permit = grant(&store, KEY).await;
    assert!(!store.forget(KEY).await.unwrap(), "an open claim is kept");
    store.complete(&permit, &[b"a secret"]).await.unwrap();
    assert!(store.forget(KEY).await.unwrap());
    assert!(!store.forget(KEY).await.unwrap(), "it is free");
    assert_eq!(store.look_up(KEY).await.unwrap(), None);
    let dump = format!("{:?}", server.ask::<Value>(&["EVAL", DUMP, "0"]));
    assert!(!dump.contains("secret") && !dump.contains("contacts"), "{dump}");
    assert!(grant(&store, KEY).await.token() > permit.token());
}

const DUMP: &str = "return redis.call('GET', redis.call('KEYS', '*')[1])";

#[tokio::test]
async fn an_organization_is_forgotten_but_for_its_open_claims() {
    let server = Server::start(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    for number in 0..1000 {
        let organization = if number % 2 == 0 { "acme" } else { "umbrella" };
        let key = number.to_string();
        let permit = grant(&store, Scope { organization, key: &key, ..KEY }).await;
        store.complete(&permit, &[b"response"]).await.unwrap();
    }
    given_up(&store, key("open")).await;
    assert_eq!(store.forget_organization("acme").await.unwrap(), 500);
    assert_eq!(store.forget_organization("acme").await.unwrap(), 0);
    assert_eq!(store.look_up(key("0")).await.unwrap(), None);
    let other = Scope { organization: "umbrella", key: "1", ..KEY };
    assert!(matches!(store.look_up(other).await.unwrap(), Some(Holding::Completed(_))));
    assert!(matches!(store.look_up(key("open")).await.unwrap(), Some(Holding::Orphaned(_))));
}

#[tokio::test]
async fn a_response_over_its_limit_is_left_out_of_its_completion() {
    let server = Server::start(&[]);
    let options = RedisStore::options().response_bytes_max(4);
    let store = options.connect(&server.url()).await.unwrap();
    let permit = grant(&store, KEY).await;
    let first = store.complete(&permit, &[b"123", b"45"]).await.unwrap();
    assert_eq!(first.response, None);
    assert_eq!(store.complete(&permit, &[b"123", b"45"]).await.unwrap(), first);
    let Answer::Replay(kept) = claim(&store, KEY).await else { panic!("it completed") };
    assert_eq!(kept, first);
    let permit = grant(&store, key("2")).await;
    let told = store.complete(&permit, &[b"12", b"34"]).await.unwrap();
    assert_eq!(told.response.as_deref(), Some(&b"1234"[..]));
}

#[tokio::test]
async fn a_server_without_memory_refuses_claims_and_keeps_its_word() {
    let server = Server::start(&["maxmemory-policy", "noeviction"]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let done = grant(&store, key("done")).await;
    store.complete(&done, &[b"response"]).await.unwrap();
    let released = grant(&store, key("released")).await;
    store.release(&released).await.unwrap();
    let (open, failed) = (grant(&store, KEY).await, grant(&store, key("failed")).await);
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]);

    for scope in [key("new"), key("released")] {
        let refused = store.claim(scope, body(), LEASE).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
    }
    let Answer::Replay(kept) = claim(&store, key("done")).await else { panic!("it completed") };
    assert_eq!(kept.response.as_deref(), Some(&b"response"[..]));
    let conflict = store.claim(key("done"), Fingerprint::of(b"other"), LEASE).await.unwrap();
    assert!(matches!(conflict, Answer::Conflict(_)));
    assert!(matches!(claim(&store, KEY).await, Answer::InProgress(_)));
    store.renew(&open, LEASE).await.unwrap();
    store.give_up(&failed).await.unwrap();
    let completed = store.complete(&open, &[b"no room for this"]).await.unwrap();
    assert_eq!(completed.response, None, "it ran, and there was no room for more");
    assert!(matches!(claim(&store, KEY).await, Answer::Replay(_)));
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    grant(&store, key("new")).await;
}

#[tokio::test]
async fn a_key_that_somebody_else_wrote_is_damage_never_a_free_scope() {
    let server = Server::start(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let permit = grant(&store, KEY).await;
    let key = only_key(&server);
    let damaged = async |what: &str| {
        let told = store.claim(KEY, body(), LEASE).await;
        let kind = told.as_ref().map_err(RedisError::kind).err();
        assert_eq!(kind, Some(ErrorKind::Corrupt), "{what}: {told:?}");
        let told = store.take_over(KEY, body(), permit.token(), LEASE).await;
        assert!(!matches!(told, Ok(Answer::Granted(_))), "{what}");
    };
    write(&server, &key, 0, &[9]);
    damaged("another version").await;
    write(&server, &key, 0, &[1, 7]);
    damaged("another state").await;
    write(&server, &key, 0, &[1, 1]);
    write(&server, &key, 200, b"more");
    damaged("bytes behind the end").await;
    let run = |name: &str, words: &[&[u8]]| {
        let client = redis::Client::open(server.url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        redis::cmd(name).arg(words).exec(&mut connection).unwrap();
    };
    run("SET", &[&key, b""]);
    damaged("nothing").await;
    run("DEL", &[&key]);
    run("LPUSH", &[&key, b"1"]);
    damaged("a list").await;
    run("DEL", &[&key]);
    grant(&store, KEY).await;
    run("PERSIST", &[&key]);
    damaged("no expiry").await;
}

#[tokio::test]
async fn settings_that_nobody_may_read_promise_the_least_unless_they_are_stated() {
    use oncelog::http::{Evicts, Survives};

    let server = Server::start(&["appendonly", "yes", "appendfsync", "always"]);
    server.ask::<()>(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-config"]);
    let url = server.url().replace("redis://", "redis://app:secret@");
    let promises = RedisStore::connect(&url).await.unwrap().promises();
    assert_eq!((promises.survives, promises.evicts), (Survives::Nothing, Evicts::UnderPressure));
    let stated = RedisStore::options().survives(Survives::PowerLoss).evicts(Evicts::Never);
    let promises = stated.connect(&url).await.unwrap().promises();
    assert_eq!((promises.survives, promises.evicts), (Survives::PowerLoss, Evicts::Never));
}

#[tokio::test]
async fn a_server_that_may_evict_says_so() {
    use oncelog::http::{Evicts, Survives};

    let server = Server::start(&["maxmemory", "100mb", "maxmemory-policy", "allkeys-lru"]);
    let promises = RedisStore::connect(&server.url()).await.unwrap().promises();
    assert_eq!((promises.survives, promises.evicts), (Survives::Nothing, Evicts::UnderPressure));
}
