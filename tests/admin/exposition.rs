//! A strict reader of Prometheus' text format, which refuses what a scraper might misread.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of one metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    /// Name, labels as they are written, and value, in order.
    pub(crate) samples: Vec<(String, String, f64)>,
}

/// The metrics of a text, by name. Wants HELP and TYPE before the samples, each metric in one
/// block, names and labels of the conventional form, finite values, and no sample twice.
pub(crate) fn read(text: &str) -> Result<BTreeMap<String, Family>, String> {
    if !text.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    let mut families = BTreeMap::<String, Family>::new();
    let (mut current, mut seen) = (String::new(), BTreeSet::new());
    for line in text.lines() {
        let wrong = |what: &str| Err(format!("{what}: {line:?}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else { return wrong("no help") };
            if families.contains_key(name) || !is_name(name) {
                return wrong("a second block, or no name");
            }
            current = name.to_owned();
            families.insert(current.clone(), Family { help: help.into(), ..Family::default() });
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return wrong("no type") };
            let family = families.get_mut(&current).filter(|family| family.kind.is_empty());
            let Some(family) = family.filter(|_| name == current) else {
                return wrong("a type without its help");
            };
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return wrong("no known type");
            }
            family.kind = kind.to_owned();
        } else {
            let Some((name, labels, value)) = sample(line) else { return wrong("no sample") };
            let Some(family) = families.get_mut(&current).filter(|family| !family.kind.is_empty())
            else {
                return wrong("a sample without a type");
            };
            let suffixes: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            if !suffixes.iter().any(|suffix| name == format!("{current}{suffix}")) {
                return wrong("a sample of another metric");
            }
            if (family.kind == "counter") != current.ends_with("_total") {
                return wrong("a counter ends in _total, nothing else does");
            }
            if !seen.insert((name.clone(), labels.clone())) {
                return wrong("a sample twice");
            }
            family.samples.push((name, labels, value));
        }
    }
    match families.iter().find(|(_, family)| family.samples.is_empty()) {
        Some((name, _)) => Err(format!("{name} has no sample")),
        None => families.values().try_for_each(check_histogram).map(|()| families),
    }
}

fn sample(line: &str) -> Option<(String, String, f64)> {
    let (head, value) = line.rsplit_once(' ')?;
    let value: f64 = value.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)?;
    let Some((name, labels)) = head.split_once('{') else {
        return is_name(head).then(|| (head.to_owned(), String::new(), value));
    };
    let labels = labels.strip_suffix('}')?;
    let (label, text) = labels.split_once("=\"")?;
    let text = text.strip_suffix('"')?;
    let is_plain = !text.is_empty() && !text.contains(['"', '\\', '\n']);
    (is_name(name) && is_name(label) && is_plain)
        .then(|| (name.to_owned(), labels.to_owned(), value))
}

fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    name.bytes().next().is_some_and(is_letter)
        && name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

/// Buckets in order of their bounds, each with all that is below it, up to all there is.
fn check_histogram(family: &Family) -> Result<(), String> {
    if family.kind != "histogram" {
        return Ok(());
    }
    let of = |suffix: &str| -> Vec<&(String, String, f64)> {
        family.samples.iter().filter(|(name, ..)| name.ends_with(suffix)).collect()
    };
    let buckets = of("_bucket");
    let bound = |labels: &str| -> Option<f64> {
        labels.strip_prefix("le=\"")?.strip_suffix('"')?.replace("+Inf", "inf").parse().ok()
    };
    let bounds: Option<Vec<f64>> = buckets.iter().map(|(_, labels, _)| bound(labels)).collect();
    let bounds = bounds.ok_or("a bucket without a bound")?;
    let counts: Vec<f64> = buckets.iter().map(|(.., value)| *value).collect();
    let is_whole = of("_sum").len() == 1
        && of("_count").len() == 1
        && bounds.last() == Some(&f64::INFINITY)
        && counts.last() == Some(&of("_count")[0].2);
    let is_ordered = bounds.is_sorted_by(|one, next| one < next) && counts.is_sorted();
    if is_whole && is_ordered { Ok(()) } else { Err("a histogram that is not one".into()) }
}

#[test]
fn the_reader_refuses_each_fault_it_is_for() {
    let good = "# HELP a_total Help.\n# TYPE a_total counter\na_total{k=\"x\"} 1\n\
                a_total{k=\"y\"} 2\n\
                # HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 1\n\
                h_bucket{le=\"+Inf\"} 2\n\
                h_sum 0.7\nh_count 2\n";
    assert_eq!(read(good).unwrap().len(), 2);
    let faults = [
        ("# TYPE a_total counter\n", ""),
        ("# HELP a_total Help.\n", ""),
        ("counter", "summary"),
        ("k=\"y\"", "k=\"x\""),
        ("k=\"y\"", "k=y"),
        ("a_total{k=\"y\"} 2", "b_total 2"),
        ("a_total", "a"),
        ("} 1\n", "} NaN\n"),
        ("} 1\n", "} -1\n"),
        ("} 1\n", "}\n"),
        ("a_total", "A_total"),
        ("+Inf", "1"),
        ("le=\"0.5\"} 1", "le=\"0.5\"} 3"),
        ("h_count 2", "h_count 3"),
        ("h_sum 0.7\n", ""),
        ("h_count 2\n", "h_count 2"),
    ];
    for (from, to) in faults {
        let text = good.replace(from, to);
        assert_ne!(text, good, "{from}");
        assert!(read(&text).is_err(), "{from} -> {to}");
    }
}
