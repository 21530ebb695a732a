//! What is printed: aligned fields and tables for people, JSON for programs, from one description.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::failure::{Failure, Outcome};
use crate::time;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Human,
    Json,
}

/// One value, in the unit that it has.
pub(crate) enum Cell {
    Text(String),
    Count(u64),
    Bytes(u64),
    Time(SystemTime),
    Span(Duration),
    Latency(Duration),
    PerSecond(f64),
    /// Unknown, or none.
    Nothing,
}

impl Cell {
    pub(crate) fn text(text: impl ToString) -> Cell {
        Cell::Text(text.to_string())
    }

    pub(crate) fn time(time: Option<SystemTime>) -> Cell {
        time.map_or(Cell::Nothing, Cell::Time)
    }

    fn value(&self) -> Value {
        match self {
            Cell::Text(text) => json!(text),
            Cell::Count(number) | Cell::Bytes(number) => json!(number),
            Cell::Time(at) => json!(time::rfc3339(*at)),
            Cell::Span(span) | Cell::Latency(span) => json!(span.as_secs_f64()),
            Cell::PerSecond(rate) => json!(rate),
            Cell::Nothing => Value::Null,
        }
    }

    fn shown(&self) -> String {
        match self {
            Cell::Text(text) => printable(text),
            Cell::Count(number) => grouped(*number),
            Cell::Bytes(bytes) => sized(*bytes),
            Cell::Time(at) => format!("{} ({})", seconds(*at), time::distance(*at, time::now())),
            Cell::Span(span) => time::span(*span),
            Cell::Latency(span) => time::latency(*span),
            Cell::PerSecond(rate) => format!("{rate:.0}/s"),
            Cell::Nothing => "-".to_owned(),
        }
    }
}

/// One thing: names as JSON has them, and what they hold.
#[derive(Default)]
pub(crate) struct Fields(Vec<(&'static str, Cell)>);

impl Fields {
    pub(crate) fn with(mut self, name: &'static str, cell: Cell) -> Fields {
        self.0.push((name, cell));
        self
    }

    fn object(&self) -> Value {
        let pairs = self.0.iter().map(|(name, cell)| ((*name).to_owned(), cell.value()));
        Value::Object(pairs.collect::<Map<_, _>>())
    }
}

pub(crate) struct Printer {
    format: Format,
    out: BufWriter<StdoutLock<'static>>,
}

impl Printer {
    pub(crate) fn new(format: Format) -> Printer {
        Printer { format, out: BufWriter::with_capacity(64 * 1024, io::stdout().lock()) }
    }

    pub(crate) fn is_human(&self) -> bool {
        self.format == Format::Human
    }

    /// One object; for people, one field a line.
    pub(crate) fn fields(&mut self, fields: &Fields) -> Outcome {
        if self.format == Format::Json {
            return self.line(&fields.object().to_string());
        }
        let label = |name: &str| name.trim_end_matches("_bytes").replace('_', " ");
        let width = fields.0.iter().map(|(name, _)| label(name).len()).max().unwrap_or(0);
        fields.0.iter().try_for_each(|(name, cell)| {
            self.line(&format!("{:width$}  {}", label(name), cell.shown()))
        })
    }

    pub(crate) fn line(&mut self, line: &str) -> Outcome {
        writeln!(self.out, "{line}").map_err(Failure::Output)
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Outcome {
        self.out.write_all(bytes).map_err(Failure::Output)
    }

    pub(crate) fn finish(&mut self) -> Outcome {
        self.out.flush().map_err(Failure::Output)
    }
}

/// Many things, printed as they come: one object a line, or a table whose widths are those of its
/// first rows. A wider cell pushes the rest of its row to the right, and is never cut.
pub(crate) struct Table<'a> {
    printer: &'a mut Printer,
    heads: &'static [&'static str],
    /// Rows that wait until the widths are known.
    first: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

/// So many rows are looked at before the first is printed.
const ROWS_FIRST: usize = 200;
/// One long name does not make a column wider than this.
const WIDTH_MAX: usize = 32;

impl<'a> Table<'a> {
    pub(crate) fn new(printer: &'a mut Printer, heads: &'static [&'static str]) -> Table<'a> {
        Table { printer, heads, first: Vec::new(), widths: None }
    }

    /// `row` for people, `object` for programs.
    pub(crate) fn row(
        &mut self,
        row: impl FnOnce() -> Vec<String>,
        object: impl FnOnce() -> Fields,
    ) -> Outcome {
        if self.printer.format == Format::Json {
            return self.printer.line(&object().object().to_string());
        }
        let row: Vec<String> = row().iter().map(|cell| printable(cell)).collect();
        if self.widths.is_some() {
            return self.print(&row);
        }
        self.first.push(row);
        if self.first.len() == ROWS_FIRST { self.print_first() } else { Ok(()) }
    }

    pub(crate) fn end(mut self) -> Outcome {
        if self.widths.is_none() && !self.first.is_empty() { self.print_first() } else { Ok(()) }
    }

    fn print_first(&mut self) -> Outcome {
        let rows = std::mem::take(&mut self.first);
        let heads: Vec<String> = self.heads.iter().map(|head| head.to_uppercase()).collect();
        let all = || std::iter::once(&heads).chain(&rows);
        let width = |column: usize| all().map(|row| row[column].chars().count()).max();
        let widths = (0..heads.len()).map(|column| width(column).unwrap_or(0).min(WIDTH_MAX));
        self.widths = Some(widths.collect());
        self.print(&heads)?;
        rows.iter().try_for_each(|row| self.print(row))
    }

    fn print(&mut self, row: &[String]) -> Outcome {
        let widths = self.widths.as_deref().unwrap_or_default();
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        self.printer.line(line.trim_end())
    }
}

/// Keys are their clients' bytes: none of them moves the cursor of a terminal or hides another.
pub(crate) fn printable(text: &str) -> String {
    let harmless = |letter: char| {
        let is_format = matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}');
        !letter.is_control() && !is_format
    };
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if harmless(letter) { shown.push(letter) } else { shown.extend(letter.escape_unicode()) }
    }
    shown
}

/// A time without its milliseconds.
pub(crate) fn seconds(at: SystemTime) -> String {
    let whole = time::rfc3339(at);
    format!("{}Z", whole.split('.').next().unwrap_or_default())
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

pub(crate) fn sized(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = if unit == "bytes" || value >= 100.0 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators_and_units() {
        let numbers = [0, 999, 1_000, 10_000_000].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "10,000,000"]);
        let sizes = [0, 1023, 1024, 3_865_470_566, 1 << 50].map(sized);
        assert_eq!(sizes, ["0 bytes", "1023 bytes", "1.0 KiB", "3.6 GiB", "1024.0 TiB"]);
    }

    #[test]
    fn no_key_reaches_the_terminal_as_more_than_letters() {
        assert_eq!(printable("order-1 caf\u{e9}"), "order-1 caf\u{e9}");
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(printable("\u{202e}gnp"), "\\u{202e}gnp");
    }
}
