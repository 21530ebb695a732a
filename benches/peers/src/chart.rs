//! Charts: horizontal bars as plain SVG, legible on light and on dark pages.

use crate::report::{Better, Role, Table, number};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 210.0;
const BAR: f64 = 20.0;
const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.axis { fill: #59636e }
.bound { fill: #afb8c1 } .peer { fill: #6e9bd1 } .ours { fill: #d9822b }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .axis { fill: #9198a1 }
  .bound { fill: #545d68 } .peer { fill: #4478b5 } .ours { fill: #e8963f }
}
";

/// A panel for each charted column, a bar for each engine that has a value.
pub fn render(table: &Table) -> String {
    let (mut body, mut y) =
        (format!("<text class=\"title\" x=\"8\" y=\"22\">{}</text>\n", escape(&table.title)), 48.0);
    for (at, column) in table.columns.iter().enumerate().filter(|(_, column)| column.charted) {
        let values = table.lines.iter().filter_map(|line| Some((line, table.median(line, at)?)));
        let bars: Vec<_> = values.collect();
        let max = bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
        let better = if column.better == Better::Higher { "more" } else { "less" };
        body += &format!(
            "<text class=\"axis\" x=\"8\" y=\"{y}\">{}, {} ({better} is better)</text>\n",
            escape(&column.name),
            escape(column.unit),
        );
        y += 10.0;
        for (line, value) in bars {
            let class = match line.role {
                Role::Bound => "bound",
                Role::Peer => "peer",
                Role::Ours => "ours",
            };
            // Room for the number to the right of the longest bar.
            let width = if max > 0.0 { (WIDTH - LEFT - 100.0) * value / max } else { 0.0 };
            body += &format!(
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" \
                 height=\"{:.0}\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\">{}</text>\n",
                LEFT - 8.0,
                y + 13.0,
                escape(&line.name),
                width.max(1.0),
                BAR - 4.0,
                LEFT + width.max(1.0) + 6.0,
                y + 13.0,
                number(value),
            );
            y += BAR;
        }
        y += 26.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" \
         role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n{body}</svg>\n",
        escape(&table.title),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
