//! Tables: one Markdown file and one chart for each row, with medians of the rounds and ratios.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::chart::{Bar, Better, Panel, Role, number, render};
use crate::engines::{Kind, Result};
use crate::measure::median;

pub struct Column {
    pub name: String,
    pub unit: &'static str,
    pub better: Better,
    /// Whether the chart shows it.
    pub charted: bool,
}

pub struct Line {
    pub name: String,
    pub role: Role,
    /// For each column, a value of each round.
    pub values: Vec<Vec<f64>>,
}

pub struct Table {
    id: String,
    pub title: String,
    /// Paragraphs on what was done and how to read it.
    notes: Vec<String>,
    pub columns: Vec<Column>,
    pub lines: Vec<Line>,
    /// The line that the ratios are to.
    reference: String,
}

impl Table {
    pub fn new(id: &str, title: &str) -> Table {
        let (id, title) = (id.to_owned(), title.to_owned());
        let reference = Kind::Oncelog.name().to_owned();
        Table { id, title, notes: vec![], columns: vec![], lines: vec![], reference }
    }

    pub fn note(mut self, note: impl Into<String>) -> Table {
        self.notes.push(note.into());
        self
    }

    pub fn reference(mut self, name: &str) -> Table {
        self.reference = name.to_owned();
        self
    }

    /// A column that is in the chart.
    pub fn chart(self, name: impl Into<String>, unit: &'static str, better: Better) -> Table {
        self.with(Column { name: name.into(), unit, better, charted: true })
    }

    pub fn column(self, name: impl Into<String>, unit: &'static str, better: Better) -> Table {
        self.with(Column { name: name.into(), unit, better, charted: false })
    }

    fn with(mut self, column: Column) -> Table {
        self.columns.push(column);
        self
    }

    /// What one round measured of an engine: a value for each column, NaN where there is none.
    pub fn add(&mut self, kind: Kind, values: &[f64]) {
        let role = match kind {
            Kind::Oncelog => Role::Ours,
            kind if kind.is_bound() => Role::Bound,
            _ => Role::Peer,
        };
        self.add_line(kind.name(), role, values);
    }

    pub fn add_line(&mut self, name: &str, role: Role, values: &[f64]) {
        assert_eq!(values.len(), self.columns.len(), "{}: a value for each column", self.id);
        let at = self.lines.iter().position(|line| line.name == name).unwrap_or_else(|| {
            let values = vec![Vec::new(); values.len()];
            self.lines.push(Line { name: name.to_owned(), role, values });
            self.lines.len() - 1
        });
        for (all, &value) in self.lines[at].values.iter_mut().zip(values) {
            all.push(value);
        }
    }

    /// How much better the reference is than a line: the median of the rounds, and their range.
    fn ratio(&self, line: &Line, column: usize) -> Option<String> {
        let reference = self.lines.iter().find(|line| line.name == self.reference)?;
        let pairs = reference.values[column].iter().zip(&line.values[column]);
        let ratios = pairs.map(|(&ours, &theirs)| match self.columns[column].better {
            Better::Higher => ours / theirs,
            Better::Lower => theirs / ours,
        });
        // A difference can be nothing, or less: there is no ratio to it.
        let ratios: Vec<f64> = ratios.filter(|ratio| ratio.is_finite() && *ratio > 0.0).collect();
        let middle = median(&ratios)?;
        let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ratios.iter().copied().fold(0.0, f64::max);
        Some(match ratios.len() {
            1 => number(middle),
            _ => format!("{} ({} to {})", number(middle), number(low), number(high)),
        })
    }

    fn markdown(&self, machine: &[String]) -> String {
        let mut text = format!("# {}\n\n", self.title);
        self.notes.iter().for_each(|note| text += &format!("{note}\n\n"));
        text += "| engine |";
        for Column { name, unit, better, .. } in &self.columns {
            let arrow = if *better == Better::Higher { "more" } else { "less" };
            write!(text, " {name}, {unit} ({arrow} is better) | ratio |").expect("to a string");
        }
        text += "\n|---|";
        text += &"---:|---:|".repeat(self.columns.len());
        text.push('\n');
        for line in &self.lines {
            let bold = if line.role == Role::Ours { "**" } else { "" };
            write!(text, "| {bold}{}{bold} |", line.name).expect("to a string");
            for column in 0..self.columns.len() {
                let value = self.median(line, column).map_or("-".to_owned(), number);
                let ratio = self.ratio(line, column).unwrap_or_else(|| "-".to_owned());
                write!(text, " {value} | {ratio} |").expect("to a string");
            }
            text.push('\n');
        }
        write!(
            text,
            "\nMedians of {} alternating rounds. A ratio says how many times better {} is than the \
             engine of its line, below 1 that it is worse; behind it, the range of the rounds.\n\n\
             ![{}]({}.svg)\n\n",
            self.rounds(),
            self.reference,
            self.title,
            self.id,
        )
        .expect("to a string");
        machine.iter().for_each(|line| text += &format!("{line}\n\n"));
        text.trim_end().to_owned() + "\n"
    }

    fn rounds(&self) -> usize {
        self.lines.iter().flat_map(|line| &line.values).map(Vec::len).max().unwrap_or(0)
    }

    pub fn median(&self, line: &Line, column: usize) -> Option<f64> {
        let values: Vec<f64> =
            line.values[column].iter().copied().filter(|value| value.is_finite()).collect();
        median(&values)
    }

    /// A panel for each charted column, a bar for each engine that has a value.
    fn panels(&self) -> Vec<Panel> {
        let charted = self.columns.iter().enumerate().filter(|(_, column)| column.charted);
        let panels = charted.map(|(at, column)| {
            let bars = self.lines.iter().filter_map(|line| {
                let (name, role, value) = (line.name.clone(), line.role, self.median(line, at)?);
                Some(Bar { name, role, value })
            });
            let axis = format!("{}, {}", column.name, column.unit);
            Panel { axis, better: column.better, bars: bars.collect() }
        });
        panels.collect()
    }

    /// Writes the table and its chart, and the list of all tables that are there.
    pub fn write(&self, out: &Path, machine: &[String]) -> Result<()> {
        fs::create_dir_all(out)?;
        fs::write(out.join(format!("{}.md", self.id)), self.markdown(machine))?;
        let chart = render(&self.title, &self.panels());
        fs::write(out.join(format!("{}.svg", self.id)), chart)?;
        list(out)?;
        eprintln!("wrote {}.md and its chart", self.id);
        Ok(())
    }
}

fn list(out: &Path) -> Result<()> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(out)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // A row begins with its number.
        if name.ends_with(".md") && name.starts_with(|first: char| first.is_ascii_digit()) {
            let text = fs::read_to_string(out.join(&name))?;
            let title = text.lines().next().unwrap_or_default().trim_start_matches("# ");
            rows.push(format!("- [{title}]({name})\n"));
        }
    }
    rows.sort_by_key(|row| row.split_once('(').map(|(_, name)| name.to_owned()));
    let text = "# oncelog and its peers\n\nMeasured by `benches/peers`. Each row says its machine, \
                versions, date and command.\n\n";
    fs::write(out.join("README.md"), text.to_owned() + &rows.concat())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Better, Role, Table, number};

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(123.4), "123");
        assert_eq!((number(-123.4), number(-1_234.5)), ("-123".into(), "-1,234".into()));
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.123), "0.12");
    }

    #[test]
    fn a_ratio_above_one_says_that_the_reference_is_better() {
        let mut table = Table::new("01-x", "x").chart("rate", "1/s", Better::Higher).chart(
            "time",
            "us",
            Better::Lower,
        );
        table.add_line("oncelog", Role::Ours, &[200.0, 5.0]);
        table.add_line("peer", Role::Peer, &[100.0, 10.0]);
        let text = table.markdown(&[]);
        assert!(text.contains("| peer | 100 | 2.00 | 10.0 | 2.00 |"), "{text}");
        assert!(text.contains("| **oncelog** | 200 | 1.00 | 5.00 | 1.00 |"), "{text}");
    }
}
