//! The figures as Prometheus reads them: text exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write as _;

use axum::body::Body;
use axum::extract::State;
use http::Response;

use crate::admin::Shared;
use crate::admin::figures::{Figure, Kind, figures};
use crate::admin::problem::Problem;
use crate::admin::read::{blocking, document};
use crate::stats::CommitLatency;

const COMMITS: &str = "oncelog_store_commit_duration_seconds";
const OPEN: &str = "oncelog_store_open";

pub(crate) async fn metrics(State(context): State<Shared>) -> Result<Response<Body>, Problem> {
    let text = blocking(&context, |context| {
        let store = &context.store;
        let mut text = exposition(&figures(&store.stats()));
        push_open(&mut text, store.check_open().is_ok().into());
        push_latency(&mut text, &store.commit_latency());
        Ok(text)
    });
    Ok(document("text/plain; version=0.0.4; charset=utf-8", text.await?))
}

fn exposition(figures: &[Figure]) -> String {
    let (mut text, mut told) = (String::new(), "");
    for Figure { metric, label, kind, help, value, .. } in figures {
        if told != *metric {
            push_head(
                &mut text,
                metric,
                if *kind == Kind::Counter { "counter" } else { "gauge" },
                help,
            );
            told = metric;
        }
        let label = label.map(|(name, value)| format!("{{{name}=\"{value}\"}}"));
        push_line(&mut text, &format!("{metric}{} {value}", label.unwrap_or_default()));
    }
    text
}

fn push_line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes any text");
}

fn push_head(text: &mut String, metric: &str, kind: &str, help: &str) {
    push_line(text, &format!("# HELP {metric} {help}"));
    push_line(text, &format!("# TYPE {metric} {kind}"));
}

fn push_open(text: &mut String, value: u64) {
    push_head(text, OPEN, "gauge", "Whether the store is neither closed nor poisoned, 0 or 1.");
    push_line(text, &format!("{OPEN} {value}"));
}

fn push_latency(text: &mut String, latency: &CommitLatency) {
    push_head(text, COMMITS, "histogram", "How long the commit of a batch of records took.");
    let mut below = 0;
    for (longest, count) in latency.buckets() {
        below += count;
        let bound = longest.map_or("+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
        push_line(text, &format!("{COMMITS}_bucket{{le=\"{bound}\"}} {below}"));
    }
    push_line(text, &format!("{COMMITS}_sum {}", latency.total().as_secs_f64()));
    push_line(text, &format!("{COMMITS}_count {below}"));
}
