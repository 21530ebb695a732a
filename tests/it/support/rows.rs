//! The row of a table that says which job found a fault, how fast, and by what.

/// What a job that failed says, as a row: `| fault | job | seconds of its tests | what it found |`.
pub(crate) fn row(fault: &str, job: &str, text: &str, found: &str) -> String {
    let found: String = found.trim().replace('|', "/").chars().take(FOUND_CHARS).collect();
    format!("| {fault} | `{job}` | {:.1} | {found} |", seconds(text))
}

const FOUND_CHARS: usize = 100;

/// How long the tests took, without their build, as the last line of the job says.
fn seconds(text: &str) -> f64 {
    let took = text.rsplit_once("finished in ").and_then(|(_, took)| took.split_once('s'));
    let took = took.and_then(|(took, _)| took.parse().ok());
    took.unwrap_or_else(|| panic!("it failed before it had run:\n{text}"))
}

/// The line that says what was found first.
pub(crate) fn reason(text: &str) -> &str {
    let found = text.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
    found.unwrap_or_else(|| panic!("it failed for another reason:\n{text}"))
}
