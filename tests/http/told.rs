//! What the layer tells those who run it: metrics and their values, log lines and their spans.

use std::io::{Result, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::routing::post;
use oncelog::http::Orphans;
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Instrument as _, Level};

use crate::layer::support::{Api, LEASE_OVER, Layer, door, until};

/// What was logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Log {
    /// Takes what this thread logs, as long as the guard lives.
    fn start(level: Level) -> (Log, tracing::subscriber::DefaultGuard) {
        LazyLock::force(&ANOTHER);
        let log = Log::default();
        let to = log.clone();
        let writes = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
        let subscriber = writes.with_writer(move || to.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines_with(&self, sought: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(sought)).map(str::to_owned).collect()
    }
}

/// While there is one subscriber alone, a thread that has none decides for all what is recorded.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::default()));

/// Sets a flag when it is dropped.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_run_whose_client_hung_up_stays_in_the_spans_of_its_request() {
    for (level, own) in [(Level::DEBUG, true), (Level::INFO, false)] {
        let (log, _guard) = Log::start(level);
        let (door, mut porter) = door();
        let handler = move || async move {
            door.pass().await;
            tracing::info!("the handler goes on");
        };
        let gone = Arc::new(AtomicBool::new(false));
        let drops = Arc::clone(&gone);
        let traced = from_fn(move |request: Request, next: Next| {
            let gone = Gone(Arc::clone(&drops));
            let run = async move {
                let _gone = gone;
                next.run(request).await
            };
            run.instrument(tracing::info_span!("request", number = 7))
        });
        let dir = tempfile::tempdir().unwrap();
        let store = crate::ground::options().open(dir.path()).unwrap();
        let layer = Layer::new(store, crate::layer::support::organization(), Orphans::Hold);
        let router = Router::new().route("/", post(handler)).layer(layer.clone()).layer(traced);
        let router = router.layer(from_fn(crate::layer::support::authenticate));
        let address = crate::layer::support::serve(router).await;
        let client =
            crate::layer::support::Send::new(address, http::Method::POST, "/").key("k").spawn();
        porter.met().await;
        client.abort();
        until("the connection is gone", || gone.load(Ordering::SeqCst)).await;
        porter.let_through();
        until("the run ends", || layer.running() == 0).await;
        let lines = log.lines_with("the handler goes on");
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("request{number=7}"), "{lines:?}");
        assert_eq!(lines[0].contains("idempotency{scope="), own, "{lines:?}");
    }
}

#[tokio::test]
async fn that_nobody_tells_whose_a_key_is_is_logged_once() {
    let (log, _guard) = Log::start(Level::ERROR);
    let api = Api::start(Orphans::Hold, Router::new().route("/", post(|| async {}))).await;
    for _ in 0..3 {
        assert_eq!(api.post("/").bearer("").key("k").send().await.status, 500);
    }
    assert_eq!(log.lines_with("no organization or principal").len(), 1);
}

#[cfg(feature = "metrics")]
mod counted {
    use std::collections::BTreeMap;

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata,
        Recorder, SharedString, Unit,
    };
    use oncelog::http::{Outcome, Policy, record_stats};

    use super::*;
    use crate::layer::support::Runs;

    /// The value of each metric; of a histogram, how many.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<BTreeMap<String, f64>>>);

    impl Seen {
        fn metric(&self, key: &Key) -> Arc<Metric> {
            let labels: Vec<_> =
                key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            Arc::new(Metric(self.clone(), format!("{}{{{}}}", key.name(), labels.join(","))))
        }

        fn value(&self, name: &str) -> f64 {
            self.0.lock().unwrap().get(name).copied().unwrap_or_default()
        }
    }

    impl Recorder for Seen {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.metric(key))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.metric(key))
        }
        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.metric(key))
        }
    }

    struct Metric(Seen, String);

    impl Metric {
        fn change(&self, change: impl FnOnce(&mut f64)) {
            change(self.0.0.lock().unwrap().entry(self.1.clone()).or_default());
        }
    }

    impl CounterFn for Metric {
        fn increment(&self, by: u64) {
            (0..by).for_each(|_| self.change(|value| *value += 1.0));
        }
        fn absolute(&self, _: u64) {
            panic!("the layer counts what it does");
        }
    }

    impl GaugeFn for Metric {
        fn increment(&self, by: f64) {
            self.change(|value| *value += by);
        }
        fn decrement(&self, by: f64) {
            self.change(|value| *value -= by);
        }
        fn set(&self, to: f64) {
            self.change(|value| *value = to);
        }
    }

    impl HistogramFn for Metric {
        fn record(&self, took: f64) {
            assert!(took >= 0.0);
            self.change(|count| *count += 1.0);
        }
    }

    fn counting(runs: &Runs) -> Router {
        let runs = runs.clone();
        Router::new().route("/", post(move || async move { runs.begin().to_string() }))
    }

    #[tokio::test]
    async fn each_metric_has_its_name_and_value() {
        let seen = Seen::default();
        let _guard = metrics::set_default_local_recorder(&seen);
        let api = Api::start(Orphans::Hold, counting(&Runs::default())).await;
        for body in ["one", "one", "another", "one"] {
            api.post("/").key("k").body(body).send().await;
        }
        until("the run ends", || api.layer.running() == 0).await;
        record_stats(&api.store.stats());
        let all = seen.0.lock().unwrap().clone();
        let (of_layer, of_store): (Vec<_>, Vec<_>) =
            all.iter().partition(|(name, _)| name.starts_with("oncelog_http_"));
        let of_layer: Vec<_> = of_layer.iter().map(|(name, value)| (&***name, **value)).collect();
        let expected = [
            ("oncelog_http_claims_total{answer=conflict}", 1.0),
            ("oncelog_http_claims_total{answer=granted}", 1.0),
            ("oncelog_http_claims_total{answer=replay}", 2.0),
            ("oncelog_http_commit_seconds{of=claim}", 1.0),
            ("oncelog_http_commit_seconds{of=complete}", 1.0),
            ("oncelog_http_ends_total{end=completed}", 1.0),
            ("oncelog_http_refusals_total{code=idempotency_conflict}", 1.0),
            ("oncelog_http_runs{}", 0.0),
        ];
        assert_eq!(of_layer, expected);
        let expected = [
            ("conflicts", 1.0),
            ("granted", 1.0),
            ("in_flight", 0.0),
            ("orphans", 0.0),
            ("replayed", 2.0),
            ("responses", 1.0),
        ];
        for (name, value) in expected {
            assert_eq!(all[&format!("oncelog_store_{name}{{}}")], value, "{name}");
        }
        assert_eq!(of_store.len(), 15);
    }

    #[tokio::test]
    async fn the_runs_of_all_layers_are_counted_together() {
        let seen = Seen::default();
        let _guard = metrics::set_default_local_recorder(&seen);
        let (door, mut porter) = door();
        let handler = move || async move { door.pass().await };
        let router = Router::new().route("/", post(handler));
        let apis = [
            Api::start(Orphans::Hold, router.clone()).await,
            Api::start(Orphans::Hold, router).await,
        ];
        let clients = apis.each_ref().map(|api| api.post("/").key("k").spawn());
        porter.met().await;
        porter.met().await;
        assert_eq!(seen.value("oncelog_http_runs{}"), 2.0);
        porter.let_through();
        porter.let_through();
        for client in clients {
            client.await.unwrap();
        }
        until("they end", || apis.iter().all(|api| api.layer.running() == 0)).await;
        assert_eq!(seen.value("oncelog_http_runs{}"), 0.0);
    }

    #[tokio::test]
    async fn a_run_that_is_dropped_before_its_end_is_counted_as_given_up() {
        let seen = Seen::default();
        let _guard = metrics::set_default_local_recorder(&seen);
        let fails = |_: &http::response::Parts| -> Outcome { panic!("fails on purpose") };
        let policy = Policy::builder(Orphans::Hold).classify(fails).build().unwrap();
        let set_up = move |layer: Layer| layer.policy(policy);
        let api = Api::with(Orphans::Hold, set_up, counting(&Runs::default())).await;
        assert!(api.post("/").key("k").try_send().await.is_none(), "the connection breaks");
        assert_eq!(api.store.stats().orphans, 1);
        assert_eq!(seen.value("oncelog_http_ends_total{end=given_up}"), 1.0);
        assert_eq!(seen.value("oncelog_http_runs{}"), 0.0);
    }

    #[tokio::test]
    async fn what_a_take_over_is_answered_is_counted() {
        let seen = Seen::default();
        let _guard = metrics::set_default_local_recorder(&seen);
        let (door, mut porter) = door();
        let handler = move || async move { door.pass().await };
        let api = Api::start(Orphans::Rerun, Router::new().route("/", post(handler))).await;
        let first = api.post("/").key("k").spawn();
        porter.met().await;
        api.pass(LEASE_OVER).await;
        let second = api.post("/").key("k").spawn();
        porter.met().await;
        assert_eq!(seen.value("oncelog_http_claims_total{answer=orphaned}"), 1.0);
        assert_eq!(seen.value("oncelog_http_claims_total{answer=granted}"), 2.0);
        porter.let_through();
        porter.let_through();
        first.await.unwrap();
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_completion_that_the_store_does_not_take_is_counted_and_logged() {
        let seen = Seen::default();
        let _recorder = metrics::set_default_local_recorder(&seen);
        let (log, _guard) = Log::start(Level::ERROR);
        let (door, mut porter) = door();
        let handler = move || async move { door.pass().await };
        let api = Api::start(Orphans::Hold, Router::new().route("/", post(handler))).await;
        let first = api.post("/").key("k").spawn();
        porter.met().await;
        api.store.clone().close().unwrap();
        porter.let_through();
        assert_eq!(first.await.unwrap().status, 200);
        assert_eq!(seen.value("oncelog_http_ends_total{end=not_recorded}"), 1.0);
        assert_eq!(seen.value("oncelog_http_ends_total{end=given_up}"), 0.0, "it ended once");
        assert_eq!(log.lines_with("the end of an attempt was not recorded").len(), 1);
    }
}
